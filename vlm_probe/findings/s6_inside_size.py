"""S6: does a larger language model hold more of the image, and need it more, over training seeds?"""

from __future__ import annotations

from vlm_probe.findings.read_inside import Compared, finding_of

COMPARED = Compared((("small-clip", "large-clip"),))

FINDING = finding_of(
    "S6",
    "Does a larger language model hold more of the image, and need it more, over training seeds?",
    "size",
    COMPARED,
)
