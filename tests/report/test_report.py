"""The report and the inspect page, as a user runs them, on the shipped replica."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from markupsafe import escape
from PIL import Image

from vlm_probe import VlmProbeError
from vlm_probe.findings import generated_items, run
from vlm_probe.findings.finding import Shown, TableOf
from vlm_probe.report import write_report
from vlm_probe.report.drawing import at_hand
from vlm_probe.report.inspection import inspect
from vlm_probe.report.page import rows_of
from vlm_probe.report.telling import listed
from vlm_probe.scenes import sample_scene, scene_image

ITEMS = 24


def self_contained(page: str) -> bool:
    """No address but data URIs and places on the page itself: nothing is fetched when the page is opened."""
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    return (
        all(s.startswith(("data:image/png;base64,", "#")) for s in sources)
        and "url(" not in page
        and "<script" not in page
    )


@pytest.fixture(scope="module")
def measured(replica):
    return run(["S1", "V1"], ["replica/default"], generated_items(ITEMS), load=lambda name: replica)


@pytest.fixture(scope="module")
def counted(replica):
    """One finding that is soon drawn: how a report takes another's place does not hang on what is in it."""
    return run(["V1"], ["replica/default"], generated_items(ITEMS), load=lambda name: replica)


def test_report_writes_page_figures_tables_and_results(measured, tmp_path):
    page = write_report(measured, tmp_path / "report")
    text = page.read_text()
    assert self_contained(text)
    for kind in ("color", "shape", "existence", "count", "side", "relation", "all"):
        assert kind in text
    for finding in measured.findings:
        assert f'id="{finding.id}"' in text
        assert escape(finding.question) in text
        for caveat in finding.caveats:
            assert escape(caveat) in text
    files = {(p.stem, p.suffix) for p in (tmp_path / "report" / "figures").iterdir()} - {("manifest", ".json")}
    figures = {name for name, _ in files}
    assert files == {(name, suffix) for name in figures for suffix in (".png", ".svg", ".pdf", ".csv")}
    expected = ("accuracy", "box_share", "image_mass", "pointing", "cases_0_best", "cases_0_worst")
    assert {name for name in figures if name.startswith("S1_")} == {f"S1_{name}" for name in expected}
    results = json.loads((tmp_path / "report" / "results.json").read_text())
    assert [one["id"] for one in results["findings"]] == ["S1", "V1"]
    assert results["models"]["replica/default"]["embed_scale"] == "text"
    made = json.loads((tmp_path / "report" / "run.json").read_text())
    assert set(made["seconds by finding"]) == {"S1", "V1"}
    assert made["seconds"] >= 0
    evidence = pd.read_csv(tmp_path / "report" / "evidence.csv")
    assert len(evidence) == sum(len(one["evidence"]) for one in results["findings"])
    table = pd.read_parquet(tmp_path / "report" / "tables" / "S1_items.parquet")
    assert table.groupby("untrained").size().to_dict() == {False: len(measured.items), True: len(measured.items)}
    accuracy = pd.read_csv(tmp_path / "report" / "tables" / "S1_accuracy.csv").query("kind == 'all'")
    assert accuracy["accuracy"].item() == pytest.approx(table.query("not untrained")["correct"].mean())
    assert not [p for p in tmp_path.iterdir() if p.name != "report"], "nothing half-written is left"


def test_a_page_shows_what_a_reader_needs_of_a_table():
    table = pd.DataFrame({"a": [1.5, 2.5, 3.5], "seed": pd.array([1200, None, 3], "Int64"), "model": ["x", "y", "z"]})
    shown = listed(TableOf("any", {"model": "which", "seed": "seed"}, where="a < 3"), table)
    assert rows_of(shown) == {"header": ["which", "seed"], "rows": [["x", "1,200"], ["y", "–"]]}
    assert rows_of(listed(TableOf("any"), table))["rows"][2] == ["3.500", "3", "z"]
    assert rows_of(pd.DataFrame({"tied": [True]}))["rows"] == [["True"]]


def test_where_no_number_is_at_hand_a_sentence_says_so(tmp_path):
    found = run(["V6"], [])
    whole = write_report(found, tmp_path / "whole").read_text()
    assert (whole.count("<figure"), whole.count("No figure")) == (2, 0)
    tables = {name: table.iloc[:0] for name, table in found.shown(found.findings[0]).tables.items()}
    found.findings = [replace(found.findings[0], shown=lambda measured, items: Shown(tables=tables))]
    page = write_report(found, tmp_path / "report")
    text = page.read_text()
    assert text.count("No figure: none of its numbers is at hand.") == 2
    assert "<figure" not in text
    assert "change in share right</th>" not in text
    assert [p.name for p in (page.parent / "figures").iterdir()] == ["manifest.json"]
    assert not at_hand(pd.DataFrame({"name": ["x"], "value": [np.nan]}))
    assert at_hand(pd.DataFrame({"name": ["x"], "value": [0]}))


def test_only_a_report_is_ever_replaced(measured, tmp_path):
    thesis = tmp_path / "thesis"
    thesis.mkdir()
    (thesis / "results.json").write_text("mine")
    with pytest.raises(VlmProbeError, match="exists and is no earlier report"):
        write_report(measured, thesis)
    assert (thesis / "results.json").read_text() == "mine"


def test_a_page_that_cannot_be_written_leaves_nothing(replica, tmp_path, monkeypatch):
    picture = tmp_path / "scene.png"
    scene_image(sample_scene(3), 64).save(picture)

    def fail(path, target):
        assert Path(path).read_text().startswith("<!doctype html>")
        raise OSError("the disk is full")

    monkeypatch.setattr("vlm_probe.files.os.replace", fail)
    with pytest.raises(VlmProbeError, match="cannot write"):
        inspect(replica, picture, "How many objects are there?", out=tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_long_answer_says_how_many_tokens_are_not_drawn(replica, tmp_path):
    picture = tmp_path / "scene.png"
    scene_image(sample_scene(3), 64).save(picture)
    found = inspect(replica, picture, "Describe the image.", out=tmp_path, max_new_tokens=11)
    text = found.page.read_text()
    drawn = text.count("Answer token")
    assert drawn == min(len(found.answer_ids), 8)
    if len(found.answer_ids) > 8:
        assert f"{len(found.answer_ids) - 8} later tokens of the answer are not drawn" in text


def test_an_earlier_report_is_replaced_and_a_crash_leaves_it(counted, tmp_path, monkeypatch):
    out = tmp_path / "report"
    write_report(counted, out)
    before = (out / "index.html").read_text()
    assert list((out / "figures").iterdir())
    monkeypatch.setattr("vlm_probe.report.build.write_page", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_report(counted, out)
    assert (out / "index.html").read_text() == before
    assert [p.name for p in tmp_path.iterdir()] == ["report"]
    monkeypatch.undo()
    write_report(counted, out)


def test_text_from_users_is_escaped(replica, tmp_path):
    name = "<img src=x onerror=alert(1)>.png"
    scene_image(sample_scene(1), 64).save(tmp_path / name)
    question = 'Is <b>this</b> & that a "circle"? <script>alert(1)</script>'
    found = inspect(replica, tmp_path / name, question, out=tmp_path / "out")
    text = found.page.read_text()
    # The explorer's own two scripts: its data, in which no element can begin or end, and its module.
    own = re.compile("<script.*?</script>", re.DOTALL)
    assert (text.count("<script"), len(own.findall(text))) == (2, 2)
    assert "<b>this" not in text
    beside = own.sub("", text)
    assert "onerror=alert(1)>" not in beside
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in beside
    assert self_contained(beside)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["inspect.html"]


def test_inspect_on_a_photograph_of_any_shape(replica, tmp_path):
    path = tmp_path / "wide.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (61, 233, 3), dtype=np.uint8)).save(path)
    found = inspect(replica, path, "What color is the circle?", out=tmp_path)
    assert len(found.top) == 8
    assert found.top["probability"].is_monotonic_decreasing
    assert found.page.read_text().count("Answer token") == len(found.answer_ids)


def test_a_model_without_processor_cannot_be_reported_on(tmp_path):
    from tiny import tiny_llava

    from vlm_probe.hooked import HookedVLM

    with pytest.raises(VlmProbeError) as error:
        run(["S1"], ["tiny"], generated_items(12), load=lambda name: HookedVLM(tiny_llava()))
    assert str(error.value) == (
        "nothing could be measured; S1 on model: model has no tokenizer or no image processor, so it cannot be asked"
    )
