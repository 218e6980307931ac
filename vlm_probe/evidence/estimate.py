"""A measured difference with its interval and its test: the few ways in which a claim can be estimated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy

from vlm_probe.evidence.intervals import clustered_mean, jackknife_deviation, over_seeds
from vlm_probe.evidence.paired import sign_flips
from vlm_probe.settings import SEED, TAIL

NAN = float("nan")


@dataclass(frozen=True)
class Estimate:
    """How far a value is from its control. Without a test (NaN for low, high and p) it is a description."""

    n: int
    """Items, rows or runs that were measured."""
    clusters: int
    """How many of them are independent: what the interval and the test count."""
    value: float
    control: float
    difference: float
    low: float
    high: float
    p: float
    """Two-sided, not corrected."""


def _nothing(n: int = 0, clusters: int = 0) -> Estimate:
    return Estimate(n, clusters, NAN, NAN, NAN, NAN, NAN, NAN)


def paired(
    value: np.ndarray,
    control: np.ndarray | float,
    clusters: np.ndarray,
    *,
    right_or_wrong: float = 0.0,
    seed: int = SEED,
) -> Estimate:
    """Two values an item: Student's t over clusters for the interval, sign flips of whole clusters for the test.

    value, control: [item] float; items without either (NaN) are left out. clusters: [item], what is not independent
    (items of one image). Of right and wrong answers, an image each, sign flips are McNemar's exact test. The interval
    alone would not do where few items decide: of 200, four that differ, all one way, can exclude 0 (p is 0.125).

    right_or_wrong: how far apart two values can be where they are 0 or 1 (1, or 2 where each is a difference of two),
    else 0. Where hardly any item differs, their spread says next to nothing of how many others would, and where none
    does the interval would close. Two clusters are then added to the interval, one that differs as far each way
    (Agresti and Min 2005, who add half as much, for independent items): with none of n that differs it is about 2.8 / n
    wide each way, as the rule of three says.
    """
    against = np.broadcast_to(np.asarray(control, dtype=float), value.shape)
    both = ~np.isnan(value.astype(float) - against)
    value, against, clusters = value[both].astype(float), against[both], clusters[both]
    if len(value) == 0:
        return _nothing()
    mean, low, high = clustered_mean(value - against, clusters)
    p = sign_flips(value - against, clusters, seed=seed)
    count = len(np.unique(clusters))
    if right_or_wrong and not np.isnan(low):
        _, low, high = clustered_mean(*_with_one_each_way(value - against, clusters, right_or_wrong))
    return Estimate(len(value), count, float(value.mean()), float(against.mean()), mean, low, high, p)


def _with_one_each_way(differences: np.ndarray, clusters: np.ndarray, far: float) -> tuple[np.ndarray, np.ndarray]:
    """Differences and clusters with two more, as large as the others are on average, one of which differs each way."""
    _, index = np.unique(clusters, return_inverse=True)
    count = int(index.max()) + 1
    size = max(1, round(len(index) / count))
    more = np.repeat([far, -far], size)
    return np.concatenate([differences, more]), np.concatenate([index, np.repeat([count, count + 1], size)])


def jackknifed(
    value: Callable[[np.ndarray], float], control: Callable[[np.ndarray], float], clusters: np.ndarray
) -> Estimate:
    """Two measures of all items together (CKA, an area under a curve): blocks of clusters left out, Student's t.

    value, control: functions of the numbers of the items that stay.
    """
    if len(clusters) == 0:
        return _nothing()
    everything = np.arange(len(clusters))
    mean, error, degrees = jackknife_deviation(lambda kept: value(kept) - control(kept), clusters)
    count = len(np.unique(clusters))
    return Estimate(
        len(clusters), count, value(everything), control(everything), mean, *_by_student(mean, error, degrees)
    )


def _by_student(mean: float, error: float, degrees: int) -> tuple[float, float, float]:
    """Ends of the interval, and the two-sided p."""
    if degrees < 1 or np.isnan(mean) or np.isnan(error):
        return NAN, NAN, NAN
    reach = float(scipy.stats.t.ppf(1 - TAIL, degrees)) * error
    # Where nothing varies Student's p would be 0; that all signs agree has the chance that sign flips give it.
    p = 2 * float(scipy.stats.t.sf(abs(mean) / error, degrees)) if error > 0 else 1.0 if mean == 0 else 2.0**-degrees
    return mean - reach, mean + reach, p


def against_null(observed: float, null: np.ndarray, n: int) -> Estimate:
    """One value beside what it is when nothing is there, drawn many times (rotations, permutations).

    null: [draw]; draws without a value (NaN) are left out. n: items behind the value. The interval is the value less
    the null's own 95 %; p the share of draws that are as far out, the value itself among them, both tails (Phipson and
    Smyth 2010).
    """
    null = np.asarray(null, dtype=float)
    null = null[~np.isnan(null)]
    if len(null) == 0 or np.isnan(observed):
        return _nothing(n)
    below, above = float((null <= observed).sum() + 1), float((null >= observed).sum() + 1)
    p = min(1.0, 2 * min(below, above) / (len(null) + 1))
    low, high = np.quantile(null, [TAIL, 1 - TAIL])
    mean = float(null.mean())
    return Estimate(n, len(null), observed, mean, observed - mean, observed - float(high), observed - float(low), p)


def over_runs(value: np.ndarray, control: np.ndarray, *, resolution: float = 0.0) -> Estimate:
    """Two values a training run, paired by seed: Student's t over runs (`evidence.over_seeds`), interval and test.

    Sign flips of five runs cannot reach 5 % (2 / 2^5 is 6 %), so the test is Student's as the interval is. Runs without
    either value (NaN) are left out.
    """
    both = ~np.isnan(value - control)
    value, control = value[both], control[both]
    if len(value) == 0:
        return _nothing()
    mean, low, high = over_seeds(value - control, resolution)
    n = len(value)
    p = NAN
    if not np.isnan(low):
        error = (high - mean) / float(scipy.stats.t.ppf(1 - TAIL, n - 1))
        p = _by_student(mean, error, n - 1)[2]
    return Estimate(n, n, float(value.mean()), float(control.mean()), mean, low, high, p)


def described(value: np.ndarray | float, control: np.ndarray | float = NAN) -> Estimate:
    """What was counted, or was measured once: its mean, beside another where there is one, without a test.

    Rows without a value (NaN) are left out.
    """
    one, other = np.atleast_1d(np.asarray(value, dtype=float)), np.atleast_1d(np.asarray(control, dtype=float))
    one, other = one[~np.isnan(one)], other[~np.isnan(other)]
    if len(one) == 0:
        return _nothing()
    a, b = float(one.mean()), float(other.mean()) if len(other) else NAN
    return Estimate(len(one), len(one), a, b, a - b, NAN, NAN, NAN)
