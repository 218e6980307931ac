"""What a loaded model is, in a line and as data."""

from __future__ import annotations

import hashlib
import platform
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

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


SAMPLED = 64
"""Values that `weights_digest` takes of every tensor."""


def weights_digest(module: nn.Module) -> str:
    """Tells models apart whose names are the same: a digest of `SAMPLED` values of every parameter and buffer.

    Training moves all weights, and is seen; an edit of a few values of a large tensor may not be.
    """
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        flat = tensor.detach().flatten()
        some = flat[:: max(1, len(flat) // SAMPLED)].to(device="cpu", dtype=torch.float64)
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode() + some.numpy().tobytes())
    return digest.hexdigest()[:16]


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
