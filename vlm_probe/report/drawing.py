"""A finding's figures, drawn: each titled with what it shows and what came of it, beside the table it shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from vlm_probe import figures
from vlm_probe.evidence import Verdict
from vlm_probe.figures.style import figure_of, short
from vlm_probe.findings import Run
from vlm_probe.findings.finding import Cases, FigureOf, Finding, Shown

_NAMED = 3
"""So many models are named in a title; of more the verdicts are counted."""


@dataclass
class Chapter:
    """One finding and what it has to say."""

    finding: Finding
    evidence: pd.DataFrame
    shown: Shown

    @property
    def figures(self) -> list[FigureOf]:
        """All figures over tables that there are, with a number to draw, in the order of the page."""
        blocks = [block for section in self.finding.sections for block in section.blocks]
        tables = self.shown.tables
        return [one for one in blocks if isinstance(one, FigureOf) and at_hand(tables.get(one.table))]


def at_hand(table: pd.DataFrame | None) -> bool:
    """Whether a table holds any number: of others there is nothing to draw."""
    return table is not None and bool(table.select_dtypes("number").notna().to_numpy().any())


def chapters(found: Run) -> list[Chapter]:
    """Every finding that was measured."""
    evidence = found.evidence
    rows = {finding.id: evidence.loc[evidence["finding"] == finding.id] for finding in found.findings}
    return [Chapter(one, rows[one.id], found.shown(one)) for one in found.findings if len(rows[one.id])]


def draw(chapter: Chapter) -> dict[str, tuple[Figure, pd.DataFrame]]:
    """A chapter's figures over tables, by name, and the table that each shows."""
    drawn: dict[str, tuple[Figure, pd.DataFrame]] = {}
    for one in chapter.figures:
        table, title = chapter.shown.tables[one.table], claimed(one, chapter.evidence)
        given = {**one.given, **({"title": title} if title else {})}
        drawn[one.name] = figure_of(getattr(figures, one.plot)(table, **given)), table
    return drawn


def claimed(one: FigureOf, evidence: pd.DataFrame) -> str:
    """What a figure shows, and what came of it; "" for a figure that shows no claim that was tested.

    evidence: the finding's rows.
    """
    tested = evidence.loc[evidence["verdict"] != str(Verdict.DESCRIPTIVE)]
    rows = tested.loc[[any(fnmatchcase(claim, of) for of in one.claims) for claim in tested["claim"].tolist()]]
    if rows.empty:
        return ""
    by_verdict: dict[str, list[str]] = {}
    for row in rows.to_dict("records"):
        by_verdict.setdefault(row["verdict"], []).append(_short(str(row["models"])))
    if len(by_verdict) == 1:
        what = next(iter(by_verdict))
    elif len(rows) == rows["models"].nunique() <= _NAMED:
        what = "; ".join(f"{verdict} for {', '.join(models)}" for verdict, models in by_verdict.items())
    else:
        counts = Counter(rows["verdict"].tolist())
        what = ", ".join(f"{number} {verdict}" for verdict, number in counts.items())
    return f"{one.says[:1].upper()}{one.says[1:]}: {what}"


def counted(verdicts: Iterable[str]) -> list[str]:
    """How often a test came to what, a part a verdict, in the order of `Verdict`."""
    counts = Counter(verdicts)
    return [f"{counts[str(one)]} {one}" for one in Verdict if one != Verdict.DESCRIPTIVE and counts[str(one)]]


def points(changes: Sequence[float]) -> str:
    """Differences of shares, from the lowest to the highest, in points; those that are none (NaN) left out."""
    known = [round(100 * change, 1) + 0.0 for change in changes if not np.isnan(change)]  # no -0.0
    if not known:
        return "an unknown number of points"
    low, high = f"{min(known):+.1f}", f"{max(known):+.1f}"
    return f"{low} points" if low == high else f"{low} to {high} points"


def joined(parts: Sequence[str]) -> str:
    """Parts of a sentence, the last behind "and"."""
    *most, last = parts
    return f"{', '.join(most)} and {last}" if most else last


def _short(models: str) -> str:
    """Names as a title has room for them."""
    return ", ".join(short(name.removeprefix("replica/")) for name in models.split(", "))


def title_of(figure: Figure) -> str:
    """What stands on top of a figure, in one line."""
    return " ".join(figure.texts[0].get_text().split()) if figure.texts else ""


def draw_cases(cases: Cases) -> tuple[Figure, pd.DataFrame]:
    """Single items as pictures, and their maps patch by patch: columns case, text, row, col, value."""
    figure = figure_of(figures.case_panels(cases.panels, title=cases.title))
    tables = [
        panel["map"].rename("value").to_dataframe().reset_index().assign(case=number, text=panel["text"])
        for number, panel in enumerate(cases.panels)
    ]
    return figure, pd.concat(tables, ignore_index=True).filter(["case", "text", "row", "col", "value"])
