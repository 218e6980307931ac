"""What one change does among the replicas, all else equal, over the seeds they were trained from.

`compare` says how two trained models differ on items; this says what training again would give. Two
cells trained from one seed share their scenes and everything that the change leaves alone (an encoder; a
language model too, unless the vocabulary changes), so that seeds are paired.
"""

from __future__ import annotations

from itertools import pairwise

import pandas as pd

from vlm_probe.errors import VlmProbeError
from vlm_probe.evidence import Evidence

GRID_FACTORS: dict[str, str] = {
    "size": "size",
    "encoder": "encoder",
    "connector": "connector_pretrained",
    "vocabulary": "vocabulary",
}
"""Factor -> its column among the grid's scores."""
_LEVELS = {"size": ("small", "large"), "encoder": ("clip", "dino"), "connector": (False, True)}
_PAIR = ["factor", "first", "second", "split", "kind"]


def grid_differences(scores: pd.DataFrame) -> pd.DataFrame:
    """The difference of every two cells that differ in one factor alone, seed by seed.

    scores: as `studies.grid_scores` returns it.

    Returns one row per pair of cells, split, question type and seed that both have: columns factor,
    first, second (cells: small before large, CLIP before DINO, without pretraining before with it, a
    vocabulary before the next larger one, and the smallest before the largest), split, kind, n (items),
    seed, a, b (shares right), difference (b - a).

    Raises VlmProbeError where no two cells share a seed and were scored on as many items.
    """
    columns = list(GRID_FACTORS.values())
    cells = scores.drop_duplicates("cell").set_index("cell").filter(columns)
    both = []
    for factor, column in GRID_FACTORS.items():
        levels = _LEVELS.get(factor, sorted(set(cells[column])))
        others = [name for name in columns if name != column]
        steps = [*pairwise(levels), *([(levels[0], levels[-1])] if len(levels) > 2 else [])]
        for low, high in steps:
            a, b = cells[cells[column] == low].reset_index(), cells[cells[column] == high].reset_index()
            for first, second in a.merge(b, on=others).filter(["cell_x", "cell_y"]).itertuples(index=False):
                pair = scores[scores["cell"] == first].merge(
                    scores[scores["cell"] == second], on=["seed", "split", "kind", "n"], suffixes=("_a", "_b")
                )
                both.append(pair.assign(factor=factor, first=first, second=second))
    table = pd.concat(both, ignore_index=True) if both else pd.DataFrame()
    if table.empty:
        trained = scores.query("kind == 'all'").to_dict("records")
        there = ", ".join(dict.fromkeys(f"{r['cell']} (seed {r['seed']}, {r['n']} items)" for r in trained))
        raise VlmProbeError(
            "no two cells differ in one factor and share a seed and its items, so that nothing can be compared; there "
            f"are {there}"
        )
    table = table.rename(columns={"accuracy_a": "a", "accuracy_b": "b"})
    table = table.assign(difference=table["b"] - table["a"]).filter([*_PAIR, "n", "seed", "a", "b", "difference"])
    table.attrs = {"title": "The grid of replicas, one change at a time", "units": "share right"}
    return table


def grid_effects(differences: pd.DataFrame) -> pd.DataFrame:
    """The mean effect over seeds, with the interval that training from other seeds would leave.

    differences: as `grid_differences` returns it.

    Returns one row per pair of cells, split and question type: columns factor, first, second, split,
    kind, n (items), seeds (their number), a, b (mean shares right), difference, low, high (95 %,
    Student's t over seeds; NaN with fewer than three), verdict on "second is better". The items are the
    same for all seeds, so the interval is about training, not about other items. Shares are counted in
    items: seeds that agree by chance are taken to differ by one (a standard deviation of at least 1 / n).
    """
    rows = []
    for _, group in differences.groupby(_PAIR, sort=False):
        a, b = group["a"].to_numpy(dtype=float), group["b"].to_numpy(dtype=float)
        about = {name: group[name].iloc[0] for name in (*_PAIR, "n")}
        claim = f"{about['second']} answers more questions than {about['first']}"
        found = Evidence.over_seeds(str(about["factor"]), claim, b, a, resolution=1 / about["n"])
        rows.append(
            {
                **about,
                "seeds": found.n,
                "a": found.control,
                "b": found.value,
                "difference": found.difference,
                "low": found.low,
                "high": found.high,
                "verdict": found.verdict,
            }
        )
    table = pd.DataFrame(rows)
    table.attrs = {**differences.attrs, "method": "paired by seed; 95 % interval by Student's t over seeds"}
    return table
