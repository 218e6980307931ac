"""The hypotheses, measured: each with its control and its interval."""

from vlm_probe.findings.comparison import compare, holm, mcnemar
from vlm_probe.findings.evaluation import evaluate
from vlm_probe.findings.published import FACTORS, published_effects, published_results
from vlm_probe.findings.where_it_looks import Looking, where_it_looks
from vlm_probe.statistics import bootstrap_mean, paired_bootstrap, summarize

__all__ = [
    "FACTORS",
    "Looking",
    "bootstrap_mean",
    "compare",
    "evaluate",
    "holm",
    "mcnemar",
    "paired_bootstrap",
    "published_effects",
    "published_results",
    "summarize",
    "where_it_looks",
]
