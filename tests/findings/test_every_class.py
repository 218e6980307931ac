"""Findings and `inspect` on models of every class: they work, or say in one line what is missing."""

from typing import Any

import numpy as np
import pytest
from hooked.hook_cases import asked, copies, of_properties
from tiny import tiny_vlm

from vlm_probe.errors import VlmProbeError
from vlm_probe.findings.registry import FINDINGS
from vlm_probe.report.inspection import inspect

KINDS = {
    "paligemma": "gemma2",
    "gemma3": "gemma3",
    "next": "llama",
    "prismatic": "llama",
    "prismatic_fused": "llama",
}
SAID = {
    "S2": "S2 is of one encoder, and model has several: vision.0, vision.1",
    "E1": "E1 is of one encoder, and model has several: vision.0, vision.1",
    "E2": "E2 is of one encoder, and model has several: vision.0, vision.1",
}
"""What two encoders side by side do without."""
NEEDS_MORE = {"V3", "V4", "S5"}
"""Ids that are known to be untrained, and twins that are answered rightly: a random model has neither."""


@pytest.mark.parametrize("kind", KINDS)
def test_every_finding_measures_or_says_what_is_missing(kind):
    model, said = tiny_vlm(kind, KINDS[kind]), {}
    for finding in FINDINGS.values():
        if finding.models:
            items = {"S2": of_properties(), "E2": asked(4, "mmvp")}.get(finding.id, list(copies()))
            try:
                measure: Any = finding.measure
                assert measure(model, items), finding.id
            except VlmProbeError as error:
                said[finding.id] = str(error)
    expected = SAID if kind == "prismatic_fused" else {}
    assert {name: text for name, text in said.items() if name not in NEEDS_MORE} == expected


@pytest.mark.parametrize("kind", KINDS)
def test_inspect_writes_a_page(kind, tmp_path):
    """With the maps that the model can make, and each of its encoders."""
    picture = np.random.default_rng(3).integers(0, 255, (20, 37, 3), dtype=np.uint8)
    found = inspect(tiny_vlm(kind, KINDS[kind]), picture, "what?", out=tmp_path, max_new_tokens=2)
    page = found.page.read_text()
    assert page.count("encoder attention by layer") == (2 if kind == "prismatic_fused" else 1)
    assert ("relevancy through the encoder" in page) == (kind in ("paligemma", "gemma3", "prismatic"))
