"""X3: does a larger vocabulary add more to a larger language model?"""

from __future__ import annotations

from functools import partial

import pandas as pd

from vlm_probe.evidence import Tables
from vlm_probe.findings.finding import Finding
from vlm_probe.findings.interactions import (
    CAVEATS,
    OF_THE_SHIPPED_GRID,
    Crossed,
    Words,
    claims,
    crossings,
    methods,
    sections,
    shown,
)
from vlm_probe.zoo.cells import VOCABULARIES, Cell

_CROSSED = Crossed(
    factor="vocabulary",
    by="size",
    words=Words("the largest vocabulary in place of the smallest", "to the larger language model", "to the smaller"),
    published=None,
    corners=((Cell("small", "clip", vocabulary=VOCABULARIES[0]), Cell("large", "clip", vocabulary=VOCABULARIES[-1])),),
    more=True,
)


def vocabulary_by_size(scores: pd.DataFrame | None = None) -> dict[str, Tables]:
    """What the vocabulary changes of the larger language model, less what it changes of the smaller one.

    scores: of a grid of one's own, as `studies.collect_scores` returns them; else those that are shipped.

    Returns "replicas" -> the table "runs" (`studies.grid_interactions`; without rows where no large cell has another
    vocabulary). The paper's models have one vocabulary, so that there is nothing to read of them.

    Raises VlmProbeError for scores of no two cells that can be compared.
    """
    return crossings(_CROSSED, scores)


FINDING = Finding(
    id="X3",
    question="Does a larger vocabulary add more to a larger language model?",
    claims=claims(_CROSSED),
    measure=vocabulary_by_size,
    models=0,
    wants="no items: it reads tables of trained models",
    methods=methods(_CROSSED),
    caveats=(
        "The paper has no such contrast: all of its models that differ in one thing alone have one vocabulary, and the "
        "Phi-2 and Llama rows of its table differ in size, family and training as well.",
        "The replicas' largest vocabulary has rows that no text uses: more rows is not more training of rows.",
        *OF_THE_SHIPPED_GRID,
        *CAVEATS,
    ),
    shown=partial(shown, _CROSSED),
    sections=sections("X3", _CROSSED),
)
