"""S6: does a larger language model hold more of the image, and need it more, over training seeds?"""

from __future__ import annotations

from functools import partial

from vlm_probe.findings.finding import Finding
from vlm_probe.findings.read_inside import CAVEATS, METHODS, Compared, claims, inside, sections, shown

COMPARED = Compared((("small-clip", "large-clip"),))

FINDING = Finding(
    id="S6",
    question="Does a larger language model hold more of the image, and need it more, over training seeds?",
    explains="size",
    claims=claims(COMPARED),
    measure=partial(inside, COMPARED),
    models=0,
    wants="no items: it reads what was found inside trained models",
    methods=METHODS,
    caveats=CAVEATS,
    shown=partial(shown, COMPARED),
    sections=sections("S6"),
)
