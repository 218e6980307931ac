"""A report whose model cannot be asked some items: they are left out with their reason, and all else is measured."""

import json
import re

import pytest

from vlm_probe import VlmProbeError
from vlm_probe.findings import generated_items, run
from vlm_probe.report import write_report
from vlm_probe.vocabulary import needed_ids, trim

ITEMS = 12


@pytest.fixture(scope="module")
def lacking(replica):
    """The replica without the tokens that "triangle" takes, nor any but those of these items."""
    items = [item for item in generated_items(ITEMS) if "triangle" not in item.question + item.answer]
    trimmed = trim(replica, needed_ids(replica, items))
    trimmed.name = "replica/lacking"
    return trimmed


def bad_items():
    return [item.id for item in generated_items(ITEMS) if "triangle" in item.question + item.answer]


@pytest.fixture(scope="module")
def measured(lacking):
    return run(["S1", "V1"], ["replica/lacking"], generated_items(ITEMS), load=lambda name: lacking)


def test_all_else_is_measured_and_the_page_says_what_was_left_out(lacking, measured, tmp_path):
    bad = bad_items()
    assert 0 < len(bad) < 2 * ITEMS
    left = measured.left_out
    assert measured.skipped == []
    assert [one.item for one in left] == bad
    assert all("trimmed away" in one.reason or "does not begin with a token" in one.reason for one in left)
    assert str(left[0]) == f"item {bad[0]} is left out, for replica/lacking: {left[0].reason}"
    asked = set(measured.measured["S1"]["replica/lacking"]["items"]["id"])
    assert asked
    assert asked.isdisjoint(bad)
    assert "V1" in measured.measured
    page = write_report(measured, tmp_path / "report").read_text()
    counts = [int(n) for n in re.findall(rf"<li>(\d+) of {len(measured.items)} items, for replica/lacking: ", page)]
    assert sum(counts) == len(bad)
    assert "Not measured" not in page
    results = json.loads((tmp_path / "report" / "results.json").read_text())
    assert results["skipped"] == [str(one) for one in left]
    assert measured.notes[0].startswith(f"{counts[0]} of {len(measured.items)} items, for replica/lacking: ")


def test_beside_a_finding_that_fails_the_others_are_as_they_were(lacking, measured):
    alone = run(["V1"], ["replica/lacking"], generated_items(ITEMS), load=lambda name: lacking)
    for name, table in alone.measured["V1"]["replica/lacking"].items():
        assert table.equals(measured.measured["V1"]["replica/lacking"][name])


def test_parts_of_both_tries_are_kept(lacking, measured, tmp_path):
    for _ in range(2):
        given = {"load": lambda name: lacking, "parts": tmp_path / "parts"}
        again = run(["S1", "V1"], ["replica/lacking"], generated_items(ITEMS), **given)
        assert again.left_out == measured.left_out
        assert again.measured["S1"]["replica/lacking"]["items"].equals(
            measured.measured["S1"]["replica/lacking"]["items"]
        )


def test_where_no_item_can_be_asked_the_finding_says_why(replica, monkeypatch):
    def none(model, target, logits):
        raise VlmProbeError(f"no {target}")

    monkeypatch.setattr("vlm_probe.findings.skipped.target_token", none)
    monkeypatch.setattr("vlm_probe.findings.s1_where_it_looks.target_token", none)
    with pytest.raises(VlmProbeError, match=r"^nothing could be measured; S1 on replica/default: no "):
        run(["S1"], ["replica/default"], generated_items(ITEMS), load=lambda name: replica)
