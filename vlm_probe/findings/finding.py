"""What a finding is: data, and one function that measures a model. Report, analyses and notebooks loop over them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import pandas as pd

from vlm_probe.hooked import HookedVLM
from vlm_probe.items import Item


@dataclass(frozen=True)
class FigureOf:
    """A figure of a finding: a plot of `vlm_probe.figures` by its name, over one of the finding's tables."""

    name: str
    """Of its files."""
    plot: str
    table: str
    caption: str
    alt: str


@dataclass(frozen=True)
class TableOf:
    """One of the finding's tables, as a table."""

    table: str


@dataclass(frozen=True)
class CasesOf:
    """Single items as pictures, for every model."""

    name: str
    """Of the cases, among those the finding picks."""
    caption: str
    alt: str


@dataclass(frozen=True)
class Section:
    """A heading, and what stands below it."""

    heading: str
    blocks: tuple[FigureOf | TableOf | CasesOf, ...]


@dataclass
class Cases:
    """Items to look at, of one model."""

    model: str
    name: str
    title: str
    panels: list[dict[str, Any]]
    """Each with image, map, boxes and text, as `figures.case_panels` takes them."""


@dataclass
class Results:
    """What a finding has to say about some models, as data."""

    summary: list[str]
    """A sentence a model."""
    tables: dict[str, pd.DataFrame]
    """By name, all models' rows together; "verdicts" among them."""
    cases: list[Cases] = field(default_factory=list)


@runtime_checkable
class Measure(Protocol):
    """Measures one model on some items."""

    def __call__(
        self, model: HookedVLM, items: Sequence[Item], *, progress: Callable[[int], None] | None = None, seed: int = 0
    ) -> Any: ...


@dataclass(frozen=True)
class Finding:
    """A hypothesis, how it is measured, and how its results are shown."""

    id: str
    title: str
    """As a question."""
    measure: Measure
    steps_per_item: int
    """How often `measure` reports progress for every item."""
    results: Callable[[Mapping[str, Any], Sequence[Item]], Results]
    """What was measured of each model, by name, and the items -> what is shown."""
    note: str
    """Below the verdicts: what the control is."""
    sections: tuple[Section, ...]
    methods: tuple[str, ...]
    """Paragraphs on how it was measured, with sources; {n} and {seed} stand for those of the run."""
