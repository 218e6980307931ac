"""Direct logit attribution: what each part of the language model itself adds to a logit.

Elhage et al. 2021 ("A mathematical framework for transformer circuits"); nostalgebraist's logit lens (2020) reads the
sum that is taken apart here. The residual stream in front of the final norm is a sum, of the row that block 0 receives
and of what every attention and MLP added. With the norm's scale held at what it is, norm and unembedding are linear:

    logit_t = sum over parts of (part / scale * gain) . W_U[t] (+ bias_t)

Here gain is (1 + weight) in Gemma and the weight elsewhere. Post-norms (Gemma 2 and 3) are within what attention and
MLP add; among heads, which one post-norm mixes, its scale is held likewise. What is attributed is `hook_logits`: what
the output layer gives, before Gemma 2's soft cap.

"Direct" is all that it says: what a head does through later layers is not in its part (`attribution_patching` has it).
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vlm_probe.errors import VlmProbeError
from vlm_probe.files import writable
from vlm_probe.hooked import HookedVLM, anatomy
from vlm_probe.hooked.targets import target_token
from vlm_probe.inputs.model_inputs import ModelInputs

Targets = int | str | None | Sequence[int | str | None]
"""Token ids or texts (the token that begins it behind the prompt): one for all examples, or one an example."""


def tokens_of(
    model: HookedVLM, targets: Targets, logits: Float[Tensor, "example vocabulary"], what: str = "targets"
) -> Int[Tensor, " example"]:
    """The token of every example that `targets` names; of None the most probable one.

    Raises VlmProbeError as `target_token` does, and for another number of targets than of examples.
    """
    each = [targets] * len(logits) if targets is None or isinstance(targets, int | str) else list(targets)
    if len(each) != len(logits):
        raise VlmProbeError(f"there are {len(each)} {what} and {len(logits)} examples; give one, or one an example")
    found = [target_token(model, one, row) for one, row in zip(each, logits, strict=True)]
    return torch.tensor(found, device=logits.device)


@torch.no_grad()
def direct_logit_attribution(
    model: HookedVLM,
    inputs: ModelInputs,
    *,
    target: Targets = None,
    against: Targets = None,
    by: str = "head",
    position: int | None = None,
) -> pd.DataFrame:
    """Take a logit apart into what the embedding and every layer's attention (or head) and MLP add to it directly.

    Parameters
    ----------
    inputs: one example or a batch.
    target: whose logit; None takes each example's most probable token.
    against: of which token the logit is subtracted: the parts are then those of the logit difference.
    by: "head" gives a row for every head, "layer" one for the layer's attention. Where the output projection has a
        bias, "head" has one more row a layer for it.
    position: whose logits; the answer position if None, else the same position of every example.

    Returns
    -------
    DataFrame with a row for every example and part: example, part ("embed", "attn", "head", "attn bias", "mlp", "bias"
    of the final norm and the output layer, where they have one), layer and head (-1 where a part has none), value in
    logits, and logit: the example's logit (difference) as the model computed it, to which its values sum. `attrs` holds
    the final norm's scale that was held ("scale.0" of the first example), the targets and the positions.

    Raises
    ------
    VlmProbeError: an unknown target, another number of targets than examples, a position that is not there or is
    padding, an unknown `by`.
    """
    if by not in ("layer", "head"):
        raise VlmProbeError(f"by must be 'layer' or 'head', got {by!r}")
    at = _positions(inputs, position)
    depth = model.layers["language"]
    parts = ("attn.hook_z" if by == "head" else "hook_attn_out", "hook_mlp_out")
    names = ["language.hook_embed", "language.ln_final.hook_scale", "language.hook_logits"]
    names += [f"language.blocks.{layer}.{part}" for layer in range(depth) for part in parts]
    # Of the logits only those from the first asked position on.
    kept = inputs.input_ids.shape[1] - int(at.min())
    _, cache = model.run_with_cache(inputs, names_filter=names, logits_to_keep=kept)

    examples = torch.arange(len(inputs), device=at.device)

    def rows(name: str) -> Tensor:
        return cache[name][examples, at].float()

    logits = cache["language.hook_logits"][examples, at - at.min()].float()
    tokens = tokens_of(model, target, logits)
    others = None if against is None else tokens_of(model, against, logits, "tokens to subtract")
    scale = rows("language.ln_final.hook_scale")
    readout = _readout(model, tokens) - (0 if others is None else _readout(model, others))
    readout, constant = anatomy.through_norm(model, anatomy.final_norm(model), readout, scale)

    found: list[tuple[str, int, int, Tensor]] = []

    def add(part: str, layer: int, head: int, row: Float[Tensor, "example d_model"]) -> None:
        found.append((part, layer, head, (row.float() * readout).sum(-1)))

    add("embed", -1, -1, rows("language.hook_embed"))
    for layer in range(depth):
        block = f"language.blocks.{layer}"
        if by == "layer":
            add("attn", layer, -1, rows(f"{block}.hook_attn_out"))
        else:
            z = cache[f"{block}.attn.hook_z"][examples, at][:, None]
            heads, bias = anatomy.heads_add(model, layer, z)
            for head in range(heads.shape[2]):
                add("head", layer, head, heads[:, 0, head])
            if bias.any():
                add("attn bias", layer, -1, bias[:, 0])
        add("mlp", layer, -1, rows(f"{block}.hook_mlp_out"))
    own = anatomy.head_bias(model)
    if own is not None:
        constant = constant + own[tokens].float() - (0 if others is None else own[others].float())
    if constant.any():
        found.append(("bias", -1, -1, constant))

    whole = (logits[examples, tokens] - (0 if others is None else logits[examples, others])).tolist()
    table = pd.DataFrame(
        [
            {"example": i, "part": part, "layer": layer, "head": head, "value": float(values[i]), "logit": whole[i]}
            for i in range(len(inputs))
            for part, layer, head, values in found
        ]
    )
    table.attrs |= _attrs(model, inputs, tokens, others, at, scale)
    return table


def _positions(inputs: ModelInputs, position: int | None) -> Int[Tensor, " example"]:
    device = inputs.input_ids.device
    if position is None:
        return torch.tensor([layout.answer_position for layout in inputs.layouts], device=device)
    length = inputs.input_ids.shape[1]
    if not 0 <= position < length:
        raise VlmProbeError(f"position must be between 0 and {length - 1}, got {position}")
    if not inputs.attention_mask[:, position].all():
        raise VlmProbeError(f"position {position} is padding in an example")
    return torch.full((len(inputs),), position, device=device)


def _readout(model: HookedVLM, tokens: Int[Tensor, " example"]) -> Float[Tensor, "example d_model"]:
    return anatomy.unembedding(model)[tokens].float()


def _attrs(
    model: HookedVLM, inputs: ModelInputs, tokens: Tensor, others: Tensor | None, at: Tensor, scale: Tensor
) -> dict[str, object]:
    attrs = {
        "title": "What adds to the logit" + (" difference" if others is not None else ""),
        "units": "logits",
        "method": "direct logit attribution, the final norm's and post-norms' scales held; logits before a soft cap",
        "citation": "Elhage et al. 2021, A mathematical framework for transformer circuits",
        "target": tokens.tolist(),
        "against": None if others is None else others.tolist(),
        "position": at.tolist(),
        "scale": scale[:, 0].tolist(),
        "prompts": list(inputs.prompts),
        **model.provenance(),
    }
    return writable(attrs)
