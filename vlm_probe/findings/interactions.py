"""What X1 to X3 share: whether one change does more where another was made, in the paper's table and over seeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pandas as pd

from vlm_probe.errors import VlmProbeError
from vlm_probe.evidence import Claim, Described, EveryWay, OverRuns, Tables
from vlm_probe.findings.finding import FigureOf, Section, Shown, TableOf
from vlm_probe.items import Item
from vlm_probe.studies import grid_interactions, grid_scores, published_interactions
from vlm_probe.studies.effects import FEWEST_RUNS
from vlm_probe.studies.published import NAMES
from vlm_probe.studies.result_tables import at_budget, results, tabled, under_curve

PAPER = "the paper"
GRID = "replicas"
"""What their tables are of, by name; of replicas, `scope_of` says what they say nothing about."""
MARGIN = 0.02
"""Of the share right. Two points: what the 7B loses on VQAv2 with connector pretraining, the smallest of the published
differences that the question was asked about."""
SPLITS = {"heldout": "held-out scenes", "novel": "novel kinds"}


class Words(NamedTuple):
    """Two changes in words: "(the 7B) adds fewer points (with connector pretraining) than (without)"."""

    adds: str
    at_end: str
    """Where the other change was made, too."""
    at_start: str
    """Where it was not."""


@dataclass(frozen=True)
class Crossed:
    """Two changes, one inside the other."""

    factor: str
    by: str
    words: Words
    published: Words | None
    """Of the paper's models; None where they do not cross the two."""
    corners: tuple[tuple[str, str], ...]
    """Cells by name: that neither was changed of, and that both were."""
    study: str | None = None
    """The study whose table is read, at its whole budget; None: the shipped cells' scores."""
    more: bool = False
    """Whether the claim is that it adds more where the other change was made; the paper's direction, if it has one."""
    of: str = GRID
    """What its tables are of."""

    @property
    def along(self) -> str:
        """What the tables are of that have areas under learning curves instead."""
        return f"{self.of}, along training"


def crossings(
    crossed: Sequence[Crossed],
    scores: pd.DataFrame | None = None,
    tables: Mapping[str, pd.DataFrame] | None = None,
) -> dict[str, Tables]:
    """The tables "published" (`studies.published_interactions`) and "runs" (`studies.grid_interactions`), by what they
    are of.

    Of runs, the column `of` says which difference of differences a row is one seed's.

    crossed: the first is what the finding is about; further ones are left out where their study has no table yet, or
        none of two arms that can be compared.
    scores: of a grid of one's own, as `studies.grid_scores` returns it: of the first alone, and at one budget.
    tables: by study, as `studies.results` returns it; those that are committed if None.
    """
    first = crossed[0]
    found: dict[str, Tables] = {}
    if first.published is not None:
        found[PAPER] = {"published": published_interactions(first.factor, first.by)}
    if scores is not None or first.study is None:
        return {**found, first.of: {"runs": _runs(first, grid_scores() if scores is None else scores)}}
    tables = committed() if tables is None else tables
    found |= _along_training(first, tables[first.study] if first.study in tables else results(first.study))
    for one in crossed:
        if one.study is not None and one.study in tables and one.of not in found:
            with suppress(VlmProbeError):
                found |= _along_training(one, tables[one.study])
    return found


def committed() -> dict[str, pd.DataFrame]:
    """The tables of all studies that have one, by study."""
    return {id: results(id) for id in tabled()}


def _along_training(crossed: Crossed, table: pd.DataFrame) -> dict[str, Tables]:
    """At the whole budget, and by the area under the learning curve where some run has one."""
    found: dict[str, Tables] = {crossed.of: {"runs": _runs(crossed, at_budget(table))}}
    with suppress(VlmProbeError):
        found[crossed.along] = {"runs": _runs(crossed, under_curve(table))}
    return found


def _runs(crossed: Crossed, scores: pd.DataFrame) -> pd.DataFrame:
    runs = grid_interactions(scores, crossed.factor, crossed.by)
    named = zip(*(runs[name].tolist() for name in ("first", "second", "split", "kind")), strict=True)
    runs.insert(0, "of", [_of(*one) for one in named])
    return runs


def claims(crossed: Sequence[Crossed]) -> tuple[Claim, ...]:
    """A description of every benchmark whose four numbers are at hand, a claim on every corner of the grid, and a
    description of the areas under its learning curves."""
    curves = (claim for one in crossed if one.study is not None for claim in _of_the_curves(one))
    return (*_of_the_paper(crossed[0]), *(claim for one in crossed for claim in _of_the_grid(one)), *curves)


def _of_the_paper(crossed: Crossed) -> Iterator[Claim]:
    words = crossed.published
    if words is None:
        return
    for row in published_interactions(crossed.factor, crossed.by).query("missing == ''").to_dict("records"):
        about = f"{row['name']} ({row['unit']}), {row['fixed']}"
        yield Claim(
            id=f"{row['benchmark']}, {row['fixed']}",
            sentence=f"{about}: what {words.adds} adds {words.at_end}, beside what it adds {words.at_start}",
            statistic=Described(
                "published",
                "at_end",
                "at_start",
                where=f"benchmark == {row['benchmark']!r} and fixed == {row['fixed']!r}",
            ),
            control=f"what it adds {words.at_start}",
            unit="published runs",
            least=1,
            descriptive=True,
            untrained=False,
            about=(PAPER,),
        )


def _corners(crossed: Crossed) -> list[tuple[str, str, str]]:
    return [(first, second, split) for first, second in crossed.corners for split in SPLITS]


def _of_the_grid(crossed: Crossed) -> Iterator[Claim]:
    degree, words = "more" if crossed.more else "less", crossed.words
    for first, second, split in _corners(crossed):
        yield Claim(
            id=(of := _of(first, second, split)),
            sentence=(
                f"On {SPLITS[split]}, {words.adds} adds {degree} (share right) {words.at_end} than {words.at_start} "
                f"({first} to {second})"
            ),
            # In shares and in log odds: where the two disagree, the ceiling may have made it.
            statistic=EveryWay((_in_shares(of), replace(_in_shares(of), value="by_odds", control=0.0))),
            control=f"what it adds {words.at_start}",
            unit="training seeds",
            margin=MARGIN,
            least=FEWEST_RUNS,
            more=crossed.more,
            untrained=False,
            about=(crossed.of,),
        )


def _of_the_curves(crossed: Crossed) -> Iterator[Claim]:
    """The same by the area under the learning curve: described, so that it takes no share of the correction."""
    words = crossed.words
    for claim, (first, second, split) in zip(_of_the_grid(crossed), _corners(crossed), strict=True):
        yield replace(
            claim,
            id=f"{claim.id}, along training",
            sentence=(
                f"On {SPLITS[split]}, what {words.adds} adds {words.at_end}, beside what it adds {words.at_start}, by "
                f"the area under the learning curve ({first} to {second})"
            ),
            statistic=_in_shares(claim.id),
            unit="sets of learning curves",
            descriptive=True,
            about=(crossed.along,),
        )


def _in_shares(of: str) -> OverRuns:
    return OverRuns("runs", "b", "a", where=f"of == {of!r}", resolution="step")


def _of(first: str, second: str, split: str, kind: str = "all") -> str:
    """What a difference of differences is called: by its corners, scenes and, if it is of one, its question type."""
    return f"{first} to {second}, {split}" + ("" if kind == "all" else f", {kind}")


def shown(crossed: Sequence[Crossed], measured: Mapping[str, Tables], items: Sequence[Item] = ()) -> Shown:
    """The tables "published", "over seeds" and "forest" (what the figure draws), and sentences on either side."""
    published = measured.get(PAPER, {}).get("published", pd.DataFrame())
    there = [one for one in crossed if one.of in measured]
    each = [_over_seeds(one, measured) for one in there]
    parts = [
        _drawn_of_the_paper(published),
        *(_drawn_of_the_grid(one, measured[one.of]["runs"], own) for one, own in zip(there, each, strict=True)),
    ]
    tables = {"over seeds": _one_below_the_other(each), "forest": _one_below_the_other(parts)}
    said = (_said_of_the_grid(one, own) for one, own in zip(there, each, strict=True))
    return Shown(
        tables=tables if published.empty else {"published": published, **tables},
        summary=[_said_of_the_paper(crossed[0], published), *(line for lines in said for line in lines)],
    )


def _one_below_the_other(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    return pd.concat([part for part in parts if len(part)] or parts, ignore_index=True)


def _over_seeds(crossed: Crossed, measured: Mapping[str, Tables]) -> pd.DataFrame:
    """What the claims estimate, a row each that some seed is there for; with the first cell's mean, the log odds, and
    the same of areas under learning curves."""
    rows = []
    for claim in _of_the_grid(crossed):
        found, own = claim.statistic([measured[crossed.of]]), measured[crossed.of]["runs"].query("of == @claim.id")
        if found.n:
            about = {name: own[name].iloc[0] for name in ("of", "first", "second", "split", "n")}
            means = {name: float(own[name].to_numpy(dtype=float).mean()) for name in ("reference", "log_odds")}
            estimated = (found.n, found.control, found.value, found.difference, found.low, found.high)
            area = _in_shares(claim.id)([measured[crossed.along]]).difference if crossed.along in measured else NAN
            rows.append({**about, **dict(zip(_ESTIMATED, estimated, strict=True)), **means, "area": area})
    columns = ["of", "first", "second", "split", "n", *_ESTIMATED, "reference", "log_odds", "area"]
    return pd.DataFrame(rows, columns=columns)


NAN = float("nan")
_ESTIMATED = ["seeds", "a", "b", "difference", "low", "high"]
_DRAWN = ["name", "series", "what", "relative", "low", "high"]


def _drawn_of_the_paper(published: pd.DataFrame) -> pd.DataFrame:
    nan, all_of_them = NAN, len(published)
    if all_of_them and published.query("missing == ''").empty:
        line = (f"all {all_of_them} of the paper's", "paper", "the paper, one run a number", nan, nan, nan)
        return pd.DataFrame([line], columns=_DRAWN)
    rows = []
    for fixed, group in published.groupby("fixed", sort=False) if len(published) else ():
        there = len(group.query("missing == ''"))
        what = f"the paper, {fixed} ({there} of {len(group)} at hand), one run a number"
        rows.append(group.assign(series="paper", what=what, low=nan, high=nan).filter(_DRAWN))
    return pd.concat(rows).filter(_DRAWN) if rows else pd.DataFrame(columns=_DRAWN)


def _drawn_of_the_grid(crossed: Crossed, runs: pd.DataFrame, effects: pd.DataFrame) -> pd.DataFrame:
    """Every seed, and the mean of several with its interval; in percent of the first cell's mean, like the paper's."""
    nan, each = NAN, "replicas, a training seed each"
    rows = [(f"{first} to {second}", "seed", each, nan, nan, nan) for first, second in _untrained(crossed, effects)]
    for effect in effects.to_dict("records"):
        name = f"{effect['first']} to {effect['second']},\n{SPLITS[effect['split']]}"
        percent = 100 / effect["reference"]
        own = runs.loc[runs["of"] == effect["of"]]
        rows += [(name, "seed", each, percent * value, nan, nan) for value in own["difference"].tolist()]
        if effect["seeds"] > 1:
            ends = (percent * effect[side] for side in ("difference", "low", "high"))
            rows.append((name, "mean", "replicas, mean of seeds; 95 % from 3 seeds on", *ends))
    return pd.DataFrame(rows, columns=_DRAWN)


def _untrained(crossed: Crossed, effects: pd.DataFrame) -> list[tuple[str, str]]:
    """The corners of which no training seed has all four cells."""
    there = set(zip(effects["first"], effects["second"], strict=True))
    return [corner for corner in crossed.corners if corner not in there]


def _said_of_the_paper(crossed: Crossed, published: pd.DataFrame) -> str:
    words = crossed.published
    if words is None:
        return f"The paper's models do not cross {crossed.factor} and {crossed.by}: its table says nothing of it."
    there = published.query("missing == ''")
    # Numbers are printed with three digits at most; what is left of a difference below that is arithmetic.
    known = np.round(there["difference"].to_numpy(dtype=float), 6)
    less, more = int((known < 0).sum()), int((known > 0).sum())
    said = f"Of the paper's {len(published)} differences of differences {len(there)} can be computed"
    if len(there):
        said += f": {words.adds} adds more {words.at_end} than {words.at_start} in {more}, less in {less}, "
        said += f"as much in {len(there) - more - less}"
    half = published.loc[published["at_start"].notna() & published["at_end"].isna()]
    if len(half):
        up = int((np.round(half["at_start"].to_numpy(dtype=float), 6) > 0).sum())
        said += (
            f"; in {len(half)} more, what {words.adds} adds {words.at_start} is known (it helps in {up}), and what it "
            f"adds {words.at_end} is not"
        )
    return f"{said}. Each number is one run."


def _said_of_the_grid(crossed: Crossed, effects: pd.DataFrame) -> Iterator[str]:
    words = crossed.words
    for first, second in _untrained(crossed, effects):
        yield f"{first} to {second}: no training seed has all four cells; {FEWEST_RUNS} seeds would do."
    for row in effects.to_dict("records"):
        seeds = f"mean of {row['seeds']} training seeds" if row["seeds"] > 1 else "one training seed"
        yield (
            f"{row['first']} to {row['second']}, {SPLITS[row['split']]}: {words.adds} adds {100 * row['b']:+.1f} "
            f"points {words.at_end}, {100 * row['a']:+.1f} {words.at_start}; {100 * row['difference']:+.1f} "
            f"between them ({row['log_odds']:+.2f} in log odds; {seeds})."
        )


def sections(id: str, crossed: Crossed) -> tuple[Section, ...]:
    """The forest and what it is made of."""
    words, published = crossed.words, crossed.published
    title = f"What {words.adds} adds {words.at_end}, minus what it adds {words.at_start}"
    given = {"title": title, "adds": words.adds, "at": words.at_end}
    of_the_paper = (
        "One dot a published difference of differences, in percent of the number of the model that neither change was "
        "made to; below, the same of the replicas: a"
    )
    caption = (
        f"{of_the_paper if published else 'A'} dot a training seed, and their mean with its 95 % interval "
        "(Student's t over seeds). Left of 0 the change adds less, or takes more."
    )
    figure = FigureOf(
        f"{id.lower()}_interactions",
        "interactions",
        "forest",
        caption,
        "differences of differences by benchmark",
        given=given,
        says=f"{words.adds} adds {'more' if crossed.more else 'less'} {words.at_end} than {words.at_start}",
        claims=tuple(f"*, {split}" for split in SPLITS),
    )
    columns = {
        "first": "neither changed",
        "second": "both changed",
        "split": "scenes",
        "n": "questions",
        "seeds": "seeds",
    }
    columns |= {"a": words.at_start, "b": words.at_end, "difference": "difference", "low": "95 % from", "high": "to"}
    over_seeds = TableOf("over seeds", {**columns, "log_odds": "in log odds", "area": "under the curve"})
    return (Section("Does one change do more where the other was made?", (figure, *_table_of(published), over_seeds)),)


def _table_of(published: Words | None) -> Iterator[TableOf]:
    """The paper's numbers, of those benchmarks of which all four are at hand."""
    if published is not None:
        columns = {"name": "benchmark", "unit": "unit", "fixed": "both with", "at_start": published.at_start}
        columns |= {"at_end": published.at_end, "difference": "difference", "relative": "% of the first"}
        yield TableOf("published", columns, where="missing == ''")


def methods(crossed: Crossed) -> tuple[str, ...]:
    """How it is read."""
    what = (
        f"A difference of differences: what {crossed.words.adds} adds {crossed.words.at_end}, minus what it adds "
        f"{crossed.words.at_start}: (y11 - y10) - (y01 - y00), where the first index says whether the {crossed.by} was "
        f"changed, the second whether the {crossed.factor} was."
    )
    paper = (
        "The paper's y (Hinck et al. 2024, arXiv:2404.01331), as read from its public model card and project page, is "
        "one run on one benchmark: a description, without interval or test."
    )
    grid = (
        "The replicas' y is a share right. The four cells of a seed share its scenes and whatever the changes leave "
        "alone, so that it is taken seed by seed; interval and test are Student's t over training seeds, Holm over the "
        f"finding's claims, {FEWEST_RUNS} seeds at least. Shares are counted in items: a standard deviation below one "
        "item's share is taken for one item's. Near a share of 1 the ceiling makes differences of differences of its "
        "own (Loftus 1978), so that they are also taken of the log odds, brought back to shares by the mean p (1 - p); "
        "the interval reaches over those of both scales, and p is the greater of the two (an intersection-union test, "
        "Berger 1982). Of a study the area under the learning curve (the mean share right over the base-2 logarithm of "
        "the budget, by trapezoids) is described beside it, without a test."
    )
    return (what, paper, grid) if crossed.published else (what, grid)


CAVEATS = (
    "A difference of differences depends on the scale: near a share of 1 every change is small, whatever it does to "
    "the odds. What holds in shares alone, or in log odds alone, is therefore undecided.",
)
OF_THE_STUDY = (
    "The study's arms see the same scenes in the same order, as many of them with connector pretraining as without; "
    "keys and values are as wide as the model's width makes them. They are trained early in what more training would "
    "give: what holds at this budget need not hold at ten times as much, and the curves over budgets are in "
    "`studies.results('grid')`.",
    "Each seed draws its own novel kinds of object, encoder, language model and scenes; an arm without pretraining "
    "begins with questions.",
)
OF_THE_SHIPPED_GRID = (
    "The shipped cells differ in more than they are named for: the large language model has more key-value heads as "
    "well as more layers, and all stand near the ceiling.",
)


def left_out(gaps: Mapping[str, Sequence[str]]) -> str:
    """The caveat that names what is not at hand."""
    said = "; ".join(
        f"{model} ({'all' if len(names) == len(NAMES) else ', '.join(names)})" for model, names in gaps.items()
    )
    return f"Not at hand of the paper's table, and guessed nowhere: {said}."
