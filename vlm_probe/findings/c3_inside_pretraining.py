"""C3: does pretraining the connector pass on more, over training seeds?"""

from __future__ import annotations

from functools import partial

from vlm_probe.findings.finding import Finding
from vlm_probe.findings.read_inside import CAVEATS, METHODS, Compared, claims, inside, sections, shown

COMPARED = Compared((("small-clip-nopre", "small-clip"), ("large-clip-nopre", "large-clip")))

FINDING = Finding(
    id="C3",
    question="Does pretraining the connector pass on more, over training seeds?",
    explains="pretraining",
    claims=claims(COMPARED),
    measure=partial(inside, COMPARED),
    models=0,
    wants="no items: it reads what was found inside trained models",
    methods=METHODS,
    caveats=CAVEATS,
    shown=partial(shown, COMPARED),
    sections=sections("C3"),
)
