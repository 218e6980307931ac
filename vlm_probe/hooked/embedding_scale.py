"""By which factor a language model multiplies a token's embedding row: measured, not assumed."""

from __future__ import annotations

from typing import Any

import torch


def measure_token_scale(hf: Any, d_model: int) -> float:
    """sqrt(d_model) where the installed transformers scales the embedding row of a token so, else 1.

    No version is assumed: where the language model scales its inputs itself, image rows included, the factor
    measured here is 1 and nothing must be added.
    """
    embedding = hf.get_input_embeddings()
    weight = embedding.weight
    row = int(weight[: min(len(weight), 64)].float().abs().sum(-1).argmax())
    with torch.no_grad():
        embedded = embedding(torch.tensor([row], device=weight.device))[0].float()
        ratio = float(embedded.norm() / weight[row].float().norm())
    full = d_model**0.5
    return full if abs(ratio / full - 1) < 0.02 else 1.0
