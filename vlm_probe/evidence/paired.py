"""Tests of paired answers, and corrections for how many there are."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import scipy

from vlm_probe.settings import SEED


def mcnemar(first: np.ndarray, second: np.ndarray) -> float:
    """Two-sided exact p-value that two models are right equally often (McNemar 1947).

    first, second: [item] bool, right or not, on the same items. 1 where they never disagree.

    >>> mcnemar(np.array([False] * 4 + [True]), np.array([True] * 5))
    0.125
    """
    only_first = int((first & ~second).sum())
    only_second = int((second & ~first).sum())
    if only_first + only_second == 0:
        return 1.0
    return float(scipy.stats.binomtest(only_first, only_first + only_second, 0.5).pvalue)


def sign_flips(differences: np.ndarray, clusters: np.ndarray, *, seed: int = SEED, draws: int = 10_000) -> float:
    """Two-sided p-value that paired differences are as likely one way as the other (Fisher 1935), by whole clusters.

    Clusters without a difference do not count. Exact for up to 13 others (all 2^13 signs) and where all differ by as
    much (then it is a sign test; of right and wrong answers, an item each, McNemar's), else of random signs, the
    observed ones among them.

    >>> sign_flips(np.array([0.3, 0.2, 0.4]), np.arange(3))
    0.25
    """
    _, index = np.unique(clusters, return_inverse=True)
    totals = np.bincount(index, weights=np.asarray(differences, dtype=float))
    totals = totals[totals != 0]
    n = len(totals)
    if n == 0:
        return 1.0
    if np.ptp(np.abs(totals)) == 0:
        return float(scipy.stats.binomtest(int((totals > 0).sum()), n, 0.5).pvalue)
    signs = _kept_signs(n, seed, draws) if n <= _FEW else _signs(n, seed, draws)
    reached = np.abs(signs.astype(float) @ totals) >= abs(totals.sum()) * (1 - 1e-12)
    return float(reached.mean())


def _signs(n: int, seed: int, draws: int) -> np.ndarray:
    """Signs of n differences, a row a draw: all that there are, or as many as `draws`, the observed ones first."""
    if 2**n <= draws:
        return (1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)).astype(np.int8)
    signs = np.random.default_rng(seed).choice(np.asarray([-1, 1], dtype=np.int8), (draws, n))
    signs[0] = 1
    return signs


_FEW = 64
"""Differences whose signs are kept for the next test of as many: of all numbers of them together some 20 MB."""
_kept_signs = lru_cache(maxsize=_FEW)(_signs)


def holm(p: list[float]) -> list[float]:
    """p-values corrected for their number, step down (Holm 1979).

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p)
    corrected = np.empty(len(p))
    worst = 0.0
    for rank, i in enumerate(order):
        worst = max(worst, min(1.0, (len(p) - rank) * p[i]))
        corrected[i] = worst
    return corrected.tolist()
