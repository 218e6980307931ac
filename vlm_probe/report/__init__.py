"""Pages and papers from findings: one page per question, one report per set of models."""

from vlm_probe.report.build import write_report
from vlm_probe.report.drawing import chapters, draw
from vlm_probe.report.inspection import Inspection, inspect
from vlm_probe.report.pairs import write_pairs

__all__ = ["Inspection", "chapters", "draw", "inspect", "write_pairs", "write_report"]
