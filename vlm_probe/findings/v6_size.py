"""V6: does the size of the vocabulary itself cause it?

Replicas that were trained alike but for their vocabulary, from the same seeds: the arms of the study `vocabulary`,
which moves rows, parameters and the training of rows one at a time, or until it has a table the shipped cells. What one
training run shows of two sizes, training again can undo, on however many items: the unit is the training seed. No model
is opened.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from vlm_probe.errors import VlmProbeError
from vlm_probe.evidence import Claim, OverRuns, Tables, judge_all
from vlm_probe.findings.finding import FigureOf, Finding, Section, Shown, TableOf
from vlm_probe.findings.interactions import committed
from vlm_probe.items import Item
from vlm_probe.studies import at_budget, grid_differences, grid_effects, grid_scores
from vlm_probe.studies.effects import FEWEST_RUNS, GRID_FACTORS
from vlm_probe.studies.study import ROW_CHANGES, STUDIES
from vlm_probe.zoo.cells import EXTRA

SPLITS = {"heldout": "held-out scenes", "novel": "scenes with novel kinds"}
_ALIKE = [column for factor, column in GRID_FACTORS.items() if factor != "vocabulary"]
"""Columns that cells of one sweep share."""


def vocabulary_size(
    scores: pd.DataFrame | None = None, tables: Mapping[str, pd.DataFrame] | None = None
) -> dict[str, Tables]:
    """What a change of the vocabulary does, seed by seed.

    scores: as `studies.grid_scores` returns it; else the study `vocabulary`, and until it has a table the shipped
        cells.
    tables: by study, as `studies.results` returns it; those that are committed if None.

    Returns, by the names of the two cells, two tables of `grid_differences`' columns (a: share right before the change,
    b: after it). runs: a row a split and seed. steps: those too that a figure shows beside them. Of the study it is
    every change of `studies.study.ROW_CHANGES` of either size, whose steps are its runs; of other cells the largest
    vocabulary of a sweep against the smallest, and steps has every two neighbouring sizes too.

    Raises VlmProbeError where no two cells differ in their vocabulary alone and share a seed.
    """
    tables = committed() if tables is None else tables
    if scores is None and "vocabulary" in tables:
        return _changes_of_rows(at_budget(tables["vocabulary"]))
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
        found[_name({"first": low, "second": high})] = {"runs": runs.reset_index(drop=True), "steps": both}
    return found


def _changes_of_rows(scores: pd.DataFrame) -> dict[str, Tables]:
    known = grid_differences(scores).query("factor == 'rows' and kind == 'all'")
    if known.empty:
        raise VlmProbeError("no two arms of the study vocabulary differ in their rows alone and share a seed")
    names = [_name(row) for row in known.to_dict("records")]
    own = {name: known.loc[[one == name for one in names]].reset_index(drop=True) for name in dict.fromkeys(names)}
    return {name: {"runs": rows, "steps": rows} for name, rows in own.items()}


def _shown(measured: Mapping[str, Tables], items: Sequence[Item]) -> Shown:
    """A table a split: every seed's difference and their mean (seed NaN) with its interval; a sentence a pair."""
    tables: dict[str, pd.DataFrame] = {}
    said = []
    verdicts = {(row.models, row.claim): str(row.verdict) for row in judge_all(FINDING.claims, measured)}
    for split, words in SPLITS.items():
        own = [[one[key].loc[one[key]["split"] == split] for key in ("steps", "runs")] for one in measured.values()]
        steps = [each for each, runs in own if len(runs)]
        if not steps:
            continue
        effects = grid_effects(pd.concat(steps, ignore_index=True))
        # Of what is claimed the claim's own: it is corrected over all that is claimed.
        pairs = [_name(row) for row in effects.to_dict("records")]
        judged = zip(pairs, effects["verdict"].tolist(), strict=True)
        effects["verdict"] = [verdicts.get((pair, split), verdict) for pair, verdict in judged]
        # Integers, of which seeds have the one and means the other.
        tables[split] = pd.concat([*steps, effects], ignore_index=True).astype({"seed": "Int64", "seeds": "Int64"})
        said += [_sentence(words, grid_effects(runs).to_dict("records")[0]) for _, runs in own if len(runs)]
    return Shown(tables=tables, summary=said)


def _name(pair: Mapping[Any, Any]) -> str:
    return f"replica/{pair['second']} against replica/{pair['first']}"


def _sentence(words: str, mean: Mapping[Any, Any]) -> str:
    arms = STUDIES["vocabulary"].arms
    before, after = (arms[mean[one]].rows if mean[one] in arms else "" for one in ("first", "second"))
    what = f" ({ROW_CHANGES[before, after]})" if (before, after) in ROW_CHANGES else ""
    change, low, high = (100 * mean[column] for column in ("difference", "low", "high"))
    seeds = mean["seeds"]
    few = f"; {FEWEST_RUNS} seeds would do for a verdict" if seeds < FEWEST_RUNS else ""
    return (
        f"{_name(mean)}{what}: of {mean['n']:,} questions about {words} the share right changes by {change:+.1f} "
        f"points (mean of {seeds} training seeds, 95 % interval {low:+.1f} to {high:+.1f}){few}."
    )


RESOLUTION = 0.001
"""The least standard deviation over seeds to believe in: cells are scored on a good thousand items, so that seeds which
agree by chance still differ by about one."""
MARGIN = 0.01
"""Of the share right: a point. Smaller differences are of the size of what training from another seed changes."""

_MEANS = {
    "first": "before",
    "second": "after",
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
    explains="vocabulary",
    claims=tuple(
        Claim(
            split,
            f"{{model}}: the former answers more questions about {words} right",
            OverRuns("runs", "b", "a", where=f"split == '{split}'", resolution=RESOLUTION),
            control="the latter, trained alike from the same seeds",
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
            "What another vocabulary changes, seed by seed",
            tuple(
                block
                for split, words in SPLITS.items()
                for block in (
                    FigureOf(
                        f"size_{split}",
                        "change_over_seeds",
                        split,
                        f"Change in the share right of questions about {words}, from one vocabulary to another: a "
                        "dot a training seed, and their mean.",
                        f"change in share right by size of vocabulary, {words}",
                        says=f"The vocabulary's size changes what is answered right on {words}",
                        claims=(split,),
                    ),
                    TableOf(split, _MEANS, where="seed.isna()"),
                )
            ),
        ),
    ),
    methods=(
        "Cells that were trained alike but for their vocabulary: the language model's own training included, since "
        "another vocabulary takes another language model. Two cells of one seed saw the same scenes and were scored on "
        "the same items: differences are paired by seed, with Student's t over seeds. The items do not count as "
        "replicates: training again changes more answers than drawing items again.",
        f"In the study `vocabulary` words of scenes are one token, with one id, in every arm, and {EXTRA:,} rows come "
        "after them. All arms read as much text: beside scenes as many ids at the same places, of the rows that come "
        "after (each more than 50 times) or, where there are none or they are dead, of others that no scene has.",
    ),
    caveats=(
        "Of the shipped cells, which are read until the study has a table, the rows that text uses, the parameters and "
        "how often each row is trained change with the size; most rows of the largest vocabulary were never read.",
        "The replicas' largest vocabulary is a fraction of the paper's. Rows that are read here are read at random, as "
        "words of no language are.",
    ),
)
