"""What may be said of a claim, and the one rule that says it."""

from __future__ import annotations

import math
from enum import StrEnum

from vlm_probe.settings import ALPHA


class Verdict(StrEnum):
    """What the evidence says of a claim."""

    SUPPORTED = "supported"
    CONTRADICTED = "contradicted"
    """The opposite of what was claimed."""
    EQUIVALENT = "equivalent"
    """The whole interval lies inside the smallest difference that would matter."""
    UNDECIDED = "undecided"
    """With a reason."""
    DESCRIPTIVE = "descriptive"
    """A number without a test."""

    @property
    def decided(self) -> bool:
        """Whether a direction was called."""
        return self in (Verdict.SUPPORTED, Verdict.CONTRADICTED)


def decide(
    difference: float, low: float, high: float, p: float, *, margin: float = 0.0, more: bool = True
) -> tuple[Verdict, str]:
    """The verdict on a difference, and why it is undecided ("" where it is not).

    low, high: its 95 % interval. p: corrected for how many claims were tested with it; `equivalent` asks the interval
    alone. margin: the smallest difference that would matter. more: whether the claim says that the difference is
    positive.

    Interval and test must agree in significance, or it is undecided; a statistic whose two could point in different
    directions is not one statistic, and a difference outside its own interval (from the mean of a null that a few draws
    drag away) is undecided too.

    >>> decide(0.2, 0.1, 0.3, 0.001)
    (<Verdict.SUPPORTED: 'supported'>, '')
    >>> decide(0.2, 0.1, 0.3, 0.2)
    (<Verdict.UNDECIDED: 'undecided'>, 'the interval excludes 0, the corrected test does not')
    """
    if any(map(math.isnan, (difference, low, high))):
        return Verdict.UNDECIDED, "no interval"
    if not low <= difference <= high:
        return Verdict.UNDECIDED, "the difference lies outside its interval"
    if -margin < low and high < margin:
        return Verdict.EQUIVALENT, ""
    if low <= 0 <= high:
        return Verdict.UNDECIDED, "the interval includes 0"
    if math.isnan(p) or p >= ALPHA:
        return Verdict.UNDECIDED, "the interval excludes 0, the corrected test does not"
    return (Verdict.SUPPORTED if (difference > 0) == more else Verdict.CONTRADICTED), ""
