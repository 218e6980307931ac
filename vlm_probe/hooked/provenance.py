"""Where results come from: versions, and a digest that tells weights apart."""

from __future__ import annotations

import hashlib
import platform
from importlib.metadata import version

import torch
from torch import nn


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
