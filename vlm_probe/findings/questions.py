"""The paper's open questions: which of its factors each is about, and what would answer it at the paper's size.

A finding says which of them it helps to answer (`Finding.explains`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache

import pandas as pd

from vlm_probe.errors import VlmProbeError
from vlm_probe.findings.finding import Finding
from vlm_probe.studies import (
    at_budget,
    effects_followed,
    grid_differences,
    grid_effects,
    published_effects,
    reading_differences,
    readings,
    results,
    tabled,
)

REAL = ("Intel/llava-gemma-2b", "Intel/llava-gemma-7b")
"""The paper's checkpoints that are public."""


@dataclass(frozen=True)
class Question:
    """What the paper found and could not explain."""

    asked: str
    factor: str
    """Of `studies.FACTORS`, whose published numbers are the question; "" where the paper has none."""
    settled_by: str
    """What would answer it for the paper's own models."""
    replicas: tuple[str, ...]
    """Shipped miniatures that differ in this alone; the first is what the others are compared with."""
    further: tuple[str, str] | None = None
    """A further study that asks what it is about the factor, and the factor that this study moves."""


QUESTIONS: dict[str, Question] = {
    "size": Question(
        "Why is the 7B not reliably better than the 2B?",
        "size",
        "The two public checkpoints differ in size and in nothing else that is known: the same findings on both, on "
        "the benchmarks' own questions, say how they differ. That size does it takes both trained again, from several "
        "seeds.",
        ("replica/small-clip", "replica/large-clip"),
    ),
    "vocabulary": Question(
        "Why does a vocabulary of 256k tokens not help?",
        "",
        "The paper trained no model with another vocabulary, so that none of its numbers is about this. What the rows "
        "of its checkpoints cost, which of them are trained and which leak into answers can be measured on one of "
        "them; what their number does takes models that differ in it alone.",
        ("replica/small-clip-v320", "replica/small-clip-v20480"),
        ("vocabulary", "rows"),
    ),
    "encoder": Question(
        "Why does DINOv2 help one model and hurt the other?",
        "encoder",
        "The public checkpoints have CLIP. The encoders can be compared without a language model; that an encoder "
        "helps one size and hurts the other takes the four models, from several seeds.",
        ("replica/small-clip", "replica/small-dino"),
        ("encoder", "encoder"),
    ),
    "pretraining": Question(
        "Why does pretraining the connector help?",
        "connector",
        "Of each size one checkpoint is public, with a pretrained connector. What its rows are near to can be "
        "measured; what pretraining does takes a twin without it that saw as many scenes.",
        ("replica/small-clip-nopre", "replica/small-clip"),
    ),
}
"""By name, in the paper's order."""


def effects_of(question: Question) -> pd.DataFrame:
    """The paper's own numbers on a question: rows of `studies.published_effects`, none where it has none."""
    effects = published_effects()
    return effects.loc[effects["factor"] == question.factor].reset_index(drop=True)


def studied(question: Question, *, further: bool = False) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What changing a question's factor alone did in the study `grid`, over training seeds, of all question types.

    further: what the question's further study says in its place.

    Returns rows of `studies.grid_differences` (a seed each) and of `studies.grid_effects` (their means; corrected over
    all pairs of the study); none of a question that the study has no factor for, or of a study without a table.
    """
    return _rows(question, _effects, further=further)


def followed(question: Question, *, further: bool = False) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What goes with what `studied` has that is decided, from the picture to the answer.

    Returns rows of `studies.reading_differences` (a seed each) and of `studies.effects_followed`; none where nothing is
    decided, or nobody looked into such runs.
    """
    return _rows(question, _followed, further=further)


def _rows(
    question: Question, of: Callable[[str], tuple[pd.DataFrame, pd.DataFrame]], *, further: bool
) -> tuple[pd.DataFrame, pd.DataFrame]:
    study, factor = question.further or ("grid", "") if further else ("grid", question.factor)
    if study not in tabled():
        study, factor = "grid", ""
    first, second = (table.loc[table["factor"] == factor].reset_index(drop=True) for table in of(study))
    return first, second


@cache
def _followed(study: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    differences, effects = _effects(study)
    try:
        differences = reading_differences(readings(study))
    except VlmProbeError:  # nobody looked
        return differences.iloc[:0], effects.iloc[:0]
    return differences, effects_followed(effects, differences)


@cache
def _effects(study: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    differences = grid_differences(at_budget(results(study))).query("kind == 'all'")
    return differences, grid_effects(differences)


def replicas_for(finding: Finding) -> list[str]:
    """The miniatures that a finding is measured on where nobody names models: those of its question, else all."""
    about = QUESTIONS.get(finding.explains)
    return list(about.replicas) if about else default_replicas()


def default_replicas(findings: Iterable[Finding] | None = None) -> list[str]:
    """The miniatures that findings are measured on where nobody names models.

    findings: None stands for whatever is about one of the questions.
    """
    if findings is not None:
        return list(dict.fromkeys(name for one in findings if one.models for name in replicas_for(one)))
    return list(dict.fromkeys(name for question in QUESTIONS.values() for name in question.replicas))
