"""Classes of transformers that join encoders and a language model, as data, and what a configuration of one says.

To add a class, add a row to `JOINED`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt
from typing import Any, NamedTuple

from vlm_probe.errors import VlmProbeError
from vlm_probe.hooked.families import VisionFamily, families_of, row, vision_family
from vlm_probe.inputs.prompts import IMAGE
from vlm_probe.inputs.token_types import TokenTypes
from vlm_probe.layout.patch_grid import PatchGrid


@dataclass(frozen=True)
class Connector:
    """What stands between encoder and language model, and which of its modules feed which points of `names.CONNECTOR`;
    its input is `hook_in`, its output `hook_out`."""

    outputs: tuple[tuple[str, str], ...] = ()
    """(point, module whose output it is), relative to the connector."""
    inputs: tuple[tuple[str, str], ...] = ()
    """(point, module whose input it is)."""
    norm: str | None = None
    """An RMSNorm of (1 + weight), for `ln.*`."""

    @property
    def points(self) -> tuple[str, ...]:
        """The names of its points."""
        own = [name for name, _ in (*self.outputs, *self.inputs)]
        return ("hook_in", *own, *(("ln.hook_scale", "ln.hook_normalized") if self.norm else ()), "hook_out")


@dataclass(frozen=True)
class Joined:
    """A class of transformers that joins an encoder and a language model."""

    title: str
    """What people call it."""
    connector: Connector | dict[str, Connector]
    """Of several kinds by what its configuration calls `projector_type`."""
    selects: bool = False
    """Its configuration says which layer of the encoder is read, and whether without CLS; else `reads` does."""
    reads: int = 0
    """Which layer's output is read, from the last: behind the encoder's own norm (0), or without it (-2)."""
    patches_alone: bool = False
    """CLS and registers are left out."""
    encoders: str | None = None
    """The list of encoders, relative to what transformers calls the vision tower, where there may be several."""
    prompt: str | None = None
    """Where it is not asked as its language model's family is."""
    image_text: str = IMAGE
    """What stands for one image in a prompt's text, `<image>` for its positions in it."""
    mark: str = IMAGE
    """What stands for one image where a chat template writes it."""
    types: TokenTypes | None = None
    """Where positions look both ways."""
    varies: bool = False
    """How images were treated in training hangs on the language model (`LanguageFamily`)."""
    tokens: str | None = None
    """The field of its configuration that counts an image's positions, where patches are pooled."""
    resolutions: str | None = None
    """The field that lists resolutions, where pictures are cut into tiles."""


_GEMMA3_PROMPT = "{bos}<start_of_turn>user\n{images}{question}<end_of_turn>\n<start_of_turn>model\n"

_TWO_LAYERS = Connector(outputs=(("hook_pre", "linear_1"),), inputs=(("hook_post", "linear_2"),))

JOINED: dict[str, Joined] = {
    "llava": Joined("LLaVA", _TWO_LAYERS, selects=True, varies=True),
    "llava_next": Joined("LLaVA-NeXT (1.6)", _TWO_LAYERS, selects=True, resolutions="image_grid_pinpoints"),
    "paligemma": Joined(
        "PaliGemma, PaliGemma 2",
        Connector(),
        prompt="{images}{bos}{question}\n",
        types=TokenTypes("prompt", text=0, image=0, answer=1),
    ),
    "prismatic": Joined(
        "Prismatic, its encoders one or two",
        {
            "linear": Connector(),
            "gelu-mlp": _TWO_LAYERS,
            "fused-gelu-mlp": Connector(
                outputs=(("hook_pre", "linear_1"), ("hook_pre_2", "linear_2")),
                inputs=(("hook_post", "linear_2"), ("hook_post_2", "linear_3")),
            ),
        },
        prompt="{bos}{images}In: {question}\nOut:",
        reads=-2,
        patches_alone=True,
        encoders="towers",
    ),
    "gemma3": Joined(
        "Gemma 3 with its encoder",
        Connector(inputs=(("hook_pooled", "mm_soft_emb_norm"),), norm="mm_soft_emb_norm"),
        prompt=_GEMMA3_PROMPT,
        image_text=f"\n\n<start_of_image>{IMAGE}<end_of_image>\n\n",
        mark="<start_of_image>",
        types=TokenTypes("image", text=0, image=1, answer=0),
        tokens="mm_tokens_per_image",
    ),
}
"""By the configuration's model_type."""


def joined_of(config: Any) -> Joined | None:
    """The row of a model's class; None for a language model alone, VlmProbeError for a class without one."""
    if getattr(config, "vision_config", None) is None:
        return None
    return row(JOINED, config.model_type, "a model")


class Encoder(NamedTuple):
    """One of a model's encoders."""

    family: VisionFamily
    config: Any
    path: str
    """Its module, relative to the model below the output layer."""


def encoders_of(config: Any) -> dict[str, Encoder]:
    """A model's encoders by their part: "vision", or "vision.0" and so on; nothing for a language model alone.

    Raises VlmProbeError for a family without a row.
    """
    joined = joined_of(config)
    if joined is None:
        return {}
    sights = getattr(config, "vision_configs", None) or [config.vision_config]
    below = "vision_tower" if joined.encoders is None else f"vision_tower.{joined.encoders}"
    paths = [below] if joined.encoders is None else [f"{below}.{number}" for number in range(len(sights))]
    parts = ["vision"] if len(sights) == 1 else [f"vision.{number}" for number in range(len(sights))]
    return {
        part: Encoder(vision_family(sight), sight, path) for part, sight, path in zip(parts, sights, paths, strict=True)
    }


def connector_of(config: Any) -> Connector | None:
    """The row of a model's connector; None for a language model alone."""
    joined = joined_of(config)
    if joined is None:
        return None
    return joined.connector if isinstance(joined.connector, Connector) else joined.connector[config.projector_type]


def states_read(config: Any, asked: int | list[int] | None, layers: int) -> list[int]:
    """Which of an encoder's hidden states the connector is given; 0 is what enters the first layer.

    asked: what a call asks for, where a class lets it (`vision_feature_layer`); None takes the configuration's.
    layers: of the encoder. Raises VlmProbeError for states that it does not have.
    """
    joined = joined_of(config)
    if asked is not None and not (joined and joined.selects):
        raise VlmProbeError(f"a {config.model_type} model takes no argument 'vision_feature_layer'")
    if joined is None or not joined.selects:
        return [-1 if joined is None or not joined.reads else joined.reads]
    chosen: Any = config.vision_feature_layer if asked is None else asked
    states, n = chosen if isinstance(chosen, list) else [chosen], layers
    if not all(-n - 1 <= s <= n and s != 0 for s in states):  # transformers takes 0 for none
        said = f"from {-n - 1} to {n} for {n} layers, and not 0 ({-n - 1} is the same), got {chosen!r}"
        raise VlmProbeError(f"vision_feature_layer must be {said}")
    return states


@dataclass(frozen=True)
class Habits:
    """How images were treated where checkpoints of a kind were trained."""

    scales: bool = False
    """Image rows were multiplied as token rows are."""
    pads: bool = False
    """Images were padded to a square."""


def habits_of(config: Any) -> Habits:
    """By the class; of LLaVA, whose training varied, by its language model."""
    joined, (_, language) = joined_of(config), families_of(config)
    if joined is None or not joined.varies:
        return Habits()
    return Habits(language.scales_images, language.pads_images)


def patch_grid(config: Any) -> PatchGrid | None:
    """The geometry of a model's images, of its configuration alone; None for a language model alone.

    Raises VlmProbeError as `families_of` and `PatchGrid` do.
    """
    joined, encoders = joined_of(config), encoders_of(config)
    if joined is None:
        return None
    sight = config.vision_config
    leading, *more = (one.family.leading(one.config) for one in encoders.values())
    side = sight.image_size // sight.patch_size
    drops_cls = joined.selects and config.vision_feature_select_strategy == "default"
    dropped = leading if joined.patches_alone else int(drops_cls)
    pooled = 1 if joined.tokens is None else side // isqrt(getattr(config, joined.tokens))
    sizes = () if joined.resolutions is None else tuple((h, w) for h, w in getattr(config, joined.resolutions))
    return PatchGrid(sight.patch_size, leading, leading - dropped, pooled, tuple(more), sight.image_size, sizes)


def connector_width(config: Any) -> int:
    """Numbers a row has in a connector's first hidden layer."""
    sights = [one.config for one in encoders_of(config).values()]
    fused = getattr(config, "projector_type", None) == "fused-gelu-mlp"
    return 4 * sum(one.hidden_size for one in sights) if fused else config.get_text_config().hidden_size
