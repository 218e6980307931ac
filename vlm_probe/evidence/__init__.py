"""Intervals, tests and corrections: what turns measured values into evidence.

A `Claim` is fixed before anything is measured; `judge` makes `Evidence` of it and a finding's tables.
"""

from vlm_probe.evidence.claim import Claim
from vlm_probe.evidence.comparison import compare
from vlm_probe.evidence.estimate import Estimate
from vlm_probe.evidence.evidence import Evidence, evidence_table
from vlm_probe.evidence.intervals import (
    bootstrap_mean,
    clustered_mean,
    jackknife,
    over_seeds,
    paired_bootstrap,
    summarize,
    wilson,
)
from vlm_probe.evidence.judging import judge, judge_all
from vlm_probe.evidence.paired import holm, mcnemar, sign_flips
from vlm_probe.evidence.statistics import AgainstNull, Described, EveryWay, OfAllRows, OverRuns, PairedMean, Tables
from vlm_probe.evidence.verdict import Verdict, decide

__all__ = [
    "AgainstNull",
    "Claim",
    "Described",
    "Estimate",
    "EveryWay",
    "Evidence",
    "OfAllRows",
    "OverRuns",
    "PairedMean",
    "Tables",
    "Verdict",
    "bootstrap_mean",
    "clustered_mean",
    "compare",
    "decide",
    "evidence_table",
    "holm",
    "jackknife",
    "judge",
    "judge_all",
    "mcnemar",
    "over_seeds",
    "paired_bootstrap",
    "sign_flips",
    "summarize",
    "wilson",
]
