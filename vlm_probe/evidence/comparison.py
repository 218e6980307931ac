"""Two models on the same items: how far apart, and whether that could be chance."""

from __future__ import annotations

import numpy as np
import pandas as pd

from vlm_probe.errors import VlmProbeError
from vlm_probe.evidence.evidence import Evidence
from vlm_probe.evidence.paired import holm, mcnemar, sign_flips
from vlm_probe.settings import ALPHA, SEED

UNCONFIRMED = "undecided (interval excludes 0, the test does not)"
"""The verdict where too few items differ for McNemar's test, or there are too many families."""


def _clusters(rows: pd.DataFrame) -> np.ndarray:
    """Pairs stay together, and so do items of one image, where it is known."""
    groups, images = rows["group"].to_numpy(), rows["image"].to_numpy()
    _, index, size = np.unique(groups.astype(str), return_inverse=True, return_counts=True)
    return np.where(size[index] > 1, groups, np.where(images == "", rows["id"].to_numpy(), images))


def _paired(answers: pd.DataFrame, first: str, second: str) -> pd.DataFrame:
    """Both models' rows of the items they share: columns of the first, with suffixes _a and _b for answers."""
    a, b = answers.query("model == @first"), answers.query("model == @second")
    about = a.filter(["id", "family", "group", "image", "correct", "score"])
    both = about.merge(b.filter(["id", "correct", "score"]), on="id", suffixes=("_a", "_b"))
    if both.empty:
        raise VlmProbeError(f"{first} and {second} have no item in common, so they cannot be compared")
    return both


def compare(answers: pd.DataFrame, first: str, second: str, *, seed: int = SEED) -> pd.DataFrame:
    """`second` against `first` on the items both answered.

    answers: as `evaluate` returns it, of several models.

    Returns one row a family, and "all" where there are several: n (items), clusters (images or pairs), a and b (mean
    scores), difference (b - a) with low and high (95 %, Student's t over clusters), only_a and only_b (items that
    one alone has right), test and p, p_holm (corrected over the families; "all" is not one of them), verdict on "second
    is better": what the interval says, where the test says so too (p_holm, for "all" p, below 0.05).

    The test is McNemar's where every answer is right or wrong. Where scores lie between, it is sign flips of the same
    differences over clusters: McNemar's, of what counts as right, can say the opposite of the means. The
    interval alone does not do where few items decide: of two models that differ in four of 200, all one way, it can
    exclude 0, and McNemar's p is 0.125.

    Raises VlmProbeError for a model that is not in the table, or no common item.
    """
    known = answers["model"].unique().tolist()
    for name in (first, second):
        if name not in known:
            raise VlmProbeError(f"no answers of {name!r}; there are {', '.join(known)}")
    both = _paired(answers, first, second)
    groups = [(str(family), rows) for family, rows in both.groupby("family", sort=False)]
    rows = []
    for family, part in [*groups, *([("all", both)] if len(groups) > 1 else [])]:
        right_a, right_b = part["correct_a"].to_numpy(dtype=bool), part["correct_b"].to_numpy(dtype=bool)
        clusters = _clusters(part)
        a, b = (part[f"score_{side}"].to_numpy(dtype=float) for side in "ab")
        found = Evidence.paired(family, f"{second} answers more questions than {first}", b, a, clusters)
        soft = not np.isin([a, b], [0.0, 1.0]).all()
        rows.append(
            {
                "family": family,
                "n": found.n,
                "clusters": len(np.unique(clusters)),
                "a": found.control,
                "b": found.value,
                "difference": found.difference,
                "low": found.low,
                "high": found.high,
                "only_a": int((right_a & ~right_b).sum()),
                "only_b": int((right_b & ~right_a).sum()),
                "test": "sign flips" if soft else "McNemar",
                "p": sign_flips(b - a, clusters, seed=seed) if soft else mcnemar(right_a, right_b),
                "verdict": found.verdict,
            }
        )
    table = pd.DataFrame(rows)
    corrected = holm(table["p"].tolist()[: len(groups)])
    table["p_holm"] = [*corrected, *[np.nan] * (len(table) - len(groups))]
    decisive = table["p_holm"].fillna(table["p"]) < ALPHA
    table["verdict"] = table["verdict"].where(decisive | table["verdict"].str.startswith("undecided"), UNCONFIRMED)
    table.insert(0, "models", f"{second} - {first}")
    table.attrs = {"title": f"{second} against {first}", "first": first, "second": second}
    return table
