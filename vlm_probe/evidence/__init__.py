"""Intervals, tests and corrections: what turns measured values into evidence."""

from vlm_probe.evidence.comparison import compare
from vlm_probe.evidence.evidence import Evidence, evidence_table, verdict
from vlm_probe.evidence.intervals import (
    bootstrap_mean,
    clustered_mean,
    jackknife,
    over_seeds,
    paired_bootstrap,
    summarize,
    wilson,
)
from vlm_probe.evidence.paired import holm, mcnemar, sign_flips

__all__ = [
    "Evidence",
    "bootstrap_mean",
    "clustered_mean",
    "compare",
    "evidence_table",
    "holm",
    "jackknife",
    "mcnemar",
    "over_seeds",
    "paired_bootstrap",
    "sign_flips",
    "summarize",
    "verdict",
    "wilson",
]
