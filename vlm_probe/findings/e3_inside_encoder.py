"""E3: does DINO in place of CLIP leave more to read, over training seeds?"""

from __future__ import annotations

from vlm_probe.findings.read_inside import Compared, finding_of

COMPARED = Compared(
    (("small-clip", "small-dino"), ("large-clip", "large-dino")),
    once=("shapes read from the encoder",),  # which both sizes share
)

FINDING = finding_of("E3", "Does DINO in place of CLIP leave more to read, over training seeds?", "encoder", COMPARED)
