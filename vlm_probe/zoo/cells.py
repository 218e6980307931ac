"""The cells of the ablation grid in miniature: what differs between two replicas, as data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

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
EXTRA = 4096
"""Rows that a study adds to a vocabulary."""


@dataclass(frozen=True)
class Rows:
    """Of a language model's vocabulary: the rows beside those that scenes are told in."""

    extra: int = 0
    """Rows after the tokenizer's own, which no text is cut into."""
    asides: Literal["words", "ordinary", "extra"] = "words"
    """What language pretraining reads beside scenes: words of another subject, in a quarter of its rows; or, in every
    row, so many ids (`training.asides`) that no scene has: of the tokenizer's own, or of the extra ones."""
    tied: bool = True
    """Whether the unembedding is the embedding."""


ROWS: dict[str, Rows] = {
    "": Rows(),
    "none": Rows(asides="ordinary"),
    "dead": Rows(EXTRA, "ordinary"),
    "trained": Rows(EXTRA, "extra"),
    "narrow": Rows(EXTRA, "extra"),
    "untied": Rows(EXTRA, "extra", tied=False),
}
"""By the name that a cell has them by; "": as the grid's cells. "narrow" goes with a narrower `Cell.shape`."""


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
    """One replica: `replica/<size>-<encoder>[-nopre][-v<vocabulary>]`, trained from one seed.

    Arms of studies are told apart by more: `-<rows>`, `-frozen`, `-x<rate>`.
    """

    size: str
    encoder: str
    """How it was taught: "clip" or "dino"; in studies also otherwise, see `training.encoders`."""
    steps: Steps = Steps()
    vocabulary: int = VOCABULARY
    """Tokens that text is cut into."""
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
    rows: str = ""
    """Further rows of its vocabulary, by their name in `ROWS`."""
    frozen: bool = False
    """Whether the language model is left as it was before fusion, and the connector alone learns."""
    rate: float = 1.0
    """Times the recipe's learning rate of fusion."""

    @property
    def name(self) -> str:
        pretrained = "" if self.steps.connector else "-nopre"
        tuned = ("-frozen" if self.frozen else "") + ("" if self.rate == 1 else f"-x{self.rate:g}")
        return f"{self.size}-{self.encoder}{pretrained}{self._tokens}{tuned}"

    @property
    def language_name(self) -> str:
        """Names the language model before fusion, which cells share."""
        return f"language-{self.size}{self._tokens}"

    @property
    def _tokens(self) -> str:
        size = "" if self.vocabulary == VOCABULARY else f"-v{self.vocabulary}"
        return size + (f"-{self.rows}" if self.rows else "")

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
