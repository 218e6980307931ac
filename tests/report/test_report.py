"""The report and the inspect page, as a user runs them, on the shipped replica."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from vlm_probe import VlmProbeError
from vlm_probe.findings import where_it_looks
from vlm_probe.report import measure, write_report
from vlm_probe.report.inspection import inspect
from vlm_probe.scenes import sample_scene, scene_image

ITEMS = 24


def self_contained(page: str) -> bool:
    """No address but data URIs: nothing is fetched when the page is opened."""
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    return all(s.startswith("data:image/png;base64,") for s in sources) and "url(" not in page and "<script" not in page


@pytest.fixture(scope="module")
def measured(replica_module):
    return measure(lambda name: replica_module, ["replica/default"], items=ITEMS, seed=0, progress=lambda n: None)


@pytest.fixture(scope="module")
def replica_module():
    import vlm_probe

    return vlm_probe.load("replica/default", device="cpu")


def test_report_writes_page_figures_tables_and_results(measured, tmp_path):
    page = write_report(measured, tmp_path / "report")
    text = page.read_text()
    assert self_contained(text)
    for kind in ("color", "shape", "existence", "count", "side", "relation", "all"):
        assert kind in text
    figures = {p.name for p in (tmp_path / "report" / "figures").iterdir()}
    assert figures == {
        f"{name}.{suffix}"
        for name in ("accuracy", "box_share", "image_mass", "pointing", "cases_0_best", "cases_0_worst")
        for suffix in ("png", "svg")
    }
    results = json.loads((tmp_path / "report" / "results.json").read_text())
    assert len(results["items"]) == ITEMS
    assert results["models"]["replica/default"]["embed_scale"] == "text"
    table = pd.read_csv(tmp_path / "report" / "tables" / "items.csv")
    assert len(table) == ITEMS
    overall = next(r for r in results["accuracy"] if r["kind"] == "all")
    assert overall["accuracy"] == pytest.approx(table["correct"].mean())
    assert not [p for p in tmp_path.iterdir() if p.name != "report"], "nothing half-written is left"


def test_only_a_report_is_ever_replaced(measured, tmp_path):
    thesis = tmp_path / "thesis"
    thesis.mkdir()
    (thesis / "results.json").write_text("mine")
    with pytest.raises(VlmProbeError, match="exists and is no earlier report"):
        write_report(measured, thesis)
    assert (thesis / "results.json").read_text() == "mine"


def test_a_page_that_cannot_be_written_leaves_nothing(replica_module, tmp_path, monkeypatch):
    picture = tmp_path / "scene.png"
    scene_image(sample_scene(3), 64).save(picture)

    def fail(path, target):
        assert Path(path).read_text().startswith("<!doctype html>")
        raise OSError("the disk is full")

    monkeypatch.setattr("vlm_probe.files.os.replace", fail)
    with pytest.raises(VlmProbeError, match="cannot write"):
        inspect(replica_module, picture, "How many objects are there?", out=tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_long_answer_says_how_many_tokens_are_not_drawn(replica_module, tmp_path):
    picture = tmp_path / "scene.png"
    scene_image(sample_scene(3), 64).save(picture)
    found = inspect(replica_module, picture, "Describe the image.", out=tmp_path, max_new_tokens=11)
    text = found.page.read_text()
    drawn = text.count("Answer token")
    assert drawn == min(len(found.answer_ids), 8)
    if len(found.answer_ids) > 8:
        assert f"{len(found.answer_ids) - 8} later tokens of the answer are not drawn" in text


def test_an_earlier_report_is_replaced_and_a_crash_leaves_it(measured, tmp_path, monkeypatch):
    out = tmp_path / "report"
    write_report(measured, out)
    before = (out / "index.html").read_text()
    monkeypatch.setattr("vlm_probe.report.build.write_page", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_report(measured, out)
    assert (out / "index.html").read_text() == before
    assert [p.name for p in tmp_path.iterdir()] == ["report"]
    monkeypatch.undo()
    write_report(measured, out)


def test_measured_values_are_what_they_say(measured, replica_module):
    looking = where_it_looks(replica_module, measured.items)
    items = measured.tables["items"].set_index("id")
    by_id = {i.id: i for i in measured.items}
    boxed = items[items["area"] > 0]
    assert set(boxed.index) == {i for i, item in by_id.items() if item.boxes}
    from vlm_probe.attention import image_attention, relevancy, share_in_box, union_coverage

    for one in boxed.index[:3]:
        item = by_id[one]
        inputs = replica_module.prepare(item.picture(64), item.question)
        span = inputs.layout.image()
        coverage = union_coverage([span.box_coverage(box) for box in item.boxes])
        assert items.loc[one, "area"] == pytest.approx(coverage.mean())
        trace = replica_module.trace(inputs)
        expected = share_in_box(image_attention(trace).mean("head"), coverage).values
        rows = looking.layers.loc[looking.layers["id"] == one].sort_values("layer")
        np.testing.assert_allclose(rows["in_box"], expected, rtol=1e-5)
        predicted = items.loc[one, "answer"]
        map_ = relevancy(replica_module, inputs, target=predicted or None)
        assert items.loc[one, "relevancy_in_box"] == pytest.approx(float(share_in_box(map_, coverage)), rel=1e-5)
    shares = looking.layers.dropna()
    assert shares["in_box"].between(0, 1).all()
    assert set(looking.verdicts()["n"]) == {len(boxed)}


def test_text_from_users_is_escaped(replica_module, tmp_path):
    name = "<img src=x onerror=alert(1)>.png"
    scene_image(sample_scene(1), 64).save(tmp_path / name)
    question = 'Is <b>this</b> & that a "circle"? <script>alert(1)</script>'
    found = inspect(replica_module, tmp_path / name, question, out=tmp_path / "out")
    text = found.page.read_text()
    assert "<script" not in text
    assert "<b>this" not in text
    assert "onerror=alert(1)>" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert self_contained(text)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["inspect.html"]


def test_inspect_on_a_photograph_of_any_shape(replica_module, tmp_path):
    path = tmp_path / "wide.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (61, 233, 3), dtype=np.uint8)).save(path)
    found = inspect(replica_module, path, "What color is the circle?", out=tmp_path)
    assert len(found.top) == 8
    assert found.top["probability"].is_monotonic_decreasing
    assert found.page.read_text().count("Answer token") == len(found.answer_ids)


def test_a_model_without_processor_cannot_be_reported_on(tmp_path):
    from tiny import tiny_llava

    from vlm_probe.hooked import HookedVLM

    with pytest.raises(VlmProbeError, match="has no tokenizer or image processor, which a report needs"):
        measure(lambda name: HookedVLM(tiny_llava()), ["tiny"], items=12, seed=0, progress=lambda n: None)
