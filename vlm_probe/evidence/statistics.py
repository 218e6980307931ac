"""Statistics as values: which columns of a finding's tables a claim rests on, and how they are estimated.

Each is called with the tables of one model, or of two (the first is what the second is held against).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
import pandas as pd

from vlm_probe.errors import VlmProbeError
from vlm_probe.evidence.estimate import Estimate, against_null, described, jackknifed, over_runs, paired

Tables = Mapping[str, pd.DataFrame]
"""What a finding measured of one model: tables by name, a row an item (or a row, draw or run)."""
OBSERVED = -1
"""The number of the draw that is none: what was measured, among those of its null."""


@runtime_checkable
class Statistic(Protocol):
    """Estimates a claim from the tables of one or two models."""

    def __call__(self, tables: Sequence[Tables]) -> Estimate: ...


def _rows(tables: Tables, name: str, where: str) -> pd.DataFrame:
    if name not in tables:
        raise VlmProbeError(f"no table {name!r} was measured; there are {', '.join(tables)}")
    return tables[name].query(where) if where else tables[name]


def _each_once(tables: Sequence[Tables], name: str, where: str, key: str) -> list[pd.DataFrame]:
    """Every model's rows; of two, each must have a key once."""
    parts = [_rows(one, name, where) for one in tables]
    for part in parts if len(parts) > 1 else []:
        if part[key].duplicated().any():
            raise VlmProbeError(f"table {name!r} has the {key} {part.loc[part[key].duplicated(), key].iloc[0]!r} twice")
    return parts


def _together(tables: Sequence[Tables], name: str, where: str, key: str) -> pd.DataFrame:
    """One model's rows as they are; of two, the rows both have, with suffixes _a and _b."""
    first, *second = _each_once(tables, name, where, key)
    return first.merge(second[0], on=key, suffixes=("_a", "_b")) if second else first


def _matched(tables: Sequence[Tables], name: str, where: str, key: str) -> list[pd.DataFrame]:
    """Every model's rows; of two, those that both have, in the first's order."""
    parts = _each_once(tables, name, where, key)
    if len(parts) == 1:  # whose rows need no key
        return parts
    keys = [pd.Index(part[key]) for part in parts]
    if keys[0].equals(keys[1]):
        return parts
    at = keys[1].get_indexer(keys[0])
    return [parts[0].iloc[np.flatnonzero(at >= 0)], parts[1].iloc[at[at >= 0]]]


def _numbers(table: pd.DataFrame, column: str) -> np.ndarray:
    if column not in table:
        raise VlmProbeError(f"no column {column!r} was measured; there are {', '.join(map(str, table.columns))}")
    return table[column].to_numpy(dtype=float)


@dataclass(frozen=True)
class PairedMean:
    """The mean of a column less that of another (or a number), item by item.

    Of two models it is the second's less the first's; with a control, the difference of the two differences.
    """

    table: str
    value: str
    control: str | float | None = None
    where: str = ""
    """Which rows count (`DataFrame.query`)."""
    clusters: str = "cluster"
    key: str = "id"
    """What tells rows apart that two models share."""
    right_or_wrong: bool = False
    """Whether both are 0 or 1, so that an interval of few that differ must not close (see `paired`)."""

    def __call__(self, tables: Sequence[Tables]) -> Estimate:
        parts = _matched(tables, self.table, self.where, self.key)
        # Of two models with a control each, values are differences themselves: up to two apart.
        far = 2.0 if len(parts) == 2 and isinstance(self.control, str) else 1.0
        if len(parts) == 2:
            control, value = map(self._of, parts)
        else:
            against = 0.0 if self.control is None else self.control
            control = _numbers(parts[0], against) if isinstance(against, str) else against
            value = _numbers(parts[0], self.value)
        clusters = parts[0][self.clusters].to_numpy()
        return paired(value, control, clusters, right_or_wrong=far if self.right_or_wrong else 0.0)

    def _of(self, rows: pd.DataFrame) -> np.ndarray:
        own = _numbers(rows, self.value)
        return own - (_numbers(rows, self.control) if isinstance(self.control, str) else self.control or 0.0)


@dataclass(frozen=True)
class AgainstNull:
    """One value beside its null: rows with the columns draw (`OBSERVED` for what was measured), n, and the value's.

    Of two models it is the second's value less the first's, beside the same of their nulls: each draw less another
    one of the first's, for both may have been drawn with the same random numbers, and what was measured was not.
    """

    table: str
    value: str
    where: str = ""
    clusters: str = ""
    """The column with how many images are behind the value: what its claim needs enough of, since draws can be had
    without end. "": draws are counted."""

    def __call__(self, tables: Sequence[Tables]) -> Estimate:
        parts = [_rows(one, self.table, self.where) for one in tables]
        real = [_numbers(rows, "draw") == OBSERVED for rows in parts]
        if not all(own.any() for own in real):
            return described(np.zeros(0))
        at = [int(own.argmax()) for own in real]
        values = [_numbers(rows, self.value) for rows in parts]
        *before, observed = [float(own[row]) for own, row in zip(values, at, strict=True)]
        *first, null = [own[~measured] for own, measured in zip(values, real, strict=True)]
        if before:
            fewest = min(len(first[0]), len(null))
            observed, null = observed - before[0], null[:fewest] - np.roll(first[0][:fewest], 1)
        found = against_null(observed, null, int(_numbers(parts[-1], "n")[at[-1]]))
        if not self.clusters:
            return found
        clusters = [_numbers(rows, self.clusters)[row] for rows, row in zip(parts, at, strict=True)]
        return replace(found, clusters=int(min(clusters)))


Measure = Callable[[pd.DataFrame], float]
"""A number from some of the rows."""


def _of_some(measure: Measure | float, rows: pd.DataFrame) -> Callable[[np.ndarray], float]:
    """The measure as a function of the numbers of the rows that stay."""
    if isinstance(measure, int | float):
        return lambda kept: float(measure)
    return lambda kept: measure(rows.iloc[kept])


@dataclass(frozen=True)
class OfAllRows:
    """A measure of all rows together less another (or a number), by leaving blocks of clusters out.

    Of two models, rows are those both have, with suffixes _a and _b.
    """

    table: str
    value: Measure
    control: Measure | float
    where: str = ""
    clusters: str = "cluster"
    key: str = "id"

    def __call__(self, tables: Sequence[Tables]) -> Estimate:
        rows = _together(tables, self.table, self.where, self.key)
        named = self.clusters if len(tables) == 1 or self.clusters == self.key else f"{self.clusters}_a"
        return jackknifed(_of_some(self.value, rows), _of_some(self.control, rows), rows[named].to_numpy())


@dataclass(frozen=True)
class EveryWay:
    """One difference, estimated by several units (images; vocabulary rows): as sure as the least sure of them.

    An intersection-union test (Berger 1982): decided where every unit decides it. By one unit alone what is fixed would
    pass for what is general: all images of one model meet the same rows of its vocabulary, so that two random sets of
    rows differ "significantly" over images whatever they are.
    """

    of: tuple[Statistic, ...]
    """The first gives the value and its control."""

    def __call__(self, tables: Sequence[Tables]) -> Estimate:
        found = [one(tables) for one in self.of]
        low, high = np.min([one.low for one in found]), np.max([one.high for one in found])
        p, clusters = np.max([one.p for one in found]), min(one.clusters for one in found)
        return replace(found[0], clusters=clusters, low=float(low), high=float(high), p=float(p))


@dataclass(frozen=True)
class OverRuns:
    """The mean over training runs of a column less another: a row a seed, and nothing else."""

    table: str
    value: str
    control: str | float = 0.0
    where: str = ""
    resolution: float | str = 0.0
    """The least standard deviation to believe in (see `evidence.over_seeds`), or the column that holds it."""

    def __call__(self, tables: Sequence[Tables]) -> Estimate:
        rows = _rows(tables[-1], self.table, self.where)
        value = _numbers(rows, self.value)
        control = _numbers(rows, self.control) if isinstance(self.control, str) else np.full(len(rows), self.control)
        least = self.resolution
        if isinstance(least, str):
            least = float(_numbers(rows, least).max(initial=0.0))
        return over_runs(value, control, resolution=least)


@dataclass(frozen=True)
class Described:
    """A column's mean, beside another's (or a number, or the first model's), without a test."""

    table: str
    value: str
    control: str | float | None = None
    where: str = ""

    def __call__(self, tables: Sequence[Tables]) -> Estimate:
        *before, own = [_rows(one, self.table, self.where) for one in tables]
        values = _numbers(own, self.value)
        if before:
            return described(values, _numbers(before[0], self.value))
        if isinstance(self.control, str):
            return described(values, _numbers(own, self.control))
        return described(values) if self.control is None else described(values, self.control)
