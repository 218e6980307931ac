"""Pages and papers from findings: one page per question, one report per set of models."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vlm_probe.report.build import write_report
    from vlm_probe.report.drawing import chapters, draw
    from vlm_probe.report.inspection import Inspection, inspect
    from vlm_probe.report.pairs import write_pairs

_HOMES = {
    "Inspection": "inspection",
    "chapters": "drawing",
    "draw": "drawing",
    "inspect": "inspection",
    "write_pairs": "pairs",
    "write_report": "build",
}

__all__ = ["Inspection", "chapters", "draw", "inspect", "write_pairs", "write_report"]


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name in _HOMES:
        return getattr(import_module(f"vlm_probe.report.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'vlm_probe.report' has no attribute {name!r}")
