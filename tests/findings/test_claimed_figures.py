"""Figures of findings name claims that there are, and say what they show where they do."""

import inspect
from fnmatch import fnmatchcase

import pytest

from vlm_probe import figures
from vlm_probe.findings import FINDINGS
from vlm_probe.findings.finding import FigureOf

PAIRS = [
    (finding, block)
    for finding in FINDINGS.values()
    for section in finding.sections
    for block in section.blocks
    if isinstance(block, FigureOf)
]
OF_FINDINGS = [pytest.param(*pair, id=f"{pair[0].id} {pair[1].name}") for pair in PAIRS]


@pytest.mark.parametrize(("finding", "figure"), OF_FINDINGS)
def test_every_pattern_names_a_claim_that_is_tested(finding, figure):
    for pattern in figure.claims:
        tested = [claim for claim in finding.claims if fnmatchcase(claim.id, pattern) and not claim.descriptive]
        assert tested, pattern


@pytest.mark.parametrize(("finding", "figure"), OF_FINDINGS)
def test_a_figure_says_something_where_it_shows_claims_and_nowhere_else(finding, figure):
    assert bool(figure.says) == bool(figure.claims)
    # What came of it follows after a colon.
    assert not figure.says.endswith((".", ":", "?"))


@pytest.mark.parametrize(("finding", "figure"), OF_FINDINGS)
def test_a_figure_that_shows_claims_can_be_titled(finding, figure):
    known = inspect.signature(getattr(figures, figure.plot)).parameters
    assert set(figure.given) <= set(known)
    assert not figure.claims or "title" in known


def test_no_two_figures_of_a_finding_have_one_name():
    names = [(finding.id, figure.name) for finding, figure in PAIRS]
    assert len(names) == len(set(names))
