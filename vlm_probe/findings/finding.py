"""What a finding is: data, and one function that measures a model. Whoever shows findings loops over them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import pandas as pd

from vlm_probe.evidence import Claim, Tables
from vlm_probe.findings.shared import Shared
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
    given: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of the plot."""
    says: str = ""
    """What it shows where `claims` hold; its title says so, and what came of them. Without, the plot's own title."""
    claims: tuple[str, ...] = ()
    """Of the finding, by their ids ("points"), or patterns of those ("*, heldout")."""


@dataclass(frozen=True)
class TableOf:
    """One of the finding's tables, as a table; a page shows what a reader needs of it, the files have all."""

    table: str
    columns: Mapping[str, str] = field(default_factory=dict)
    """Columns that are shown, in this order, and what they are called; all where none is given."""
    where: str = ""
    """Which rows are shown (as `DataFrame.query` has it); all without."""


SHARES = {"model": "model", "measure": "measure", "mean": "share", "low": "95 % from", "high": "to", "n": "n"}
"""The columns of a table of shares by model and measure."""


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
class Shown:
    """What a finding shows beside its evidence: all models' rows together."""

    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    """By name: summaries that figures draw; estimated here, never in a figure."""
    summary: list[str] = field(default_factory=list)
    """A sentence a model."""
    cases: list[Cases] = field(default_factory=list)


@runtime_checkable
class Measure(Protocol):
    """Measures one model on some items: a table a name, a row an item; no statistics."""

    def __call__(
        self, model: HookedVLM, items: Sequence[Item], *, shared: Shared | None = None, seed: int = 0
    ) -> dict[str, pd.DataFrame]: ...


def _all(items: Sequence[Item]) -> list[Item]:
    return list(items)


def _nothing(measured: Mapping[str, Tables], items: Sequence[Item]) -> Shown:
    return Shown()


@dataclass(frozen=True)
class Finding:
    """A hypothesis, how it is measured, what is claimed, and how it is shown."""

    id: str
    question: str
    claims: tuple[Claim, ...]
    measure: Measure | Callable[[], Mapping[str, Tables]]
    """Of a finding that opens no model (`models` is 0): takes nothing, and returns its tables by what they are of."""
    methods: tuple[str, ...]
    """Paragraphs on how it is measured, with sources; {n} and {seed} stand for those of the run."""
    explains: str = ""
    """Which of the paper's questions it is about (`questions.QUESTIONS`)."""
    caveats: tuple[str, ...] = ()
    """What it does not say."""
    models: int = 1
    """Models that it takes at least; 0: none is opened."""
    picks: Callable[[Sequence[Item]], list[Item]] = _all
    """The items that it can be measured on; none is measured where there is none."""
    wants: str = "items"
    """Which items those are, in words."""
    itemwise: bool = False
    """Whether items are measured one by one, so that a killed run goes on in the middle of them."""
    reads: Callable[[HookedVLM], Mapping[str, Sequence[str]]] | None = None
    """Pooled activations it shares with others (pool -> hook points; see `Shared.features`)."""
    untrained: bool = True
    """Whether an untrained copy is measured beside each replica."""
    shown: Callable[[Mapping[str, Tables], Sequence[Item]], Shown] = _nothing
    sections: tuple[Section, ...] = ()
