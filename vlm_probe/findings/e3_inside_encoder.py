"""E3: does DINO in place of CLIP leave more to read, over training seeds?"""

from __future__ import annotations

from functools import partial

from vlm_probe.findings.finding import Finding
from vlm_probe.findings.read_inside import CAVEATS, METHODS, Compared, claims, inside, sections, shown

COMPARED = Compared(
    (("small-clip", "small-dino"), ("large-clip", "large-dino")),
    once=("shapes read from the encoder",),  # which both sizes share
)

FINDING = Finding(
    id="E3",
    question="Does DINO in place of CLIP leave more to read, over training seeds?",
    explains="encoder",
    claims=claims(COMPARED),
    measure=partial(inside, COMPARED),
    models=0,
    wants="no items: it reads what was found inside trained models",
    methods=METHODS,
    caveats=CAVEATS,
    shown=partial(shown, COMPARED),
    sections=sections("E3"),
)
