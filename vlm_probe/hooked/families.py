"""Model families as data: where each family keeps the modules that hook points are fed from.

Paths are relative to a layer. To add a family, add a row; no class is subclassed.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from vlm_probe.errors import VlmProbeError


@dataclass(frozen=True)
class BlockPaths:
    """Module paths of one family, relative to a layer except `layers` and `final_norm`."""

    layers: str
    """The list of layers, relative to the tower."""
    attention: str
    """The attention module that calls the attention function."""
    attn_out: str
    """Its output is what attention adds to the residual stream."""
    mid: str
    """Its input is the residual stream between attention and MLP."""
    mlp_in: tuple[str, ...]
    """Its output is the MLP's pre-activation (of the gate, where there is one); first that exists."""
    mlp_down: tuple[str, ...]
    """Its input is the MLP's hidden activation; first that exists."""
    mlp_out: str
    """Its output is what the MLP adds to the residual stream."""
    final_norm: str | None = None
    """The RMSNorm after the last layer of a language model, relative to the tower."""
    norm_offset: float = 0.0
    """The RMSNorm multiplies by (offset + weight)."""
    scales_tokens: bool = False
    """Token embeddings are multiplied by sqrt(d_model)."""
    scales_images: bool = False
    """The checkpoints of this family were trained with image rows multiplied likewise."""


_CLIP = BlockPaths(
    layers="encoder.layers",
    attention="self_attn",
    attn_out="self_attn",
    mid="layer_norm2",
    mlp_in=("mlp.fc1",),
    mlp_down=("mlp.fc2",),
    mlp_out="mlp",
)
_DINOV2 = BlockPaths(
    layers="encoder.layer",
    attention="attention",
    attn_out="layer_scale1",
    mid="norm2",
    mlp_in=("mlp.fc1", "mlp.gate_proj"),
    mlp_down=("mlp.fc2", "mlp.down_proj"),
    mlp_out="layer_scale2",
)
_LLAMA = BlockPaths(
    layers="layers",
    attention="self_attn",
    attn_out="self_attn",
    mid="post_attention_layernorm",
    mlp_in=("mlp.gate_proj",),
    mlp_down=("mlp.down_proj",),
    mlp_out="mlp",
    final_norm="norm",
)


def _gemma(*, sandwich: bool, scales_images: bool) -> BlockPaths:
    """Gemma's rows; Gemma 2 and 3 also normalise what attention and MLP add ("sandwich")."""
    return BlockPaths(
        layers=_LLAMA.layers,
        attention=_LLAMA.attention,
        attn_out="post_attention_layernorm" if sandwich else _LLAMA.attn_out,
        mid="pre_feedforward_layernorm" if sandwich else _LLAMA.mid,
        mlp_in=_LLAMA.mlp_in,
        mlp_down=_LLAMA.mlp_down,
        mlp_out="post_feedforward_layernorm" if sandwich else _LLAMA.mlp_out,
        final_norm=_LLAMA.final_norm,
        norm_offset=1.0,
        scales_tokens=True,
        scales_images=scales_images,
    )


VISION: dict[str, BlockPaths] = {
    "clip_vision_model": _CLIP,
    "dinov2": _DINOV2,
    "dinov2_with_registers": _DINOV2,
}
LANGUAGE: dict[str, BlockPaths] = {
    "gemma": _gemma(sandwich=False, scales_images=True),
    "gemma2": _gemma(sandwich=True, scales_images=True),
    "gemma3_text": _gemma(sandwich=True, scales_images=False),
    "llama": _LLAMA,
}


def family(table: dict[str, BlockPaths], model_type: str, part: str) -> BlockPaths:
    """The row of a model type; VlmProbeError names the supported ones."""
    if model_type not in table:
        raise VlmProbeError(f"{part} of type {model_type!r} is not supported; supported are {', '.join(sorted(table))}")
    return table[model_type]


def submodule(root: nn.Module, *paths: str) -> nn.Module:
    """The first of several paths that exists below a module."""
    for path in paths:
        try:
            return root.get_submodule(path)
        except AttributeError:
            continue
    raise VlmProbeError(f"{type(root).__name__} has none of the modules {', '.join(paths)}")
