"""Model families as data: ONE row a family says where its modules are, how it is asked and what it scales.

To add a family, add a row to `VISION` or `LANGUAGE`; to add a class that joins two, one to `joined.JOINED`. No class is
subclassed, and nothing else knows families.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

from torch import nn

from vlm_probe.errors import VlmProbeError


@dataclass(frozen=True)
class Blocks:
    """Where a tower keeps the modules that hook points are fed from; paths relative to a layer, but for `layers`."""

    layers: str
    """The list of layers, relative to the tower."""
    attention: tuple[str, ...]
    """The attention module that calls the attention function; first that exists."""
    attn_out: str
    """Its output is what attention adds to the residual stream."""
    mid: str | None
    """Its input is the residual stream between attention and MLP; None where they run side by side on one input."""
    mlp_in: tuple[str, ...]
    """Its output is the MLP's pre-activation (of the gate, where there is one); first that exists."""
    mlp_down: tuple[str, ...]
    """Its input is the MLP's hidden activation; first that exists."""
    mlp_out: str
    """Its output is what the MLP adds to the residual stream."""
    qkv: tuple[tuple[str, ...], ...] = (("q_proj",), ("k_proj",), ("v_proj",))
    """The projections to queries, keys and values, relative to the attention module; first that exists of each."""

    @property
    def absent(self) -> tuple[str, ...]:
        """Points of a block (`names.BLOCK`) that its layers do not have."""
        return ("hook_resid_mid",) if self.mid is None else ()


@dataclass(frozen=True)
class VisionFamily:
    """A vision encoder."""

    title: str
    """What people call it."""
    blocks: Blocks
    cls: bool = True
    """A CLS token stands before the patches."""
    any_size: bool = False
    """It takes pictures of other sizes than it was trained on."""
    registers: str | None = None
    """The field of its configuration that counts register tokens, which stand between CLS and patches."""

    def leading(self, config: Any) -> int:
        """How many rows of its activations stand before the patches."""
        return int(self.cls) + (0 if self.registers is None else int(getattr(config, self.registers)))


@dataclass(frozen=True)
class LanguageFamily:
    """A language model, and how LLaVA checkpoints made with it were trained."""

    title: str
    """What people call it."""
    blocks: Blocks
    prompt: str
    """The text around images and question, with {bos}, {images} and {question}."""
    norm: str = "norm"
    """The norm after the last layer, relative to the tower: an RMSNorm or a LayerNorm."""
    norm_before: str = "input_layernorm"
    """The norm between the residual stream and attention, relative to a layer."""
    output: str = "o_proj"
    """The projection from heads to what attention adds, relative to the attention module."""
    norm_offset: float = 0.0
    """The RMSNorm multiplies by (offset + weight)."""
    scales_tokens: bool = False
    """Token embeddings are multiplied by sqrt(d_model)."""
    scales_images: bool = False
    """Checkpoints of this family were trained with image rows multiplied likewise."""
    pads_images: bool = False
    """They were trained on images padded to a square."""


_CLIP = Blocks(
    layers="encoder.layers",
    attention=("self_attn",),
    attn_out="self_attn",
    mid="layer_norm2",
    mlp_in=("mlp.fc1",),
    mlp_down=("mlp.fc2",),
    mlp_out="mlp",
)
_DINOV2 = Blocks(
    layers="encoder.layer",
    # transformers before 5.18 had the second names.
    attention=("attention.attention", "attention"),
    qkv=(("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value")),
    attn_out="layer_scale1",
    mid="norm2",
    mlp_in=("mlp.fc1", "mlp.gate_proj"),
    mlp_down=("mlp.fc2", "mlp.down_proj"),
    mlp_out="layer_scale2",
)
_LLAMA = Blocks(
    layers="layers",
    attention=("self_attn",),
    attn_out="self_attn",
    mid="post_attention_layernorm",
    mlp_in=("mlp.gate_proj",),
    mlp_down=("mlp.down_proj",),
    mlp_out="mlp",
)
# Gemma 2 and 3 also normalise what attention and MLP add ("sandwich").
_SANDWICH = Blocks(
    layers=_LLAMA.layers,
    attention=_LLAMA.attention,
    attn_out="post_attention_layernorm",
    mid="pre_feedforward_layernorm",
    mlp_in=_LLAMA.mlp_in,
    mlp_down=_LLAMA.mlp_down,
    mlp_out="post_feedforward_layernorm",
)
# Phi adds what attention and MLP make of one normalised input.
_PARALLEL = Blocks(
    layers=_LLAMA.layers,
    attention=_LLAMA.attention,
    attn_out="self_attn",
    mid=None,
    mlp_in=("mlp.fc1",),
    mlp_down=("mlp.fc2",),
    mlp_out="mlp",
)
# LLaVA-Gemma's training prompt: one BOS, no system text.
_GEMMA_PROMPT = "{bos}<start_of_turn>user\n{images}\n{question}<end_of_turn>\n<start_of_turn>model\n"
# LLaVA-1.5 as published for transformers.
_LLAMA_PROMPT = "{bos}USER: {images}\n{question} ASSISTANT:"
# LLaVA-Interleave's; Qwen2 has no BOS token.
_QWEN2_PROMPT = "<|im_start|>user\n{images}\n{question}<|im_end|>\n<|im_start|>assistant\n"
# Mistral's own turns, as LLaVA-1.6-Mistral was trained with.
_MISTRAL_PROMPT = "{bos}[INST] {images}\n{question} [/INST]"
# LLaVA-Phi's, without its system text; Phi's tokenizer adds no BOS.
_PHI_PROMPT = "USER: {images}\n{question} ASSISTANT:"

VISION: dict[str, VisionFamily] = {
    "clip_vision_model": VisionFamily("CLIP", _CLIP),
    "dinov2": VisionFamily("DINOv2", _DINOV2, any_size=True),
    "dinov2_with_registers": VisionFamily(
        "DINOv2 with registers", _DINOV2, any_size=True, registers="num_register_tokens"
    ),
    # SigLIP 2 at one resolution has this type too. The head that pools its patches feeds nothing in LLaVA.
    "siglip_vision_model": VisionFamily("SigLIP, and SigLIP 2 at one resolution", _CLIP, cls=False),
}
"""By the configuration's model_type."""
LANGUAGE: dict[str, LanguageFamily] = {
    "gemma": LanguageFamily(
        "Gemma", _LLAMA, _GEMMA_PROMPT, norm_offset=1.0, scales_tokens=True, scales_images=True, pads_images=True
    ),
    "gemma2": LanguageFamily(
        "Gemma 2", _SANDWICH, _GEMMA_PROMPT, norm_offset=1.0, scales_tokens=True, scales_images=True, pads_images=True
    ),
    "gemma3_text": LanguageFamily("Gemma 3", _SANDWICH, _GEMMA_PROMPT, norm_offset=1.0, scales_tokens=True),
    "llama": LanguageFamily("Llama, Vicuna", _LLAMA, _LLAMA_PROMPT),
    "qwen2": LanguageFamily("Qwen2, Qwen2.5", _LLAMA, _QWEN2_PROMPT),
    "mistral": LanguageFamily("Mistral", _LLAMA, _MISTRAL_PROMPT),
    "phi": LanguageFamily("Phi 1, 1.5 and 2", _PARALLEL, _PHI_PROMPT, norm="final_layernorm", output="dense"),
}
"""By the text configuration's model_type; a checkpoint's config may hold a prompt of its own (vlm_probe.prompt)."""

Row = TypeVar("Row")


def row(table: dict[str, Row], model_type: str, part: str) -> Row:
    """The row of a type; VlmProbeError that names those there are."""
    if model_type not in table:
        raise VlmProbeError(f"{part} of type {model_type!r} is not supported; supported are {', '.join(sorted(table))}")
    return table[model_type]


def vision_family(sight: Any) -> VisionFamily:
    """The row of an encoder's configuration; VlmProbeError for a family without one."""
    return row(VISION, sight.model_type, "a vision encoder")


def families_of(config: Any) -> tuple[VisionFamily | None, LanguageFamily]:
    """The rows of a model's (first) encoder, None for a language model alone, and language model.

    Raises VlmProbeError for a family without a row; it names those that have one.
    """
    sight = getattr(config, "vision_config", None)
    vision = None if sight is None else vision_family(sight)
    return vision, row(LANGUAGE, config.get_text_config().model_type, "a language model")


def submodule(root: nn.Module, *paths: str) -> nn.Module:
    """The first of several paths that exists below a module."""
    for path in paths:
        try:
            return root.get_submodule(path)
        except AttributeError:
            continue
    raise VlmProbeError(f"{type(root).__name__} has none of the modules {', '.join(paths)}")
