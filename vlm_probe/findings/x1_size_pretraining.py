"""X1: does a larger language model add less where the connector was pretrained?"""

from __future__ import annotations

from functools import partial

import pandas as pd

from vlm_probe.evidence import Tables
from vlm_probe.findings.finding import Finding
from vlm_probe.findings.interactions import (
    CAVEATS,
    OF_THE_STUDY,
    Crossed,
    Words,
    claims,
    crossings,
    left_out,
    methods,
    sections,
    shown,
)
from vlm_probe.studies import published_gaps
from vlm_probe.zoo.cells import ENCODERS

_CROSSED = (
    Crossed(
        factor="size",
        by="connector",
        words=Words("the larger language model", "with connector pretraining", "without"),
        published=Words("the 7B", "with connector pretraining", "without"),
        corners=tuple((f"small-{encoder}-nopre", f"large-{encoder}") for encoder in ENCODERS),
        study="grid",
    ),
)


def size_by_pretraining(scores: pd.DataFrame | None = None) -> dict[str, Tables]:
    """What size changes with connector pretraining, less what it changes without: the paper's numbers, and the grid's.

    scores: of a grid of one's own, as `studies.collect_scores` returns them; else those of the study `grid`.

    Returns "the paper" -> the table "published" (`studies.published_interactions`), "replicas" -> the table "runs"
    (`studies.grid_interactions`), and of the study "replicas, along training" -> the same of areas under learning
    curves.

    Raises VlmProbeError for scores of no two cells that can be compared.
    """
    return crossings(_CROSSED, scores)


FINDING = Finding(
    id="X1",
    question="Does a larger language model add less where the connector was pretrained?",
    explains="size",
    claims=claims(_CROSSED),
    measure=size_by_pretraining,
    models=0,
    wants="no items: it reads tables of trained models",
    methods=methods(_CROSSED[0]),
    caveats=(left_out(published_gaps()), *OF_THE_STUDY, *CAVEATS),
    shown=partial(shown, _CROSSED),
    sections=sections("X1", _CROSSED[0]),
)
