"""What one change does among the replicas, all else equal, over the seeds they were trained from.

`compare` says how two trained models differ on items; this says what training again would give. Two
cells trained from one seed share their scenes and everything that the change leaves alone (an encoder; a
language model too, unless its size or its vocabulary changes), so that seeds are paired. Whether a change does more
where another was made too is a difference of two such differences, again of one seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from vlm_probe.errors import VlmProbeError
from vlm_probe.evidence.estimate import over_runs
from vlm_probe.evidence.paired import holm
from vlm_probe.evidence.verdict import Verdict, decide
from vlm_probe.studies.study import ROW_CHANGES, SEEING, TAUGHT

GRID_FACTORS: dict[str, str] = {
    "size": "size",
    "encoder": "encoder",
    "connector": "connector_pretrained",
    "vocabulary": "vocabulary",
}
"""Factor -> its column among the grid's scores."""
_COLUMN = {**GRID_FACTORS, "rows": "rows", "frozen": "frozen", "rate": "rate"}
"""The same of any study; where scores lack a column, no two cells differ in it."""
_CHANGES: dict[str, tuple[tuple[Any, Any], ...]] = {
    "size": (("small", "large"),),
    "encoder": (("clip", "dino"), *((kind, SEEING) for kind in TAUGHT), *((TAUGHT[0], kind) for kind in TAUGHT[1:])),
    "connector": ((False, True),),
    "rows": tuple(ROW_CHANGES),
    "frozen": ((False, True),),
}
"""From which level to which, of factors whose levels have no order or not all of whose changes are asked about."""
FEWEST_RUNS = 5
"""Training seeds that an effect of the design takes: of three, an interval is 2.5 standard deviations wide each way."""
_PAIR = ["factor", "first", "second", "split", "kind"]
_COLUMNS = [*_PAIR, "n", "seed", "a", "b", "difference"]


def _cells(scores: pd.DataFrame) -> pd.DataFrame:
    """What every cell is made of: cell -> the columns of its factors."""
    return scores.drop_duplicates("cell").set_index("cell").filter(list(_COLUMN.values()))


def _steps(factor: str, cells: pd.DataFrame) -> Sequence[tuple[Any, Any]]:
    """A factor's changes; of levels in order, from one to the next, and of more than two from the first to the last."""
    if factor in _CHANGES:
        return _CHANGES[factor]
    levels = sorted(set(cells[_COLUMN[factor]]))
    return [*pairwise(levels), *([(levels[0], levels[-1])] if len(levels) > 2 else [])]


def grid_differences(scores: pd.DataFrame) -> pd.DataFrame:
    """The difference of every two cells that differ in one factor alone, seed by seed.

    scores: as `studies.grid_scores` returns it.

    Returns one row per pair of cells, split, question type and seed that both have: columns factor,
    first, second (cells: small before large, CLIP before DINO and before CLIP that was told less, without
    pretraining before with it, a vocabulary before the next larger one, and the smallest before the largest, rates
    alike; of rows of a vocabulary, the changes that study `vocabulary` is about), split, kind, n (items), seed, a, b
    (shares right), difference (b - a).

    Raises VlmProbeError where no two cells share a seed and were scored on as many items.
    """
    cells, both = _cells(scores), []
    for factor, column in _COLUMN.items():
        if column not in cells:
            continue
        others = [name for name in cells if name != column]
        for low, high in _steps(factor, cells):
            a, b = cells[cells[column] == low].reset_index(), cells[cells[column] == high].reset_index()
            for first, second in a.merge(b, on=others).filter(["cell_x", "cell_y"]).itertuples(index=False):
                pair = scores[scores["cell"] == first].merge(
                    scores[scores["cell"] == second], on=["seed", "split", "kind", "n"], suffixes=("_a", "_b")
                )
                both.append(pair.assign(factor=factor, first=first, second=second))
    table = pd.concat(both, ignore_index=True) if both else pd.DataFrame()
    if table.empty:
        kinds = scores["kind"].tolist()
        whole = scores.loc[scores["kind"] == ("all" if "all" in kinds else next(iter(kinds), ""))].to_dict("records")
        there = ", ".join(dict.fromkeys(f"{r['cell']} (seed {r['seed']}, {r['n']} items)" for r in whole))
        raise VlmProbeError(
            "no two cells differ in one factor and share a seed and its items, so that nothing can be compared; there "
            f"are {there}"
        )
    table = table.rename(columns={"accuracy_a": "a", "accuracy_b": "b"})
    table = table.assign(difference=table["b"] - table["a"]).filter(_COLUMNS)
    table.attrs = {"title": "The grid of replicas, one change at a time", "units": "share right"}
    return table


def grid_interactions(scores: pd.DataFrame, factor: str, by: str) -> pd.DataFrame:
    """Whether one factor changes more where another was changed: differences of differences, seed by seed.

    scores: as `studies.grid_scores` returns it. factor, by: of `GRID_FACTORS`, or another factor of a study.

    Returns one row per four cells, split, question type and seed that all four have; none where no such four are. The
    columns are those of `grid_differences`, so that `grid_effects` sums them up: factor ("size by connector"), first
    (the cell that neither is changed of), second (that both are changed of), a and b (what `factor` changes at the
    level that `by` starts from, and at the one it goes to), difference (b - a). And step (of shares, 1 / n), reference
    (the first cell's share right), log_odds (the difference of differences of the log odds of being right; a half is
    added to both counts, Haldane 1956), and by_odds (that in shares: times the mean of p (1 - p) over these cells and
    seeds, which is how far a share moves with its log odds). Near a share of 1 all changes are small, which makes
    differences of differences in shares that are none in log odds (Loftus 1978).

    Raises VlmProbeError as `grid_differences` does.
    """
    cells = _cells(scores)
    changes = grid_differences(scores).query("factor == @factor")
    column = _COLUMN[by]
    level = cells.loc[changes["first"], column].to_numpy()
    # What the two cells of a change are, but for the level of `by`.
    keys = ["split", "kind", "n", "seed"]
    for side in ("first", "second"):
        for name in (name for name in cells if name != column):
            keys.append(f"{side} {name}")
            changes = changes.assign(**{keys[-1]: cells.loc[changes[side], name].to_numpy()})
    parts = []
    for low, high in _steps(by, cells):
        four = changes.loc[level == low].merge(changes.loc[level == high], on=keys, suffixes=("_low", "_high"))
        parts.append(
            four.assign(
                factor=f"{factor} by {by}",
                first=four["first_low"],
                second=four["second_high"],
                a=four["difference_low"],
                b=four["difference_high"],
                difference=four["difference_high"] - four["difference_low"],
                step=1 / four["n"],
                reference=four["a_low"],
                log_odds=_odds(four, "high") - _odds(four, "low"),
                slope=four.filter(["a_low", "b_low", "a_high", "b_high"]).apply(lambda p: p * (1 - p)).mean(axis=1),
            )
        )
    table = pd.concat(parts, ignore_index=True)
    table["by_odds"] = table["log_odds"] * table.groupby(_PAIR)["slope"].transform("mean")
    table = table.filter([*_COLUMNS, "step", "reference", "log_odds", "by_odds"])
    table.attrs = {"title": f"The grid of replicas, {factor} by {by}", "units": "share right"}
    return table


def learning_curves(table: pd.DataFrame) -> pd.DataFrame:
    """Every arm's share right along its training, as the mean over seeds, all question types together.

    table: as `studies.results` returns it.

    Returns a row per arm, split and budget: arm, its factors, scenes, budget, split, n (items), seeds, accuracy, low,
    high (95 %, Student's t over seeds; NaN with fewer than three).
    """
    rows = []
    for _, group in table.query("kind == 'all'").groupby(["arm", "split", "budget"], sort=False):
        about = group.iloc[0].drop(["seed", "kind", "accuracy"]).to_dict()
        found = over_runs(group["accuracy"].to_numpy(dtype=float), np.zeros(len(group)), resolution=1 / about["n"])
        rows.append({**about, "seeds": found.n, "accuracy": found.value, "low": found.low, "high": found.high})
    curves = pd.DataFrame(rows)
    curves.attrs = {**table.attrs, "method": "mean over training seeds; 95 % interval by Student's t over seeds"}
    return curves


def _odds(four: pd.DataFrame, at: str) -> np.ndarray:
    """How far a change moves the log odds of being right."""
    n = four["n"].to_numpy(dtype=float)
    before, after = (four[f"{side}_{at}"].to_numpy(dtype=float) * n for side in "ab")
    return np.log((after + 0.5) / (n - after + 0.5)) - np.log((before + 0.5) / (n - before + 0.5))


def grid_effects(
    differences: pd.DataFrame, *, margin: float = 0.0, family: Sequence[str] = ("split", "kind")
) -> pd.DataFrame:
    """The mean effect over seeds, with the interval that training from other seeds would leave.

    differences: as `grid_differences` or `grid_interactions` returns it; with a column beside (the same difference held
        to a control), an effect is as sure as the less sure of both, as an intersection-union test has it (Berger
        1982).
    margin: the largest difference that does not
    matter; inside it for sure, two arms are equivalent. family: columns; rows that are alike in them are corrected
    together.

    Returns one row per pair of cells, split and question type: columns factor, first, second, split, kind, n (items),
    seeds (their number), a, b (means), difference, low, high (95 %, Student's t over seeds; NaN with fewer than three),
    p, p_holm (corrected over the rows of a family that have enough seeds), verdict (`Verdict`) on
    "the difference is positive" and the reason where it is undecided, as fewer than `FEWEST_RUNS` seeds are. The items
    are the same for all seeds, so the interval is about training, not about other items. Shares are counted in items:
    seeds that agree by chance are taken to differ by one (a standard deviation of at least 1 / n).
    """
    rows = []
    for _, group in differences.groupby(_PAIR, sort=False):
        a, b = group["a"].to_numpy(dtype=float), group["b"].to_numpy(dtype=float)
        about = {name: group[name].iloc[0] for name in (*_PAIR, "n")}
        found = over_runs(b, a, resolution=1 / about["n"])
        each = [found]
        if "beside" in group:
            each.append(over_runs(group["beside"].to_numpy(dtype=float), np.zeros(len(a)), resolution=1 / about["n"]))
        rows.append(
            {
                **about,
                "seeds": found.n,
                "a": found.control,
                "b": found.value,
                "difference": found.difference,
                "low": min(one.low for one in each),
                "high": max(one.high for one in each),
                "p": max(one.p for one in each),
                "p_holm": np.nan,
            }
        )
    columns = [*_PAIR, "n", "seeds", "a", "b", "difference", "low", "high", "p", "p_holm"]
    table = pd.DataFrame(rows, columns=columns)
    enough = table["seeds"] >= FEWEST_RUNS
    for _, asked in table.loc[enough].groupby([*family]):
        table.loc[asked.index, "p_holm"] = holm(asked["p"].tolist())
    said = [_said(row, margin) for row in table.to_dict("records")]
    table["verdict"], table["reason"] = [str(verdict) for verdict, _ in said], [reason for _, reason in said]
    method = "paired by seed; 95 % interval by Student's t over seeds; p by Holm over all pairs of cells"
    table.attrs = {**differences.attrs, "method": method}
    return table


def _said(row: dict[Any, Any], margin: float) -> tuple[Verdict, str]:
    if row["seeds"] < FEWEST_RUNS:
        return Verdict.UNDECIDED, f"{row['seeds']} training seeds, {FEWEST_RUNS} would do"
    return decide(row["difference"], row["low"], row["high"], row["p_holm"], margin=margin)
