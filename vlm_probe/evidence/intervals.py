"""Estimates with intervals, that methods and findings share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import scipy

from vlm_probe.settings import CONFIDENCE, DRAWS, PAIRED_DRAWS, SEED, TAIL

FEWEST_CLUSTERS = 6
"""Of fewer, even such as all agree, no two-sided sign test is significant at 5 % (2 / 2^5), and a bootstrap
interval, which of equal values has no width, claims too much."""


def bootstrap_mean(values: np.ndarray, *, seed: int = SEED, draws: int = DRAWS) -> tuple[float, float, float]:
    """Mean over items with a 95 % percentile bootstrap interval (Efron 1979); NaNs are left out.

    Returns (mean, low, high); three NaNs without values.
    """
    values = np.asarray(values, dtype=float)
    values = values[~np.isnan(values)]
    if len(values) == 0:
        return float("nan"), float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    means = values[rng.integers(0, len(values), (draws, len(values)))].mean(axis=1)
    low, high = np.quantile(means, [TAIL, 1 - TAIL])
    return float(values.mean()), float(low), float(high)


def _by_cluster(values: np.ndarray, clusters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The sum of every cluster's values, and how many there are."""
    _, index = np.unique(clusters, return_inverse=True)
    return np.bincount(index, weights=np.asarray(values, dtype=float)), np.bincount(index)


def paired_bootstrap(
    differences: np.ndarray, clusters: np.ndarray, *, seed: int = SEED, draws: int = PAIRED_DRAWS
) -> tuple[float, float, float]:
    """Mean of per-item differences with a 95 % percentile interval (Efron 1979).

    differences: [item] float; clusters: [item], what is drawn together (items of one image are not
    independent). Returns (mean, low, high); NaN for the ends of fewer than `FEWEST_CLUSTERS`.
    """
    total, count = _by_cluster(differences, clusters)
    mean, n = float(total.sum() / count.sum()), len(total)
    if n < FEWEST_CLUSTERS:
        return mean, float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    means = np.empty(draws)
    for start in range(0, draws, 100):  # all draws of VQAv2's images at once are gigabytes
        drawn = rng.integers(0, n, (min(100, draws - start), n))
        means[start : start + len(drawn)] = total[drawn].sum(1) / count[drawn].sum(1)
    low, high = np.quantile(means, [TAIL, 1 - TAIL])
    return mean, float(low), float(high)


def clustered_mean(values: np.ndarray, clusters: np.ndarray) -> tuple[float, float, float]:
    """Mean over items with a 95 % interval by Student's t over clusters (linearised ratio; Cochran 1977, section 6.4).

    values: [item] float; clusters: [item], what is not independent (items of one image). Returns (mean, low, high); NaN
    for the ends of fewer than `FEWEST_CLUSTERS`.

    For paired differences, where `paired_bootstrap` is too narrow when there are few clusters: with nothing there it
    excludes 0 in 15 % of runs of six clusters and 10 % of ten, this in 5 to 7 % (`tests/evidence/test_intervals.py`).
    """
    total, count = _by_cluster(values, clusters)
    mean, n = float(total.sum() / count.sum()), len(total)
    if n < FEWEST_CLUSTERS:
        return mean, float("nan"), float("nan")
    error = float(np.sqrt(n / (n - 1) * ((total - mean * count) ** 2).sum()) / count.sum())
    reach = float(scipy.stats.t.ppf(1 - TAIL, n - 1)) * error
    return mean, mean - reach, mean + reach


def jackknife_deviation(
    statistic: Callable[[np.ndarray], float], clusters: np.ndarray, *, blocks: int = 20, seed: int = SEED
) -> tuple[float, float, int]:
    """A statistic of items, its standard error from leaving blocks of them out, and the degrees of freedom.

    Delete-a-group jackknife (Tukey 1958), for what a bootstrap would bias, because it draws items twice: CKA, ranks,
    neighbours.

    statistic: of the numbers of the items that stay. clusters: [item], what is left out together.
    """
    _, index = np.unique(clusters, return_inverse=True)
    n = int(index.max()) + 1
    blocks = min(blocks, n)
    block = np.random.default_rng(seed).permutation(np.arange(n) % blocks)[index]
    left_out = np.asarray([statistic(np.flatnonzero(block != b)) for b in range(blocks)])
    error = np.sqrt((blocks - 1) / blocks * ((left_out - left_out.mean()) ** 2).sum())
    return statistic(np.arange(len(index))), float(error), blocks - 1


def jackknife(
    statistic: Callable[[np.ndarray], float], clusters: np.ndarray, *, blocks: int = 20, seed: int = SEED
) -> tuple[float, float, float]:
    """A statistic of items with a 95 % interval by `jackknife_deviation` and Student's t: (value, low, high)."""
    value, error, degrees = jackknife_deviation(statistic, clusters, blocks=blocks, seed=seed)
    reach = float(scipy.stats.t.ppf(1 - TAIL, degrees)) * error
    return value, value - reach, value + reach


def summarize(table: pd.DataFrame, measures: list[str], by: list[str]) -> pd.DataFrame:
    """Mean and interval of every measure per group: columns by..., measure, mean, low, high, n."""
    rows = []
    for keys, group in table.groupby(by, sort=False):
        named = keys if isinstance(keys, tuple) else (keys,)
        for measure in measures:
            values = group[measure].to_numpy(dtype=float)
            mean, low, high = bootstrap_mean(values)
            rows.append((*named, measure, mean, low, high, int((~np.isnan(values)).sum())))
    return pd.DataFrame(rows, columns=[*by, "measure", "mean", "low", "high", "n"])


def wilson(right: int, n: int) -> tuple[float, float]:
    """Interval of a share (Wilson 1927)."""
    interval = scipy.stats.binomtest(right, n).proportion_ci(confidence_level=CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)


FEWEST_SEEDS = 3
"""Of two, each a count of items, equal differences are no rarity, and their interval would have no width."""


def over_seeds(values: np.ndarray, resolution: float) -> tuple[float, float, float]:
    """Mean of one difference a seed, with a 95 % interval by Student's t; its ends are NaN below `FEWEST_SEEDS`.

    resolution: the least standard deviation to believe in: shares of n items come in steps of 1 / n.
    """
    mean, n = float(values.mean()), len(values)
    if n < FEWEST_SEEDS:
        return mean, float("nan"), float("nan")
    reach = float(scipy.stats.t.ppf(1 - TAIL, n - 1) * max(values.std(ddof=1), resolution) / np.sqrt(n))
    return mean, mean - reach, mean + reach
