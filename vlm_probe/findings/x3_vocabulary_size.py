"""X3: does a larger vocabulary add more to a larger language model?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
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
    committed,
    crossings,
    methods,
    sections,
    shown,
)
from vlm_probe.studies.study import ROW_CHANGES
from vlm_probe.zoo.cells import VOCABULARIES

_SHIPPED = Crossed(
    factor="vocabulary",
    by="size",
    words=Words("the largest vocabulary in place of the smallest", "to the larger language model", "to the smaller"),
    published=None,
    corners=tuple(
        (f"small-clip-v{low}", f"large-clip-v{high}") for low, high in [VOCABULARIES[:: len(VOCABULARIES) - 1]]
    ),
    more=True,
)
_ROWS = tuple(
    Crossed(
        factor="rows",
        by="size",
        words=_SHIPPED.words._replace(adds=change),
        published=None,
        corners=((f"small-clip-{first}", f"large-clip-{second}"),),
        study="vocabulary",
        more=True,
        of="replicas of the study vocabulary",
    )
    for (first, second), change in ROW_CHANGES.items()
)
_ANY = replace(_SHIPPED, words=_SHIPPED.words._replace(adds="another vocabulary"))
"""What is said of all of them."""


def vocabulary_by_size(
    scores: pd.DataFrame | None = None, tables: Mapping[str, pd.DataFrame] | None = None
) -> dict[str, Tables]:
    """What the vocabulary changes of the larger language model, less what it changes of the smaller one.

    scores: of a grid of one's own, as `studies.collect_scores` returns them; else those of the study `vocabulary`, and
        until it has a table those that are shipped.
    tables: by study, as `studies.results` returns it; those that are committed if None.

    Returns "replicas of the study vocabulary", or "replicas" of a grid -> the table "runs"
    (`studies.grid_interactions`; without rows where no large cell has another vocabulary), and of the study, "...,
    along training" -> the same of areas under learning curves. The paper's models have one vocabulary, so that there is
    nothing to read of them.

    Raises VlmProbeError for scores of no two cells that can be compared.
    """
    tables = committed() if tables is None else tables
    studied = scores is None and "vocabulary" in tables
    return crossings(_ROWS if studied else (_SHIPPED,), scores, tables)


FINDING = Finding(
    id="X3",
    question="Does a larger vocabulary add more to a larger language model?",
    explains="vocabulary",
    claims=claims((_SHIPPED, *_ROWS)),
    measure=vocabulary_by_size,
    models=0,
    wants="no items: it reads tables of trained models",
    methods=methods(_ANY),
    caveats=(
        "The paper has no such contrast: all of its models that differ in one thing alone have one vocabulary, and the "
        "Phi-2 and Llama rows of its table differ in size, family and training as well.",
        "The shipped replicas' largest vocabulary has rows that no text uses: more rows is not more training of rows. "
        "The study `vocabulary` moves rows, parameters and the training of rows one at a time; where it has a table, "
        "that is read in their place.",
        *OF_THE_SHIPPED_GRID,
        *CAVEATS,
    ),
    shown=partial(shown, (_SHIPPED, *_ROWS)),
    sections=sections("X3", _ANY),
)
