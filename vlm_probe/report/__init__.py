"""HTML from findings: one page per question, one report per set of models."""

from vlm_probe.report.build import Measured, draw, measure, write_report
from vlm_probe.report.inspection import Inspection, inspect

__all__ = ["Inspection", "Measured", "draw", "inspect", "measure", "write_report"]
