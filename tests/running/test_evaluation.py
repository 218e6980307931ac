"""Evaluation: the scores of the plain way, resumable to the identical table, honest about what is missing."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image

from vlm_probe import load
from vlm_probe.errors import VlmProbeError
from vlm_probe.items.gathering import gather_items, read_answers
from vlm_probe.items.item import Item, export_items
from vlm_probe.items.scores import score_answer
from vlm_probe.running import evaluation
from vlm_probe.running.evaluation import evaluate, write_evaluation
from vlm_probe.scenes import FAMILIES, family_items


@pytest.fixture(scope="module")
def items():
    return list(family_items(6, seed=2))


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(evaluation, "IMAGES_AT_ONCE", 5)


def test_answers_are_those_of_asking_one_by_one(replica, items):
    table = evaluate(replica, items)
    assert table["id"].tolist() == [i.id for i in items]
    for item, row in zip(items, table.to_dict("records"), strict=True):
        assert row["answer"] == replica.answer(item.picture(replica.image_size), item.question)
        assert (row["normalized"], row["score"]) == score_answer(item, row["answer"])
        assert 0 <= row["p_answer"] <= 1
        assert 0 <= row["p_yes"] <= 1
        assert row["entropy"] >= 0
    # The most probable answer of one token is the one that is decoded.
    sure = table.loc[(table["p_answer"] > 0.5) & (table["family"] != "mmvet")]
    assert len(sure)
    assert sure["correct"].to_numpy().all()


class KilledError(Exception):
    pass


def test_a_killed_evaluation_resumes_to_the_identical_table(replica, items, tmp_path):
    whole = evaluate(replica, items, parts=tmp_path / "whole")
    seen = []

    def kill(n):
        seen.append(n)
        if len(seen) == 2:
            raise KilledError

    with pytest.raises(KilledError):
        evaluate(replica, items, parts=tmp_path / "killed", progress=kill)
    done = sorted(p.name for p in (tmp_path / "killed").rglob("*.parquet"))
    assert 0 < len(done) < len(list((tmp_path / "whole").rglob("*.parquet")))
    pd.testing.assert_frame_equal(evaluate(replica, items, parts=tmp_path / "killed"), whole, check_exact=True)
    assert not list(tmp_path.rglob("*.partial"))
    with pytest.raises(VlmProbeError, match=r"holds answers of a run with another number of items and items; give"):
        evaluate(replica, items[:-1], parts=tmp_path / "killed")
    with pytest.raises(VlmProbeError, match="another suffix; give another --out"):
        evaluate(replica, items, parts=tmp_path / "killed", suffix="\nBe short.")


def test_missing_and_broken_images(replica, tmp_path):
    some = list(family_items(2, families=("pope", "gqa")))
    export_items(some, tmp_path)
    read, _ = gather_items(
        [str(tmp_path / "items.jsonl")], [], generated=lambda: family_items(1), format=None, skip_bad=False
    )
    broken = tmp_path / "images" / read[0].image
    broken.write_text("no image")
    with pytest.raises(VlmProbeError, match=read[0].image):
        evaluate(replica, read)
    table = evaluate(replica, read, skip_bad=True)
    assert table["id"].tolist() == [i.id for i in read if i.image != read[0].image]
    left_out = [i for i in read if i.image == read[0].image]
    assert table.attrs["skipped"] == [f"item {i.id}: the image {i.image} is missing or unreadable" for i in left_out]
    with pytest.raises(VlmProbeError, match=rf"^no item could be asked; item {read[0].id}: the image"):
        evaluate(replica, left_out, skip_bad=True)


def test_parts_are_of_the_same_weights_hooks_images_and_options(tmp_path):
    """The name alone does not tell what answered."""
    model = load("replica/small-clip")
    some = list(family_items(2, families=("gqa",)))
    export_items(some, tmp_path)
    read, _ = gather_items(
        [str(tmp_path / "items.jsonl")], [], generated=lambda: family_items(1), format=None, skip_bad=False
    )
    parts = tmp_path / "parts"
    evaluate(model, read, parts=parts)

    def refused(what, items=read, **options):
        with pytest.raises(VlmProbeError, match=f"answers of a run with another {what}; give another --out"):
            evaluate(model, items, parts=parts, **options)

    refused("skip_bad", skip_bad=True)
    refused("items", [replace(read[0], parts=("red",)), *read[1:]])
    with model.hooks(fwd_hooks=[("connector.hook_out", lambda x, hook: 0 * x)]):
        refused("hooks")
    weight = next(model.hf.parameters())
    with torch.no_grad():
        weight += 1
        refused("weights")
        weight -= 1
    picture = tmp_path / "images" / read[0].image
    Image.new("RGB", (7, 7)).save(picture)
    refused("items")
    (settings,) = parts.rglob("settings.json")
    settings.write_text("{")
    with pytest.raises(VlmProbeError, match=r"settings.json cannot be read .*; delete .* and begin anew$"):
        evaluate(model, read, parts=parts)


def test_items_that_cannot_be_asked(replica):
    item = next(iter(family_items(1, families=("gqa",))))
    with pytest.raises(VlmProbeError, match=f"^item ids must differ, '{item.id}' comes twice$"):
        evaluate(replica, [item, item])
    with pytest.raises(VlmProbeError, match=r"^there is no item to ask$"):
        evaluate(replica, [])
    bare = Item("x", "pope", "k", "x", "gone.jpg", "Is there?", "yes")
    with pytest.raises(VlmProbeError, match=r"^item x names the image 'gone.jpg', but no image folder was given$"):
        evaluate(replica, [bare])


def test_the_written_evaluation(replica, items, tmp_path):
    table = evaluate(replica, items)
    other = table.assign(model="contrary", correct=~table["correct"], score=1 - table["score"])
    result = write_evaluation([table, other], tmp_path, seed=0, skipped=["q, line 3: no text"])
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "answers.parquet",
        "comparison.csv",
        "kinds.csv",
        "metrics.csv",
        "skipped.txt",
    ]
    assert set(result.metrics["family"]) == set(FAMILIES)
    (comparison,) = result.comparisons
    assert comparison.set_index("family").loc["all", "difference"] == pytest.approx(1 - 2 * table["score"].mean())
    back = read_answers(tmp_path / "answers.parquet", [], skip_bad=False)
    pd.testing.assert_frame_equal(back, pd.concat([table, other], ignore_index=True))
    write_evaluation([table], tmp_path, seed=0, skipped=[])
    assert not (tmp_path / "comparison.csv").exists(), "what an earlier run left would be taken for this one's"
    twice = rf"^there are two answers of contrary to '{items[0].id}'; item ids must differ$"
    with pytest.raises(VlmProbeError, match=twice):
        write_evaluation([table, pd.concat([other, other])], tmp_path, seed=0, skipped=[])
    with pytest.raises(VlmProbeError, match=twice):
        write_evaluation([other, other], tmp_path, seed=0, skipped=[])
    # lmms-eval writes a file for each task: one model's answers in several tables are what one table is.
    parts = [table.query("family == 'pope'"), other, table.query("family != 'pope'")]
    in_parts = write_evaluation(parts, tmp_path, seed=0, skipped=[]).comparisons[0].set_index("family")
    pd.testing.assert_frame_equal(in_parts, comparison.set_index("family").loc[in_parts.index])


def test_answers_given_elsewhere(tmp_path):
    log = tmp_path / "some__model"
    log.mkdir()
    line = {"doc_id": 0, "target": "yes", "filtered_resps": ["Yes"], "doc": {"question_id": "1"}}
    (log / "1_samples_pope.jsonl").write_text(json.dumps(line) + "\n{\n")
    skipped: list[str] = []
    table = read_answers(log / "1_samples_pope.jsonl", skipped, skip_bad=True)
    assert (len(table), len(skipped)) == (1, 1)
    pd.DataFrame({"model": ["m"]}).to_parquet(tmp_path / "half.parquet")
    with pytest.raises(VlmProbeError, match="is no table of answers: it has no column id, family"):
        read_answers(tmp_path / "half.parquet", [], skip_bad=False)
    (tmp_path / "no.parquet").write_text("no")
    with pytest.raises(VlmProbeError, match="^cannot read .*no.parquet"):
        read_answers(tmp_path / "no.parquet", [], skip_bad=False)


def test_a_question_file_without_images_says_what_to_do(tmp_path):
    file = tmp_path / "pope.jsonl"
    file.write_text('{"question_id": 1, "image": "1.jpg", "text": "Is there a dog?", "label": "no"}\n')
    with pytest.raises(VlmProbeError, match=r"names images; say where they are with --images FOLDER$"):
        gather_items([str(file)], [], generated=lambda: family_items(1), format=None, skip_bad=False)
    Image.new("RGB", (7, 5)).save(tmp_path / "1.jpg")
    found, _ = gather_items([str(file)], [tmp_path], generated=lambda: family_items(1), format=None, skip_bad=False)
    assert len(found) == 1


def test_several_question_files_are_one_list_of_items(tmp_path):
    """Holm's correction over families needs several; MMVP's 1.jpg is not another benchmark's."""
    for name, color in (("coco", "red"), ("mmvp", "blue")):
        (tmp_path / name).mkdir()
        for number in (1, 2):
            Image.new("RGB", (7, 5), color).save(tmp_path / name / f"{number}.jpg")
    pope, mmvp = tmp_path / "pope_random.jsonl", tmp_path / "Questions.csv"
    pope.write_text('{"question_id": 1, "image": "1.jpg", "text": "Is there a dog?", "label": "no"}\n')
    mmvp.write_text("Index,Question,Options,Correct Answer\n1,Open?,(a) yes (b) no,(a)\n2,Open?,(a) yes (b) no,(b)\n")
    gather = partial(gather_items, generated=lambda: family_items(1), format=None, skip_bad=False)
    items, skipped = gather([str(pope), "scenes", str(mmvp)], [tmp_path / "coco", tmp_path / "mmvp"])
    assert not skipped
    drawn = [item for item in items if not isinstance(item.source, Path)]
    read = {item.id: item for item in items if isinstance(item.source, Path)}
    assert {item.family for item in drawn} == set(FAMILIES)
    assert read["pope-random-1"].source == tmp_path / "coco" / "1.jpg"
    assert read["mmvp-1"].source == tmp_path / "mmvp" / "1.jpg"
    assert len({item.image for item in read.values()}) == 3
    assert read["mmvp-2"].image == "2.jpg", "the only image of that name"
    # One folder for all: now 1.jpg is the same image.
    together, _ = gather([str(pope), str(mmvp)], [tmp_path / "coco"])
    assert [item.image for item in together] == ["1.jpg", "1.jpg", "2.jpg"]
    with pytest.raises(VlmProbeError, match=r"^2 question files and 3 folders of images; give one for all, or"):
        gather([str(pope), str(mmvp)], [tmp_path] * 3)
