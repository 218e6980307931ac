"""Intervals, tests and corrections: what turns measured values into evidence."""

from vlm_probe.evidence.comparison import compare, holm, mcnemar
from vlm_probe.evidence.intervals import bootstrap_mean, jackknife, paired_bootstrap, summarize, verdict

__all__ = [
    "bootstrap_mean",
    "compare",
    "holm",
    "jackknife",
    "mcnemar",
    "paired_bootstrap",
    "summarize",
    "verdict",
]
