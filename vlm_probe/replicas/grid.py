"""The cells of the ablation grid in miniature: what differs between two replicas, as data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

IMAGE_SIZE = 64
PATCH_SIZE = 8
VOCABULARY = 448


@dataclass(frozen=True)
class LanguageShape:
    """Shape of a Gemma language model, in the proportions of the real ones."""

    hidden_size: int
    num_hidden_layers: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int


SIZES = {
    # Gemma 2B: 2048 wide, 18 layers, 8 heads of 256 (together as wide as the model), 1 key-value head.
    "small": LanguageShape(128, 4, 512, 8, 1, 16),
}


@dataclass(frozen=True)
class Steps:
    """Optimiser steps of every stage of the recipe."""

    encoder: int
    language: int
    connector: int
    joint: int
    questions: int


@dataclass(frozen=True)
class Cell:
    """One replica: `replica/<size>-<encoder>`."""

    size: str
    encoder: str
    steps: Steps
    vocabulary: int = VOCABULARY
    seed: int = 0
    vision: dict[str, Any] = field(
        default_factory=lambda: {
            "hidden_size": 96,
            "num_hidden_layers": 5,
            "num_attention_heads": 4,
            "image_size": IMAGE_SIZE,
            "patch_size": PATCH_SIZE,
        }
    )

    @property
    def name(self) -> str:
        return f"{self.size}-{self.encoder}"

    @property
    def language(self) -> LanguageShape:
        return SIZES[self.size]


CELLS: dict[str, Cell] = {
    cell.name: cell
    for cell in (
        Cell("small", "clip", Steps(encoder=1200, language=1500, connector=300, joint=3400, questions=1700)),
        Cell("small", "dino", Steps(encoder=1200, language=1500, connector=300, joint=3400, questions=700)),
    )
}
