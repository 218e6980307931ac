"""X2: does DINO in place of CLIP add less to a larger language model?"""

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
from vlm_probe.zoo.cells import Cell, Steps

_CROSSED = Crossed(
    factor="encoder",
    by="size",
    words=Words("DINO in place of CLIP", "to the larger language model", "to the smaller"),
    published=Words("DINOv2 in place of CLIP", "to the 7B", "to the 2B"),
    corners=tuple(
        (Cell("small", "clip", steps), Cell("large", "dino", steps)) for steps in (Steps(), Steps(connector=0))
    ),
    study="grid",
)


def encoder_by_size(scores: pd.DataFrame | None = None) -> dict[str, Tables]:
    """What the encoder changes of the larger language model, less what it changes of the smaller one.

    scores: of a grid of one's own, as `studies.collect_scores` returns them; else those of the study `grid`.

    Returns "the paper" -> the table "published" (`studies.published_interactions`), "replicas" -> the table "runs"
    (`studies.grid_interactions`).

    Raises VlmProbeError for scores of no two cells that can be compared.
    """
    return crossings(_CROSSED, scores)


FINDING = Finding(
    id="X2",
    question="Does DINO in place of CLIP add less to a larger language model?",
    claims=claims(_CROSSED),
    measure=encoder_by_size,
    models=0,
    wants="no items: it reads tables of trained models",
    methods=methods(_CROSSED),
    caveats=(
        left_out(published_gaps()),
        "The paper reports that DINOv2 helps the 2B and hurts the 7B. Of the 7B with DINOv2 no number is at hand, so "
        "that the second half, and with it the difference of differences, cannot be checked here.",
        "Of the replicas' encoders, CLIP learns from captions that name what is asked about, DINO from images alone.",
        *OF_THE_STUDY,
        *CAVEATS,
    ),
    shown=partial(shown, _CROSSED),
    sections=sections("X2", _CROSSED),
)
