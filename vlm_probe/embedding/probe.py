"""Linear probes with their controls: is it there, linearly, and is that more than the probe could memorise?"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from vlm_probe.errors import VlmProbeError

STRENGTHS = (0.001, 0.03, 1.0)
"""Inverse regularisation that the inner cross-validation chooses from."""
PORTIONS = (0.05, 0.1, 0.2, 0.4, 0.7, 1.0)
"""Shares of the data after which the online code's probe is trained anew."""


def _model(strength: float, regression: bool) -> Any:
    last = Ridge(alpha=1 / strength) if regression else LogisticRegression(C=strength, max_iter=300)
    return make_pipeline(StandardScaler(), last)


def _check(x: np.ndarray, y: np.ndarray, groups: np.ndarray, folds: int, regression: bool) -> None:
    if x.ndim != 2:
        raise VlmProbeError(f"features must be [item, feature], got shape {list(x.shape)}")
    if not len(x) == len(y) == len(groups):
        raise VlmProbeError(f"{len(x)} feature rows, {len(y)} labels and {len(groups)} groups must be as many")
    bad = int((~np.isfinite(x)).any(axis=1).sum())
    if bad:
        raise VlmProbeError(f"the features have NaN or infinite values in {bad} of {len(x)} items; leave those out")
    if len(x) and bool((x == x[:1]).all()):
        raise VlmProbeError("the features are the same for every item: there is nothing to probe")
    n = len(np.unique(groups))
    if n < 2 * folds:
        raise VlmProbeError(f"{n} different groups are too few for {folds} folds; give at least {2 * folds}")
    if regression:
        return
    classes, counts = np.unique(y, return_counts=True)
    if len(classes) < 2:
        raise VlmProbeError(f"all {len(y)} labels are {str(classes[0])!r}: a probe needs two classes or more")
    if counts.min() < folds:
        rare = classes[counts.argmin()]
        raise VlmProbeError(
            f"only {counts.min()} items have the label {str(rare)!r}; {folds} folds need at least {folds}"
        )


def _splits(y: np.ndarray, groups: np.ndarray, folds: int, seed: int, regression: bool) -> list[tuple[Any, Any]]:
    """Folds that share no group."""
    kind = GroupKFold if regression else StratifiedGroupKFold
    return list(kind(folds, shuffle=True, random_state=seed).split(np.zeros(len(y)), y, groups))


def _best(x: np.ndarray, y: np.ndarray, groups: np.ndarray, seed: int, regression: bool) -> float:
    """The strength that does best in an inner cross-validation, never on the fold that is scored."""
    inner = _splits(y, groups, 3, seed, regression)
    scores = [np.mean([_model(s, regression).fit(x[a], y[a]).score(x[b], y[b]) for a, b in inner]) for s in STRENGTHS]
    return STRENGTHS[int(np.argmax(scores))]


def _control_labels(y: np.ndarray, types: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A label drawn for every type from the distribution of the real ones (Hewitt and Liang 2019, section 2)."""
    kinds, index = np.unique(types, return_inverse=True)
    return rng.choice(y, len(kinds))[index]


def _interval(score: np.ndarray, groups: np.ndarray, seed: int) -> tuple[float, float]:
    """95 % percentile bootstrap of a mean, groups drawn whole."""
    _, index = np.unique(groups, return_inverse=True)
    total, count = np.bincount(index, weights=score), np.bincount(index)
    drawn = np.random.default_rng(seed).integers(0, len(total), (2000, len(total)))
    low, high = np.quantile(total[drawn].sum(1) / count[drawn].sum(1), [0.025, 0.975])
    return float(low), float(high)


def description_length(
    x: np.ndarray, y: np.ndarray, groups: np.ndarray, *, strength: float = 1.0, seed: int = 0
) -> float:
    """Bits to send the labels given the features, by the online code (Voita and Titov 2020,
    arXiv:2003.12298, equation 3): the first portion at the uniform rate, each further one by a probe
    trained on all before it. Groups are sent whole, in random order.

    The uniform code takes n log2(classes) bits; the ratio of the two is the compression.
    """
    order = np.random.default_rng(seed).permutation(np.unique(groups))
    rank = {group: i for i, group in enumerate(order)}
    position = np.asarray([rank[group] for group in groups])
    classes = np.unique(y)
    ends = [max(1, round(p * len(order))) for p in PORTIONS]
    bits = float((position < ends[0]).sum()) * np.log2(len(classes))
    for known, end in itertools.pairwise(ends):
        before, new = position < known, (position >= known) & (position < end)
        if not new.any():
            continue
        p = np.full((int(new.sum()), len(classes)), 1e-3)
        if len(np.unique(y[before])) > 1:
            probe = _model(strength, False).fit(x[before], y[before])
            p[:, np.searchsorted(classes, probe.classes_)] = probe.predict_proba(x[new]).clip(min=1e-3)
        p /= p.sum(axis=1, keepdims=True)
        bits -= float(np.log2(p[np.arange(len(p)), np.searchsorted(classes, y[new])]).sum())
    return bits


def linear_probe(
    x: np.ndarray | xr.DataArray,
    y: Sequence[Any] | np.ndarray,
    *,
    groups: Sequence[Any] | np.ndarray | None = None,
    types: Sequence[Any] | np.ndarray | None = None,
    folds: int = 5,
    seed: int = 0,
    mdl: bool = False,
) -> dict[str, float]:
    """A linear probe behind standardisation, nested cross-validation, and what it has to beat.

    Parameters
    ----------
    x: [item, feature].
    y: labels; numbers with a fraction make it ridge regression (scores are R^2), all else logistic regression.
    groups: items of one group are never on both sides of a split: give the image. Each item alone if None.
    types: what control labels depend on (Hewitt and Liang 2019, arXiv:1909.03368): items of one type
        get one random label, which a probe that memorises can learn. Each item alone if None, and the
        control then is a second shuffle.
    mdl: also the description length (Voita and Titov 2020), for classes only.

    Returns
    -------
    score (accuracy or R^2 over the held-out folds) with low and high (95 %, bootstrap over groups;
    of the accuracy, NaN for regression), shuffled (score on shuffled labels), control and selectivity
    (score - control), majority (always the most frequent label of the training fold), n, classes; with
    `mdl` description_length (bits) and compression. All probes of a fold have the strength that the
    inner cross-validation chose for the real labels.

    Raises
    ------
    VlmProbeError: features that are not finite or all the same, too few groups, one class only, a class
        with fewer items than folds.
    """
    x, y = np.asarray(x, dtype=float), np.asarray(y)
    group = np.arange(len(x)) if groups is None else np.asarray(groups)
    kind = np.arange(len(x)) if types is None else np.asarray(types)
    regression = y.dtype.kind == "f" and not bool((y == np.round(y)).all())
    _check(x, y, group, folds, regression)
    rng = np.random.default_rng(seed)
    targets = {"score": y, "shuffled": rng.permutation(y), "control": _control_labels(y, kind, rng)}
    predicted = {name: np.empty(len(y), dtype=y.dtype) for name in targets}
    majority = np.zeros(len(y))
    for train, test in _splits(y, group, folds, seed, regression):
        strength = _best(x[train], y[train], group[train], seed, regression)
        for name, target in targets.items():
            if regression or len(np.unique(target[train])) > 1:
                predicted[name][test] = _model(strength, regression).fit(x[train], target[train]).predict(x[test])
            else:
                predicted[name][test] = target[train][0]
        if not regression:
            values, counts = np.unique(y[train], return_counts=True)
            majority[test] = y[test] == values[counts.argmax()]
    if regression:
        scores = {
            n: 1 - float(((t - predicted[n]) ** 2).sum() / ((t - t.mean()) ** 2).sum()) for n, t in targets.items()
        }
        low = high = float("nan")
    else:
        scores = {name: float((target == predicted[name]).mean()) for name, target in targets.items()}
        low, high = _interval((y == predicted["score"]).astype(float), group, seed)
    found = {
        "score": scores["score"], "low": low, "high": high, "shuffled": scores["shuffled"],
        "control": scores["control"], "selectivity": scores["score"] - scores["control"],
        "majority": 0.0 if regression else float(majority.mean()), "n": len(y),
        "classes": 0 if regression else len(np.unique(y)),
    }  # fmt: skip
    if mdl and not regression:
        found["description_length"] = description_length(x, y, group, seed=seed)
        found["compression"] = len(y) * float(np.log2(found["classes"])) / found["description_length"]
    return found


def probe_layers(
    data: xr.Dataset,
    labels: Sequence[str],
    *,
    types: str | None = None,
    folds: int = 5,
    seed: int = 0,
    mdl: bool = False,
    progress: Callable[[int], None] | None = None,
) -> pd.DataFrame:
    """`linear_probe` at every point of a set of features, for every label, grouped by image.

    data: from `features`, pooled to one vector an item. labels: coordinates of it. types: the
    coordinate that control labels depend on.

    Returns one row a point and label: columns point, label, and those of `linear_probe`.

    Raises VlmProbeError for an unknown label, features that are not pooled, and as `linear_probe` does.
    """
    wanted = [*labels, *([types] if types else [])]
    unknown = [name for name in wanted if name not in data.coords]
    if unknown:
        raise VlmProbeError(
            f"the features have no label {', '.join(unknown)}; they have {', '.join(map(str, data.coords))}"
        )
    rows = []
    for point, values in data.data_vars.items():
        for label in labels:
            try:
                found = linear_probe(
                    values.values, data[label].values, groups=data["image"].values,
                    types=None if types is None else data[types].values, folds=folds, seed=seed, mdl=mdl,
                )  # fmt: skip
            except VlmProbeError as error:
                raise VlmProbeError(f"{label} at {point}: {error}") from error
            rows.append({"point": str(point), "label": label, **found})
            if progress is not None:
                progress(1)
    table = pd.DataFrame(rows)
    table.attrs = {"title": "linear probes", "units": "share right", **data.attrs}
    return table
