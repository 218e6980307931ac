"""C3: does pretraining the connector pass on more, over training seeds?"""

from __future__ import annotations

from vlm_probe.findings.read_inside import Compared, finding_of

COMPARED = Compared((("small-clip-nopre", "small-clip"), ("large-clip-nopre", "large-clip")))

FINDING = finding_of("C3", "Does pretraining the connector pass on more, over training seeds?", "pretraining", COMPARED)
