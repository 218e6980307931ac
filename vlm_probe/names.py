"""What activations are called and which dimensions they have (TransformerLens's names behind `vision.`,
`connector.` or `language.`), as data: a hook point is one line here, and one in `hooked.wiring` that feeds it.
"""

from __future__ import annotations

Dims = tuple[str, ...]

PARTS = ("vision", "connector", "language")
"""What a name begins with: the part of the model it belongs to. Of several encoders side by side each is a part of its
own, `vision.0` and `vision.1`, so that `vision.*` still names all that is seen."""

RESIDUAL: Dims = ("batch", "position", "d_model")
HEADS: Dims = ("batch", "position", "head", "d_head")
SCORES: Dims = ("batch", "head", "query", "key")
MLP: Dims = ("batch", "position", "d_mlp")

BLOCK: dict[str, Dims] = {
    "hook_resid_pre": RESIDUAL,
    "attn.hook_q": HEADS,
    "attn.hook_k": HEADS,
    "attn.hook_v": HEADS,
    "attn.hook_rot_q": HEADS,
    "attn.hook_rot_k": HEADS,
    "attn.hook_attn_scores": SCORES,
    "attn.hook_pattern": SCORES,
    "attn.hook_z": HEADS,
    "hook_attn_out": RESIDUAL,
    "hook_resid_mid": RESIDUAL,
    "mlp.hook_pre": MLP,
    "mlp.hook_post": MLP,
    "hook_mlp_out": RESIDUAL,
    "hook_resid_post": RESIDUAL,
}
"""Of every transformer block, behind `blocks.{layer}.`; `hook_rot_q` and `hook_rot_k` where positions are rotary,
`hook_resid_mid` where the MLP follows attention (Phi's runs beside it)."""
ROTARY = ("attn.hook_rot_q", "attn.hook_rot_k")

VISION: dict[str, Dims] = {"hook_embed": RESIDUAL}
LANGUAGE: dict[str, Dims] = {
    "hook_embed": RESIDUAL,
    "ln_final.hook_scale": ("batch", "position", "one"),
    "ln_final.hook_normalized": RESIDUAL,
    "hook_logits": ("batch", "position", "vocabulary"),
}
CONNECTOR: dict[str, Dims] = {
    "hook_in": ("batch", "patch", "d_vision"),
    "hook_pre": ("batch", "patch", "d_hidden"),
    "hook_post": ("batch", "patch", "d_hidden"),
    "hook_pre_2": ("batch", "patch", "d_model"),
    "hook_post_2": ("batch", "patch", "d_model"),
    "hook_pooled": ("batch", "patch", "d_vision"),
    "ln.hook_scale": ("batch", "patch", "one"),
    "ln.hook_normalized": ("batch", "patch", "d_vision"),
    "hook_out": ("batch", "patch", "d_model"),
}
"""Of every connector `hook_in` and `hook_out`; of one with a hidden layer `hook_pre` and `hook_post`, with a second one
`hook_pre_2` and `hook_post_2`, of one that pools patches what follows (Gemma 3)."""


def part_of(name: str) -> str:
    """The part that a hook point belongs to, or a part itself.

    >>> part_of("language.blocks.3.attn.hook_q"), part_of("vision.hook_embed"), part_of("vision.1.hook_embed")
    ('language', 'vision', 'vision.1')
    """
    first, *rest = name.split(".")
    return f"{first}.{rest[0]}" if rest and rest[0].isdigit() else first


def dimensions(name: str) -> Dims:
    """Dimension names of the activation at a hook point, in order.

    >>> dimensions("vision.blocks.3.hook_resid_post")
    ('batch', 'position', 'd_vision')
    >>> dimensions("language.blocks.0.attn.hook_pattern")
    ('batch', 'head', 'query', 'key')
    """
    part, rest = part_of(name), name.removeprefix(f"{part_of(name)}.")
    if part == "connector":
        return CONNECTOR[rest]
    if rest.startswith("blocks."):
        dims = BLOCK[rest.split(".", 2)[2]]
    else:
        dims = (LANGUAGE if part == "language" else VISION)[rest]
    return tuple("d_vision" if d == "d_model" and part != "language" else d for d in dims)


def sequence_axis(name: str) -> int:
    """The axis along which an activation is a sequence: of positions, in attention of queries, in the connector of
    patches.

    >>> sequence_axis("language.blocks.0.attn.hook_rot_q"), sequence_axis("language.blocks.0.attn.hook_pattern")
    (1, 2)
    """
    return next(i for i, dim in enumerate(dimensions(name)) if dim in ("position", "query", "patch"))


def layer_of(name: str) -> int | None:
    """The layer a hook point belongs to, None where it is in no block.

    >>> layer_of("language.blocks.3.attn.hook_q"), layer_of("connector.hook_out")
    (3, None)
    """
    rest = name.removeprefix(f"{part_of(name)}.").split(".")
    return int(rest[1]) if rest[0] == "blocks" else None
