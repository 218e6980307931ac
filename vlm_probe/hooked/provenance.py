"""Where results come from: versions, and a digest that tells weights apart."""

from __future__ import annotations

import hashlib
import platform
from functools import cache
from importlib.metadata import version
from typing import Any

import torch
from torch import nn


@cache
def versions() -> dict[str, str]:
    """Of what computes: this package, torch, transformers, TransformerLens, Python."""
    packages = ("vlm-probe", "torch", "transformers", "transformer-lens")
    return {**{p: version(p) for p in packages}, "python": platform.python_version()}


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


def in_words(model: Any) -> str:
    """A model's `repr`: its towers, size, dtype and device, and how it is asked."""
    text = model.text_config
    towers = [(model.config_of(part), n) for part, n in model.layers.items() if n]
    shown = [f"{own.model_type} {n} x {own.hidden_size}" for own, n in towers]
    millions = sum(p.numel() for p in model.hf.parameters()) / 1e6
    scale = f", embed_scale={model.embed_scale!r} (image rows x {model.image_scale:g})" if len(towers) > 1 else ""
    return (
        f"HookedVLM({model.name}: {' + '.join(shown[:-1])}{' -> ' * (len(shown) > 1)}{shown[-1]}, vocabulary "
        f"{text.vocab_size}, {millions:.1f}M parameters, {str(model.dtype).removeprefix('torch.')} on "
        f"{model.device}{scale}, prompt={model.prompt!r})"
    )
