"""What a loaded model is, in a line and as data."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlm_probe.hooked.model import HookedVLM


def provenance_of(model: HookedVLM) -> dict[str, Any]:
    """Where results come from: model, revision, dtype, embedding scale, versions."""
    return {
        "model": model.name,
        "revision": getattr(model.hf.config, "_commit_hash", None) or model.revision,
        "dtype": str(model.dtype).removeprefix("torch."),
        "embed_scale": model.embed_scale,
        "device": str(model.device),
        "versions": {
            **{p: version(p) for p in ("vlm-probe", "torch", "transformers", "transformer-lens")},
            "python": platform.python_version(),
        },
    }


def describe(model: HookedVLM) -> str:
    """One line: families, sizes, parameters, dtype, device, embedding scale."""
    text, sight = model.text_config, model.vision_config
    eyes = "" if sight is None else f"{sight.model_type} {len(model.vision.blocks)} x {sight.hidden_size} -> "
    millions = sum(p.numel() for p in model.hf.parameters()) / 1e6
    scale = "" if sight is None else f", embed_scale={model.embed_scale!r} (image rows x {model.image_scale:g})"
    return (
        f"HookedVLM({model.name}: {eyes}{text.model_type} {len(model.language.blocks)} x {text.hidden_size}, "
        f"vocabulary {text.vocab_size}, {millions:.1f}M parameters, {str(model.dtype).removeprefix('torch.')} on "
        f"{model.device}{scale})"
    )
