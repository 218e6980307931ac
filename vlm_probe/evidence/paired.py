"""Tests of paired answers, and corrections for how many there are."""

from __future__ import annotations

import numpy as np
from scipy.stats import binomtest


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
    return float(binomtest(only_first, only_first + only_second, 0.5).pvalue)


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
