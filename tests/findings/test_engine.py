"""Findings are run, resumed, skipped with a reason, and written: on two made up for it, and on real ones."""

import json
from dataclasses import replace

import pandas as pd
import pytest

from vlm_probe import VlmProbeError, findings
from vlm_probe.evidence import Claim, PairedMean, judge_all
from vlm_probe.findings import FINDINGS, engine, registry
from vlm_probe.findings.finding import Finding
from vlm_probe.findings.shared import about, clusters_of
from vlm_probe.items import Item
from vlm_probe.scenes import family_items

QUESTION = "Is an answer as long as the question?"


def lengths(model, items, *, shared=None, seed=0):
    calls.append([item.id for item in items])
    table = about(items)
    table["asked"] = [float(len(item.question)) for item in items]
    table["said"] = [float(len(item.answer)) for item in items]
    return {"items": table}


calls: list[list[str]] = []
MADE_UP = Finding(
    id="S9",
    question=QUESTION,
    claims=(
        Claim("shorter", "{model}: answers are shorter", PairedMean("items", "said", "asked"), "its length", "images"),
    ),
    measure=lengths,
    methods=("{n} items, seed {seed}.",),
    itemwise=True,
)


@pytest.fixture
def made_up(monkeypatch):
    calls.clear()
    monkeypatch.setitem(registry.FINDINGS, "S9", MADE_UP)
    return MADE_UP


@pytest.fixture(scope="module")
def items():
    return list(family_items(37, families=("gqa",)))


def test_a_run_measures_judges_and_says_what_it_rests_on(made_up, replica, items):
    found = findings.run(["s9"], [replica], items)
    row = found.evidence.iloc[0]
    assert (row["finding"], row["sentence"]) == ("S9", "replica/default: answers are shorter")
    assert (row["n"], row["clusters"], row["unit"], row["verdict"]) == (37, 37, "images", "undecided")
    assert row["scope"] == "Replicas are miniatures: nothing here is a statement about the 2B or the 7B."
    # Contradicted, were it not the same without any training.
    assert (row["untrained"], row["reason"]) == (row["difference"], "an untrained copy shows as much")
    alone = findings.run(["s9"], [replica], items, untrained=False).evidence.iloc[0]
    assert (alone["verdict"], alone["reason"]) == ("contradicted", "")
    table = found.tables(made_up)["items"]
    assert table["untrained"].tolist() == [False] * 37 + [True] * 37


def test_a_killed_run_goes_on_to_the_identical_result(made_up, replica, items, tmp_path, monkeypatch):
    whole = findings.run(["S9"], [replica], items, parts=tmp_path / "whole")
    assert len(calls) == 6  # three chunks, twice

    class Killed(BaseException):
        pass

    def dying(model, items, *, shared=None, seed=0):
        if len(calls) == 4:
            raise Killed
        return lengths(model, items)

    calls.clear()
    monkeypatch.setitem(registry.FINDINGS, "S9", replace(MADE_UP, measure=dying))
    with pytest.raises(Killed):
        findings.run(["S9"], [replica], items, parts=tmp_path / "killed")
    done = [tuple(ids) for ids in calls]
    monkeypatch.setitem(registry.FINDINGS, "S9", MADE_UP)
    calls.clear()
    resumed = findings.run(["S9"], [replica], items, parts=tmp_path / "killed")
    assert len(calls) == 2
    assert done[0] not in map(tuple, calls[:1])
    findings.write_run(whole, tmp_path / "a")
    findings.write_run(resumed, tmp_path / "b")
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file())
    assert [str(file) for file in files] == ["evidence.csv", "results.json", "tables/S9_items.parquet"]
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file
    with pytest.raises(VlmProbeError, match="of a run with another seed"):
        findings.run(["S9"], [replica], items, parts=tmp_path / "killed", seed=1)


def test_results_are_data(made_up, replica, items, tmp_path):
    findings.write_run(findings.run(["S9"], [replica], items[:23], untrained=False), tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())
    (one,) = results["findings"]
    assert (one["question"], one["methods"]) == (QUESTION, ["23 items, seed 0."])
    assert one["evidence"][0]["untrained"] is None
    evidence = pd.read_csv(tmp_path / "evidence.csv")
    assert evidence["difference"].item() == pytest.approx(one["evidence"][0]["difference"])
    table = pd.read_parquet(tmp_path / "tables" / "S9_items.parquet")
    again = judge_all(MADE_UP.claims, {"replica/default": {"items": table}})
    assert again[0].difference == one["evidence"][0]["difference"]


def test_what_cannot_be_measured_says_what_it_would_take(made_up, replica, items, monkeypatch):
    def failing(model, items, *, shared=None, seed=0):
        raise VlmProbeError("it has no tail")

    monkeypatch.setitem(registry.FINDINGS, "S8", replace(MADE_UP, id="S8", measure=failing))
    monkeypatch.setitem(registry.FINDINGS, "S7", replace(MADE_UP, id="S7", models=2))
    given = {"picks": lambda items: [], "wants": "pictures of cats"}
    monkeypatch.setitem(registry.FINDINGS, "S6", replace(MADE_UP, id="S6", **given))
    counts = []
    found = findings.run(["S9", "S8", "S7", "S6"], [replica], items, untrained=False, progress=counts.append)
    assert [str(one) for one in found.skipped] == [
        "S7: it takes 2 models or more, got 1",
        "S6: it needs pictures of cats; there is none among the 37 given",
        "S8 on replica/default: it has no tail",
    ]
    assert found.evidence["finding"].tolist() == ["S9"]
    assert sum(counts) == 2 * 37
    with pytest.raises(VlmProbeError) as error:
        findings.run(["S7"], [replica], items)
    assert str(error.value) == "nothing could be measured; S7: it takes 2 models or more, got 1"


def test_progress_adds_up_to_what_was_announced(made_up, replica, items):
    counts = []
    findings.run(["S9"], [replica], items, progress=counts.append)
    assert sum(counts) == findings.steps(["S9"], [replica], items) == 2 * 37


def test_an_unknown_finding_and_a_model_twice(replica, items):
    with pytest.raises(VlmProbeError, match="no finding 'Z1'; nearest are "):
        findings.run(["Z1"], [replica], items)
    with pytest.raises(VlmProbeError) as error:
        findings.run(["S1"], [replica, replica], items)
    assert str(error.value) == "replica/default is given twice; models are told apart by their names"


def test_too_few_are_undecided_with_the_number_that_would_do(made_up, replica, items):
    row = findings.run(["S9"], [replica], items[:19], untrained=False).evidence.iloc[0]
    assert (row["verdict"], row["reason"]) == ("undecided", "19 images, 20 would do")


def test_every_finding_says_what_it_is():
    assert list(FINDINGS) == sorted(FINDINGS, key=lambda one: ("SVECX".index(one[0]), one))
    for name, finding in FINDINGS.items():
        assert name == finding.id
        assert finding.question.endswith("?")
        assert finding.methods, name
        assert finding.claims, name
        ids = [claim.id for claim in finding.claims]
        assert len(set(ids)) == len(ids)
        for claim in finding.claims:
            assert set(claim.requires) <= set(ids)
            names = {"model": "A", "first": "A", "second": "B"}
            claim.sentence.format(**names)
            assert ("{second}" in claim.sentence) == (claim.of == "pair"), claim.sentence
            assert claim.descriptive or claim.least >= 5
    assert engine.find(["s1"])[0].id == "S1"


def test_what_hangs_together_is_one_cluster(tmp_path):
    """Pairs that share an image, images that share a file; and across the parts in which an itemwise finding runs."""

    def item(name, group, image, source=None):
        return Item(name, "x", "x", group, image, "what?", "red", source=source)

    items = [
        item("a", "g1", "1"),
        item("b", "g1", "2"),
        item("c", "g2", "2"),
        item("d", "d", "3"),
        item("e", "e", "4", tmp_path / "one.png"),
        item("f", "f", "5", tmp_path / "one.png"),
        item("g", "g2", "6"),
    ]
    assert clusters_of(items) == ["1", "1", "1", "3", "4", "4", "1"]
