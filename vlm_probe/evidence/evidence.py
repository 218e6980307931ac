"""One claim's row: what was measured, beside what, how far apart, and the verdict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np
import pandas as pd

from vlm_probe.evidence.intervals import clustered_mean, jackknife, over_seeds

NAN = float("nan")


@dataclass(frozen=True)
class Evidence:
    """What a claim "value is more than control" rests on; the only maker of rows with a verdict."""

    hypothesis: str
    claim: str
    n: int
    value: float
    control: float
    difference: float
    low: float
    high: float
    verdict: str

    @classmethod
    def paired(
        cls,
        hypothesis: str,
        claim: str,
        value: np.ndarray,
        control: np.ndarray | float,
        clusters: np.ndarray,
    ) -> Evidence:
        """Of two values an item, by Student's t over clusters. Items without either (NaN) are left out."""
        against = np.broadcast_to(np.asarray(control, dtype=float), value.shape)
        both = ~np.isnan(value - against)
        value, against, clusters = value[both].astype(float), against[both], clusters[both]
        if len(value) == 0:
            return cls(hypothesis, claim, 0, NAN, NAN, NAN, NAN, NAN, verdict(NAN, NAN, NAN))
        found = clustered_mean(value - against, clusters)
        return cls(hypothesis, claim, len(value), float(value.mean()), float(against.mean()), *found, verdict(*found))

    @classmethod
    def jackknifed(
        cls,
        hypothesis: str,
        claim: str,
        value: Callable[[np.ndarray], float],
        control: Callable[[np.ndarray], float],
        clusters: np.ndarray,
    ) -> Evidence:
        """Of two measures of all items together: functions of the numbers of the items that stay."""
        everything = np.arange(len(clusters))
        found = jackknife(lambda kept: value(kept) - control(kept), clusters)
        return cls(hypothesis, claim, len(clusters), value(everything), control(everything), *found, verdict(*found))

    @classmethod
    def counted(cls, hypothesis: str, claim: str, value: float, control: float, n: int) -> Evidence:
        """Of what was counted, not sampled: the interval is the difference itself."""
        gap = value - control
        said = "supported" if gap > 0 else "not supported"
        return cls(hypothesis, claim, n, value, control, gap, gap, gap, said)

    @classmethod
    def over_seeds(
        cls, hypothesis: str, claim: str, value: np.ndarray, control: np.ndarray, *, resolution: float
    ) -> Evidence:
        """Of two values a training seed, see `evidence.over_seeds`; n counts seeds."""
        found = over_seeds(value - control, resolution)
        return cls(hypothesis, claim, len(value), float(value.mean()), float(control.mean()), *found, verdict(*found))


COLUMNS = tuple(field.name for field in fields(Evidence))


def evidence_table(rows: Sequence[Evidence], **attrs: object) -> pd.DataFrame:
    """Rows of evidence as a table, columns `COLUMNS`; attrs go into the table's own."""
    table = pd.DataFrame([asdict(row) for row in rows], columns=list(COLUMNS))
    table.attrs.update(attrs)
    return table


def verdict(mean: float, low: float, high: float) -> str:
    """The verdict on a difference that the hypothesis says is positive."""
    if np.isnan(mean):
        return "undecided (no items)"
    if np.isnan(low):
        return "undecided (too few)"
    if low <= 0 <= high:
        return "undecided (interval includes 0)"
    return "supported" if mean > 0 else "not supported"
