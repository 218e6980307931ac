"""The cells of the ablation grid in miniature: what differs between two replicas, as data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

IMAGE_SIZE = 64
PATCH_SIZE = 8
VOCABULARY = 704


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
    # Gemma 2B: 2048 wide, 18 layers, 8 heads, 1 key-value head; Gemma 7B: 3072 wide, 28 layers, 16
    # heads, 16 key-value heads. Width and depth keep their ratios of 1.5. Deviations: the MLP is
    # twice as wide as the model, not eight times, so that the whole grid fits into 40 MB; the small
    # model's heads are 32 wide where its width over its heads would be 14. All that a position can
    # tell another passes through its one key-value head: with 16 dimensions, color questions about
    # text were still at chance after 500 steps; with 32, two thirds were right after 450.
    "small": LanguageShape(112, 4, 224, 8, 1, 32),
    "large": LanguageShape(168, 6, 336, 16, 16, 16),
}
ENCODERS = ("clip", "dino")
VOCABULARIES = (320, 4096, 20480)
"""Of the further cells: fewer tokens than the grid's 704, and many more; the largest has 64 times the smallest's."""


@dataclass(frozen=True)
class Steps:
    """Optimiser steps of every stage of the recipe: the same for every cell, but for what a cell leaves out."""

    encoder: int = 1000
    language: int = 800
    connector: int = 200
    joint: int = 1000
    questions: int = 800


@dataclass(frozen=True)
class Cell:
    """One replica: `replica/<size>-<encoder>[-nopre][-v<vocabulary>]`, trained from one seed."""

    size: str
    encoder: str
    steps: Steps = Steps()
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
    world: str = "shipped"
    """What the scenes show that it is trained on: the name of a world, as `scenes.world_of` takes it."""
    shape: LanguageShape | None = None
    """Of the language model; what `SIZES` says of the size if None."""

    @property
    def name(self) -> str:
        pretrained = "" if self.steps.connector else "-nopre"
        return f"{self.size}-{self.encoder}{pretrained}{self._tokens}"

    @property
    def language_name(self) -> str:
        """Names the language model before fusion, which cells share."""
        return f"language-{self.size}{self._tokens}"

    @property
    def _tokens(self) -> str:
        return "" if self.vocabulary == VOCABULARY else f"-v{self.vocabulary}"

    @property
    def language(self) -> LanguageShape:
        return self.shape or SIZES[self.size]


def _cells() -> list[Cell]:
    """The paper's eight cells, and small-clip with other vocabularies; the small ones first."""
    ablation = [
        Cell(size, encoder, steps) for size in SIZES for steps in (Steps(), Steps(connector=0)) for encoder in ENCODERS
    ]
    return ablation + [Cell("small", "clip", vocabulary=v) for v in VOCABULARIES]


CELLS: dict[str, Cell] = {cell.name: cell for cell in _cells()}
