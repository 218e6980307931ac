"""One claim's row: what was measured, beside what, how far apart, what is independent, and the verdict."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields

import pandas as pd

from vlm_probe.evidence.estimate import NAN
from vlm_probe.evidence.verdict import Verdict


@dataclass(frozen=True)
class Evidence:
    """What a claim rests on; `judge` alone makes it."""

    finding: str
    claim: str
    """Its id."""
    sentence: str
    models: str
    """Their names, ", " between."""
    n: int
    """Items, rows or runs."""
    clusters: int
    unit: str
    """What `clusters` counts: the unit of replication."""
    value: float
    against: str
    """The control, in words."""
    control: float
    difference: float
    low: float
    high: float
    p: float
    p_corrected: float
    """Holm over the finding's tested claims of this run."""
    verdict: Verdict
    reason: str
    """Why it is undecided."""
    untrained: float = NAN
    """The same difference of untrained copies, where they were measured."""
    scope: str = ""
    """What it says nothing about."""


COLUMNS = tuple(field.name for field in fields(Evidence))


def evidence_table(rows: Iterable[Evidence], **attrs: object) -> pd.DataFrame:
    """Rows of evidence as a table, columns `COLUMNS`; attrs go into the table's own."""
    records = [{**asdict(row), "verdict": str(row.verdict)} for row in rows]
    table = pd.DataFrame(records, columns=list(COLUMNS))
    table.attrs.update(attrs)
    return table
