"""The hypotheses, measured: each with its control and its interval."""

from vlm_probe.findings.statistics import bootstrap_mean, summarize
from vlm_probe.findings.where_it_looks import Looking, where_it_looks

__all__ = ["Looking", "bootstrap_mean", "summarize", "where_it_looks"]
