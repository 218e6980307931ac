"""Trained experiments as data: which arms there are, what each is made of, and what all of them have in common."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from vlm_probe.errors import VlmProbeError, nearest
from vlm_probe.zoo.cells import ENCODERS, EXTRA, ROWS, SIZES, Cell, LanguageShape, Steps

STUDY_SIZES = {
    "small": SIZES["small"],
    # The replicas' large model has eight times the small one's key-value width; here it has half as much again, as its
    # width has, and as many heads.
    "large": LanguageShape(168, 6, 336, 8, 1, 48),
}
"""Width and depth in the paper's ratio of 1.5, and the width of keys and values with them."""
NARROW = {"small": LanguageShape(77, 4, 154, 8, 1, 22), "large": LanguageShape(141, 6, 282, 8, 1, 40)}
"""With the extra rows of `zoo.cells.ROWS` they have as many parameters as `STUDY_SIZES` has without, to 1 %; all widths
are narrower in proportion."""
TAUGHT = ("clip", "clip-one", "clip-places", "clip-alone")
"""Encoders that learn from captions, by how much they are told (`training.told`)."""
SEEING = "dino-128"
"""The encoder that learns from as many images as these, and is told nothing."""
ENCODERS_IN_WORDS = {
    "clip": "CLIP",
    "clip-one": "CLIP that was told of one object an image",
    "clip-places": "CLIP that was told of places alone",
    "clip-alone": "CLIP without hard twins",
    "dino": "DINO",
    SEEING: "DINO on as many images",
}
ROW_CHANGES = {
    ("none", "dead"): f"a vocabulary with {EXTRA:,} rows more that are never read",
    ("dead", "trained"): "reading these rows in language pretraining",
    ("none", "narrow"): f"a vocabulary with {EXTRA:,} rows more, read, at equal parameters",
    ("trained", "untied"): "an unembedding of its own",
}
"""From which rows of a vocabulary to which, and what it adds in words."""
RATES = (1.0, 0.5, 2.0)


@dataclass(frozen=True)
class Budget:
    """How long everything is trained: alike in every arm of a study."""

    encoder: int
    """Steps of every encoder."""
    language: int
    """Steps of every language model, on text alone."""
    fusion: int
    """Steps that see images, of 32 scenes each: connector pretraining, where there is one, and questions."""
    pretraining: float = 1 / 8
    """Share of the fusion steps that connector pretraining takes, in arms that have it."""
    scored: tuple[float, ...] = (1 / 4, 1 / 2, 1.0)
    """Shares of the fusion steps after which a run is scored, its learning rate brought down to nothing."""
    cooldown: float = 0.2
    """Share of a budget over which the learning rate is brought down."""

    def steps(self, *, pretrained: bool) -> Steps:
        """As a cell takes them: with pretraining the same number of steps, and of scenes, as without."""
        before = round(self.pretraining * self.fusion) if pretrained else 0
        return Steps(self.encoder, self.language, before, self.fusion - before, 0)


FACTORS = ("size", "encoder", "pretrained", "vocabulary")
"""Columns of every study's table; those of its own factors follow."""


@dataclass(frozen=True)
class Study:
    """A trained experiment: arms that differ in its factors and in nothing else."""

    id: str
    question: str
    factors: tuple[str, ...]
    """Columns of its table that its arms differ in."""
    cells: tuple[Cell, ...]
    """An arm each, of seed 0; two that begin together share no stage, or come to it at different times. An arm that
    another study has too, as its name says, is trained once in a runs folder."""
    budget: Budget
    splits: tuple[str, ...] = ("heldout", "novel")
    """What its runs are scored on, see `training.study.items_of`."""

    @property
    def columns(self) -> tuple[str, ...]:
        """What its table tells an arm by."""
        return (*FACTORS, *(factor for factor in self.factors if factor not in FACTORS))

    @property
    def arms(self) -> dict[str, Cell]:
        """The cells by their names."""
        return {cell.name: cell for cell in self.cells}

    def arm(self, name: str, seed: int = 0) -> Cell:
        """An arm to be trained from a seed, which also draws the kinds that are novel to it.

        Raises VlmProbeError for a name that is no arm's.
        """
        if name not in self.arms:
            raise VlmProbeError(f"study {self.id} has no arm {name!r}; nearest are {nearest(name, self.arms)}")
        return replace(self.arms[name], seed=seed, world=f"study-{seed}")

    def of_seed(self, seed: int) -> list[Cell]:
        """Every arm of a seed, in the order in which they are trained."""
        return [self.arm(name, seed) for name in self.arms]


def _grid(budget: Budget) -> Iterator[Cell]:
    """Two long stages begin at once where two processes train: small-clip, then large-dino, share nothing."""
    cells = {
        (size, encoder, pretrained): Cell(
            size, encoder, budget.steps(pretrained=pretrained), world="study-0", shape=STUDY_SIZES[size]
        )
        for size, encoder, pretrained in product(STUDY_SIZES, ENCODERS, (True, False))
    }
    first = [cells.pop(key) for key in (("small", "clip", True), ("large", "dino", True))]
    yield from (*first, *cells.values())


GRID_BUDGET = Budget(encoder=600, language=600, fusion=320)


def _cell(size: str, encoder: str = "clip", **changed: Any) -> Cell:
    """The grid's pretrained cell of a size, but for what is changed."""
    kept: dict[str, Any] = {"steps": GRID_BUDGET.steps(pretrained=True), "world": "study-0", "shape": STUDY_SIZES[size]}
    return Cell(size, encoder, **(kept | changed))


def _encoder() -> Iterator[Cell]:
    yield from (_cell("small", "clip"), _cell("large", SEEING))
    yield from (_cell("small", encoder) for encoder in (*TAUGHT[1:], SEEING))
    yield from (_cell("large", encoder) for encoder in TAUGHT)


def _vocabulary() -> Iterator[Cell]:
    """Every arm has a language model of its own; small ones begin with the encoder, large ones end with it."""
    for rows in filter(None, ROWS):
        shapes = NARROW if rows == "narrow" else STUDY_SIZES
        yield from (_cell(size, rows=rows, shape=shapes[size]) for size in STUDY_SIZES)


def _rate() -> Iterator[Cell]:
    for frozen, rate, size in product((False, True), RATES, STUDY_SIZES):
        yield _cell(size, frozen=frozen, rate=rate)


STUDIES: dict[str, Study] = {
    study.id: study
    for study in (
        Study(
            "grid",
            "What do size, encoder and connector pretraining change, and does one change more with another?",
            ("size", "encoder", "pretrained"),
            tuple(_grid(GRID_BUDGET)),
            GRID_BUDGET,
        ),
        Study(
            "encoder",
            "Does what an encoder was told explain what it changes, and of which size?",
            ("size", "encoder"),
            tuple(_encoder()),
            GRID_BUDGET,
        ),
        Study(
            "vocabulary",
            "What do more rows of the vocabulary change, read or not, at equal parameters, and untied?",
            ("size", "rows"),
            tuple(_vocabulary()),
            GRID_BUDGET,
        ),
        Study(
            "rate",
            "Is the larger model merely trained at the wrong rate?",
            ("size", "frozen", "rate"),
            tuple(_rate()),
            GRID_BUDGET,
            splits=("heldout", "novel", "dev"),
        ),
    )
}
"""The studies by their names."""


SOFTMAX = "softmax"
"""The study of real models, which has no cells: `studies.softmax`."""


def find_study(id: str) -> Study:
    """A study by its name; VlmProbeError lists the nearest."""
    if id == SOFTMAX:
        raise VlmProbeError(f"study {SOFTMAX} has tables of its own: studies.softmax_results")
    if id not in STUDIES:
        raise VlmProbeError(f"no study {id!r}; nearest are {nearest(id, [*STUDIES, SOFTMAX])}")
    return STUDIES[id]
