"""Two models on the same items: how far apart, and whether that could be chance."""

from __future__ import annotations

import numpy as np
import pandas as pd

from vlm_probe.errors import VlmProbeError
from vlm_probe.evidence.estimate import Estimate, paired
from vlm_probe.evidence.intervals import FEWEST_CLUSTERS
from vlm_probe.evidence.paired import holm
from vlm_probe.evidence.verdict import Verdict, decide
from vlm_probe.settings import SEED


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
    one alone has right), test and p, p_holm (corrected over all rows, "all" among them), verdict (`Verdict`) on "the
    second answers more of these items", and the reason where it is undecided. It is about two checkpoints and these
    items, not about what they were made of.

    The test is sign flips of the very differences that are compared, by whole clusters; of right and wrong answers, a
    cluster each, that is McNemar's. (McNemar's of what counts as right can say the opposite of the means of soft
    scores.) The interval alone does not do where few items decide: of two models that differ in four of 200, all one
    way, it can exclude 0, and p is 0.125.

    Raises VlmProbeError for a model that is not in the table, or no common item.
    """
    known = answers["model"].unique().tolist()
    for name in (first, second):
        if name not in known:
            raise VlmProbeError(f"no answers of {name!r}; there are {', '.join(known)}")
    both = _paired(answers, first, second)
    groups = [(str(family), rows) for family, rows in both.groupby("family", sort=False)]
    rows, estimates = [], []
    for family, part in [*groups, *([("all", both)] if len(groups) > 1 else [])]:
        right_a, right_b = part["correct_a"].to_numpy(dtype=bool), part["correct_b"].to_numpy(dtype=bool)
        clusters = _clusters(part)
        a, b = (part[f"score_{side}"].to_numpy(dtype=float) for side in "ab")
        found = paired(b, a, clusters, seed=seed)
        plain = np.isin([a, b], [0.0, 1.0]).all() and found.clusters == found.n
        estimates.append(found)
        rows.append(
            {
                "family": family,
                "n": found.n,
                "clusters": found.clusters,
                "a": found.control,
                "b": found.value,
                "difference": found.difference,
                "low": found.low,
                "high": found.high,
                "only_a": int((right_a & ~right_b).sum()),
                "only_b": int((right_b & ~right_a).sum()),
                "test": "McNemar" if plain else "sign flips",
                "p": found.p,
            }
        )
    table = pd.DataFrame(rows)
    table["p_holm"] = holm(table["p"].tolist())
    said = [_said(found, p) for found, p in zip(estimates, table["p_holm"].tolist(), strict=True)]
    table["verdict"], table["reason"] = [str(verdict) for verdict, _ in said], [reason for _, reason in said]
    table.insert(0, "models", f"{second} - {first}")
    table.attrs = {"title": f"{second} against {first}", "first": first, "second": second}
    return table


def _said(found: Estimate, p: float) -> tuple[Verdict, str]:
    if found.clusters < FEWEST_CLUSTERS:
        return Verdict.UNDECIDED, f"{found.clusters} images or pairs, {FEWEST_CLUSTERS} would do"
    return decide(found.difference, found.low, found.high, p)
