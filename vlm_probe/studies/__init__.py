"""Trained experiments as data: what differed, the tables they left, and what one change did over their seeds."""

from vlm_probe.studies.effects import grid_differences, grid_effects, grid_interactions, learning_curves
from vlm_probe.studies.grid import collect_scores, grid_scores
from vlm_probe.studies.inside import effects_followed, reading_differences, readings
from vlm_probe.studies.published import (
    FACTORS,
    published_effects,
    published_gaps,
    published_interactions,
    published_results,
)
from vlm_probe.studies.result_tables import at_budget, results, tabled, tuned, under_curve
from vlm_probe.studies.softmax import softmax_differences, softmax_results

__all__ = [
    "FACTORS",
    "at_budget",
    "collect_scores",
    "effects_followed",
    "grid_differences",
    "grid_effects",
    "grid_interactions",
    "grid_scores",
    "learning_curves",
    "published_effects",
    "published_gaps",
    "published_interactions",
    "published_results",
    "reading_differences",
    "readings",
    "results",
    "softmax_differences",
    "softmax_results",
    "tabled",
    "tuned",
    "under_curve",
]
