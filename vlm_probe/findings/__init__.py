"""The hypotheses: one file each, measured on models and judged by `run`.

`run(["S1", "V4"], models, items)`; `FINDINGS` lists them.
"""

from vlm_probe.findings.engine import Run, find, generated_items, steps
from vlm_probe.findings.finding import Finding
from vlm_probe.findings.registry import FINDINGS
from vlm_probe.findings.runs import run
from vlm_probe.findings.scope import scope_of
from vlm_probe.findings.shared import Shared
from vlm_probe.findings.skipped import LeftOut, Skipped
from vlm_probe.findings.writing import write_run

__all__ = [
    "FINDINGS",
    "Finding",
    "LeftOut",
    "Run",
    "Shared",
    "Skipped",
    "find",
    "generated_items",
    "run",
    "scope_of",
    "steps",
    "write_run",
]
