"""V6: does the size of the vocabulary itself cause it?

Replicas that were trained alike but for their vocabulary, from the same seeds. What one training run shows of two
sizes, training again can undo, on however many items: the unit is the training seed. No model is opened.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from vlm_probe.errors import VlmProbeError
from vlm_probe.evidence import Claim, OverRuns, Tables
from vlm_probe.findings.finding import FigureOf, Finding, Section, Shown, TableOf
from vlm_probe.items import Item
from vlm_probe.studies import grid_differences, grid_effects, grid_scores
from vlm_probe.studies.effects import FEWEST_RUNS, GRID_FACTORS

SPLITS = {"heldout": "held-out scenes", "novel": "scenes with novel kinds"}
_ALIKE = [column for factor, column in GRID_FACTORS.items() if factor != "vocabulary"]
"""Columns that cells of one sweep share."""


def vocabulary_size(scores: pd.DataFrame | None = None) -> dict[str, Tables]:
    """What the largest vocabulary of a sweep changes beside the smallest, seed by seed.

    scores: as `studies.grid_scores` returns it, which it is if none is given.

    Returns, by the names of the two cells, for every sweep, two tables of `grid_differences`' columns (a: share right
    with the smaller vocabulary, b: with the larger). runs: the largest against the smallest, a row a split and seed.
    steps: every two neighbouring sizes too.

    Raises VlmProbeError where no two cells differ in their vocabulary alone and share a seed.
    """
    known = grid_scores() if scores is None else scores
    steps = grid_differences(known).query("factor == 'vocabulary' and kind == 'all'")
    if steps.empty:
        raise VlmProbeError(
            "no two cells differ in their vocabulary alone and share a seed; train two sizes from one seed"
        )
    cells = known.drop_duplicates("cell").to_dict("records")
    sizes = {row["cell"]: int(row["vocabulary"]) for row in cells}
    sweeps = {row["cell"]: tuple(row[column] for column in _ALIKE) for row in cells}
    found: dict[str, Tables] = {}
    for sweep in dict.fromkeys(sweeps[cell] for cell in steps["first"].tolist()):
        own = steps.loc[[sweeps[cell] == sweep for cell in steps["first"].tolist()]]
        there = {cell for column in ("first", "second") for cell in own[column].tolist()}
        low, high = (end(there, key=sizes.__getitem__) for end in (min, max))
        # Of cells alone, so that no size between them has a say.
        runs = grid_differences(known.loc[known["cell"].isin([low, high])]).query("kind == 'all'")
        both = pd.concat([own, runs]).drop_duplicates(["first", "second", "split", "seed"], ignore_index=True)
        found[f"replica/{high} against replica/{low}"] = {"runs": runs.reset_index(drop=True), "steps": both}
    return found


def _shown(measured: Mapping[str, Tables], items: Sequence[Item]) -> Shown:
    """A table a split: every seed's difference and their mean (seed NaN) with its interval; a sentence a sweep."""
    tables: dict[str, pd.DataFrame] = {}
    said = []
    for split, words in SPLITS.items():
        parts = []
        for name, own in measured.items():
            steps, runs = (own[key].loc[own[key]["split"] == split] for key in ("steps", "runs"))
            if len(runs):
                parts += [steps, grid_effects(steps)]
                mean = grid_effects(runs).to_dict("records")[0]
                said.append(_sentence(name, words, mean))
        if parts:
            # Integers, of which seeds have the one and means the other.
            tables[split] = pd.concat(parts, ignore_index=True).astype({"seed": "Int64", "seeds": "Int64"})
    return Shown(tables=tables, summary=said)


def _sentence(name: str, words: str, mean: Mapping[str, object]) -> str:
    change, low, high = (100 * float(str(mean[column])) for column in ("difference", "low", "high"))
    seeds = int(str(mean["seeds"]))
    few = f"; {FEWEST_RUNS} seeds would do for a verdict" if seeds < FEWEST_RUNS else ""
    return (
        f"{name}: of {mean['n']:,} questions about {words} the share right changes by {change:+.1f} points (mean of "
        f"{seeds} training seeds, 95 % interval {low:+.1f} to {high:+.1f}){few}."
    )


RESOLUTION = 0.001
"""The least standard deviation over seeds to believe in: cells are scored on a good thousand items, so that seeds which
agree by chance still differ by about one."""
MARGIN = 0.01
"""Of the share right: a point. Smaller differences are of the size of what training from another seed changes."""

_MEANS = {
    "first": "smaller",
    "second": "larger",
    "n": "questions",
    "seeds": "seeds",
    "difference": "change in share right",
    "low": "95 % from",
    "high": "to",
    "verdict": "verdict",
}
"""What a page shows of them; the figure has the seeds."""

FINDING = Finding(
    id="V6",
    question="Does the size of the vocabulary itself cause it?",
    claims=tuple(
        Claim(
            split,
            f"{{model}}: with the larger vocabulary it answers more questions about {words} right",
            OverRuns("runs", "b", "a", where=f"split == '{split}'", resolution=RESOLUTION),
            control="with the smaller vocabulary, trained alike from the same seeds",
            unit="training seeds",
            margin=MARGIN,
            least=FEWEST_RUNS,
        )
        for split, words in SPLITS.items()
    ),
    measure=vocabulary_size,
    models=0,
    untrained=False,
    shown=_shown,
    sections=(
        Section(
            "What a larger vocabulary changes, seed by seed",
            tuple(
                block
                for split, words in SPLITS.items()
                for block in (
                    FigureOf(
                        f"size_{split}",
                        "change_over_seeds",
                        split,
                        f"Change in the share right of questions about {words}, from a smaller vocabulary to a "
                        "larger: a dot a training seed, and their mean.",
                        f"change in share right by size of vocabulary, {words}",
                    ),
                    TableOf(split, _MEANS, where="seed.isna()"),
                )
            ),
        ),
    ),
    methods=(
        "Cells of the grid that were trained alike but for their vocabulary: the language model's own training "
        "included, since another vocabulary takes another language model. Each was scored on the same items whatever "
        "its seed, and two cells of one seed saw the same scenes: differences are paired by seed, with Student's t "
        "over seeds. The items do not count as replicates: training again changes more answers than drawing items "
        "again.",
    ),
    caveats=(
        "With the size change the rows that text uses, the parameters and how often each row is trained; which of them "
        "matters is not told apart here.",
        "The replicas' largest vocabulary is a fraction of the paper's, and most of its rows were never read.",
    ),
)
