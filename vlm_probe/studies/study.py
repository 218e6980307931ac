"""Trained experiments as data: which arms there are, what each is made of, and what all of them have in common."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

from vlm_probe.errors import VlmProbeError, nearest
from vlm_probe.zoo.cells import ENCODERS, SIZES, Cell, LanguageShape, Steps

STUDY_SIZES = {
    "small": SIZES["small"],
    # The replicas' large model has eight times the small one's key-value width; here it has half as much again, as its
    # width has, and as many heads.
    "large": LanguageShape(168, 6, 336, 8, 1, 48),
}
"""Width and depth in the paper's ratio of 1.5, and the width of keys and values with them."""


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


@dataclass(frozen=True)
class Study:
    """A trained experiment: arms that differ in its factors and in nothing else."""

    id: str
    question: str
    factors: tuple[str, ...]
    """Columns of its table that its arms differ in."""
    cells: tuple[Cell, ...]
    """An arm each, of seed 0."""
    budget: Budget

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
    )
}
"""The studies by their names."""


def find_study(id: str) -> Study:
    """A study by its name; VlmProbeError lists the nearest."""
    if id not in STUDIES:
        raise VlmProbeError(f"no study {id!r}; nearest are {nearest(id, STUDIES)}")
    return STUDIES[id]
