"""Linear probes with their controls: is it there, linearly, and is that more than the probe could memorise?"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float

from vlm_probe.embedding.logistic import Problems
from vlm_probe.errors import VlmProbeError
from vlm_probe.evidence.intervals import paired_bootstrap

STRENGTHS = (0.001, 0.03, 1.0)
"""Inverse regularisation that the inner cross-validation chooses from."""
PORTIONS = (0.05, 0.1, 0.2, 0.4, 0.7, 1.0)
"""Shares of the data after which the online code's probe is trained anew."""

SOLVERS = ("torch", "sklearn")
Labels = Sequence[Any] | np.ndarray


def _model(strength: float, regression: bool) -> Any:
    # Slow to import.
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

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
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

    kind = GroupKFold if regression else StratifiedGroupKFold
    return list(kind(folds, shuffle=True, random_state=seed).split(np.zeros(len(y)), y, groups))


def _control_labels(y: np.ndarray, types: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A label drawn for every type from the distribution of the real ones (Hewitt and Liang 2019, section 2)."""
    kinds, index = np.unique(types, return_inverse=True)
    return rng.choice(y, len(kinds))[index]


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


@dataclass
class _Task:
    """Labels with their controls and folds: the same for every layer that is probed."""

    targets: dict[str, np.ndarray]
    """score: the labels; shuffled and control: what a probe could memorise."""
    groups: np.ndarray
    splits: list[tuple[Any, Any]]
    majority: np.ndarray
    regression: bool
    seed: int
    strengths: tuple[float, ...] = STRENGTHS

    @cached_property
    def inner(self) -> list[list[tuple[Any, Any]]]:
        """Of every fold's training items, the folds by which a strength is chosen: dealt once for all layers."""
        y = self.targets["score"]
        return [_splits(y[train], self.groups[train], 3, self.seed, self.regression) for train, _ in self.splits]


def _best(x: np.ndarray, y: np.ndarray, fold: int, task: _Task) -> float:
    """The strength that does best in an inner cross-validation, never on the fold that is scored."""
    if len(task.strengths) == 1:
        return task.strengths[0]
    how, inner = task.regression, task.inner[fold]
    scores = [np.mean([_model(s, how).fit(x[a], y[a]).score(x[b], y[b]) for a, b in inner]) for s in task.strengths]
    return task.strengths[int(np.argmax(scores))]


def _task(y: Labels, groups: Labels | None, types: Labels | None, folds: int, seed: int, xs: list[np.ndarray]) -> _Task:
    labels = np.asarray(y)
    group = np.arange(len(xs[0])) if groups is None else np.asarray(groups)
    kind = np.arange(len(labels)) if types is None else np.asarray(types)
    regression = labels.dtype.kind == "f" and not bool((labels == np.round(labels)).all())
    for x in xs:
        _check(x, labels, group, folds, regression)
    rng = np.random.default_rng(seed)
    targets = {"score": labels, "shuffled": rng.permutation(labels), "control": _control_labels(labels, kind, rng)}
    splits = _splits(labels, group, folds, seed, regression)
    majority = np.zeros(len(labels))
    if not regression:
        for train, test in splits:
            values, counts = np.unique(labels[train], return_counts=True)
            majority[test] = labels[test] == values[counts.argmax()]
    return _Task(targets, group, splits, majority, regression, seed)


def _by_sklearn(x: np.ndarray, task: _Task) -> dict[str, np.ndarray]:
    """Predictions of every target for the items of each fold, by probes trained on the other folds."""
    x, y = x.astype(float), task.targets["score"]
    predicted = {name: np.empty(len(y), dtype=y.dtype) for name in task.targets}
    for fold, (train, test) in enumerate(task.splits):
        strength = _best(x[train], y[train], fold, task)
        for name, target in task.targets.items():
            if task.regression or len(np.unique(target[train])) > 1:
                fitted = _model(strength, task.regression).fit(x[train], target[train])
                predicted[name][test] = fitted.predict(x[test])
            else:
                predicted[name][test] = target[train][0]
    return predicted


def _mask(chosen: np.ndarray, n: int) -> np.ndarray:
    mask = np.zeros(n, dtype=bool)
    mask[chosen] = True
    return mask


def _by_torch(
    x: Float[np.ndarray, "layer item feature"], task: _Task, device: torch.device
) -> list[dict[str, np.ndarray]]:
    """As `_by_sklearn`, for several layers: every fold, strength and target is solved in one batch."""
    y, n = task.targets["score"], x.shape[1]
    names = np.unique(y)
    codes = {name: torch.as_tensor(np.searchsorted(names, t), device=device) for name, t in task.targets.items()}
    features = torch.as_tensor(x, dtype=torch.float32, device=device)
    outer = [(_mask(train, n), _mask(test, n)) for train, test in task.splits]

    def problems(labels: list[torch.Tensor], masks: list[np.ndarray]) -> Problems:
        return Problems(features, torch.stack(labels), torch.as_tensor(np.stack(masks), device=device), len(names))

    if len(task.strengths) > 1:
        pairs = [
            (_mask(train[a], n), _mask(train[b], n))
            for (train, _), parts in zip(task.splits, task.inner, strict=True)
            for a, b in parts
        ]
        asked = torch.as_tensor(np.stack([b for _, b in pairs]), device=device)
        inner, solved, scores = problems([codes["score"]] * len(pairs), [a for a, _ in pairs]), None, []
        for strength in task.strengths:
            # From one strength to the next it is not far.
            solved = inner.solve(torch.full((len(x), len(pairs)), strength, device=device), solved)
            found = inner.logits(solved).argmax(2) == codes["score"]
            scores.append(((found & asked).sum(-1) / asked.sum(-1)).unflatten(1, (len(outer), 3)).mean(2))
        chosen = torch.stack(scores).argmax(0)
    else:
        chosen = torch.zeros(len(x), len(outer), dtype=torch.long, device=device)
    best = torch.tensor(task.strengths, device=device)[chosen]
    each = [(fold, name) for fold in range(len(outer)) for name in codes]
    last = problems([codes[name] for _, name in each], [outer[fold][0] for fold, _ in each])
    found = last.logits(last.solve(best.repeat_interleave(len(codes), dim=1))).argmax(2).cpu().numpy()
    predicted = [{name: np.empty(n, dtype=y.dtype) for name in codes} for _ in x]
    for number, (fold, name) in enumerate(each):
        test = outer[fold][1]
        for layer in range(len(x)):
            predicted[layer][name][test] = names[found[layer, number, test]]
    return predicted


def _held_out(xs: list[np.ndarray], task: _Task, solver: str, device: str | None) -> list[dict[str, np.ndarray]]:
    """Held-out predictions of every target at every layer."""
    if solver not in SOLVERS:
        raise VlmProbeError(f"no solver {solver!r}; there are {', '.join(SOLVERS)}")
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if task.regression or solver == "sklearn":
        return [_by_sklearn(x, task) for x in xs]
    together = 1
    if where.type == "cuda":
        # What L-BFGS remembers, per layer: its history twice over and a few copies of the parameters.
        one = 4 * 28 * 3 * len(task.splits) * len(np.unique(task.targets["score"])) * (xs[0].shape[1] + 1)
        together = max(1, int(0.5 * torch.cuda.mem_get_info(where)[0] / one))
    found = []
    for start in range(0, len(xs), together):
        found += _by_torch(np.stack(xs[start : start + together]), task, where)
    return found


def _summary(x: np.ndarray, task: _Task, predicted: dict[str, np.ndarray], mdl: bool) -> dict[str, float]:
    """The figures that `linear_probe` returns."""
    y = task.targets["score"]
    low = high = float("nan")
    if task.regression:
        scores = {
            n: 1 - float(((t - predicted[n]) ** 2).sum() / ((t - t.mean()) ** 2).sum()) for n, t in task.targets.items()
        }
    else:
        scores = {name: float((target == predicted[name]).mean()) for name, target in task.targets.items()}
        _, low, high = paired_bootstrap((y == predicted["score"]).astype(float), task.groups, seed=task.seed)
    found = {
        "score": scores["score"],
        "low": low,
        "high": high,
        "shuffled": scores["shuffled"],
        "control": scores["control"],
        "selectivity": scores["score"] - scores["control"],
        "majority": float(task.majority.mean()),
        "n": len(y),
        "classes": 0 if task.regression else len(np.unique(y)),
    }
    if mdl and not task.regression:
        found["description_length"] = description_length(x.astype(float), y, task.groups, seed=task.seed)
        found["compression"] = len(y) * float(np.log2(found["classes"])) / found["description_length"]
    return found


def probe_each(
    xs: Sequence[np.ndarray],
    y: Labels,
    *,
    groups: Labels | None = None,
    types: Labels | None = None,
    folds: int = 5,
    seed: int = 0,
    mdl: bool = False,
    solver: str = "torch",
    device: str | None = None,
) -> list[dict[str, float]]:
    """`linear_probe` of the same labels on several feature matrices of one width, solved together."""
    matrices = [np.asarray(x) for x in xs]
    task = _task(y, groups, types, folds, seed, matrices)
    predicted = _held_out(matrices, task, solver, device)
    return [_summary(x, task, found, mdl) for x, found in zip(matrices, predicted, strict=True)]


def linear_probe(
    x: np.ndarray | xr.DataArray,
    y: Labels,
    *,
    groups: Labels | None = None,
    types: Labels | None = None,
    folds: int = 5,
    seed: int = 0,
    mdl: bool = False,
    solver: str = "torch",
    device: str | None = None,
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
    solver: "torch" solves all folds, strengths and controls at once (see `embedding.logistic`); "sklearn"
        one after the other by scikit-learn's own solver: the same objective, the same accuracies to 0.01,
        several times the time. Regression is scikit-learn's either way.
    device: of the torch solver; a GPU where there is one if None.

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
    return probe_each(
        [np.asarray(x)], y, groups=groups, types=types, folds=folds, seed=seed, mdl=mdl, solver=solver, device=device
    )[0]


def held_out_predictions(
    x: np.ndarray | xr.DataArray,
    y: Labels,
    *,
    groups: Labels | None = None,
    folds: int = 5,
    seed: int = 0,
    strengths: tuple[float, ...] = STRENGTHS,
    solver: str = "torch",
    device: str | None = None,
) -> np.ndarray:
    """What `linear_probe` predicts for every item while it is held out, [item], in the labels' own type.

    For comparing probes with each other, or with a model's answers, item by item. strengths: inverse
    regularisation to choose from; one alone needs no inner cross-validation. Raises as `linear_probe` does.
    """
    matrix = np.asarray(x)
    task = _task(y, groups, None, folds, seed, [matrix])
    task = replace(task, targets={"score": task.targets["score"]}, strengths=strengths)
    return _held_out([matrix], task, solver, device)[0]["score"]
