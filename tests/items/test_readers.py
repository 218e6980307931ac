"""Readers: each real format into items, malformed lines named with file and line."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import SHARED

from vlm_probe.errors import VlmProbeError
from vlm_probe.items.item import export_items
from vlm_probe.items.readers import FORMATS, guess_format, read_items
from vlm_probe.items.scores import score_answer

POPE = SHARED / "benchmarks" / "pope_coco_adversarial.jsonl"


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    (folder / "count").mkdir(parents=True)
    for name in ("COCO_val2014_000000000042.jpg", "1.jpg", "2.jpg", "n42.jpg", "v1_0.png", "count/000.jpg"):
        Image.fromarray(np.full((7, 11, 3), 9, dtype=np.uint8)).save(folder / name)
    return folder


def write(path, text: str):
    path.write_text(text)
    return path


FILES = {
    "pope": (
        "coco_pope_popular.json",
        '{"question_id": 1, "image": "1.jpg", "text": "Is there a dog?", "label": "no"}\n',
    ),
    "mmvp": (
        "Questions.csv",
        "lndex,Question,Options,Correct Answer\n1,Is it open?,(a) Open (b) Closed,(a)\n"
        '2,"Is it, then?",(a) Yes (b) No,(b)\n',
    ),
    "gqa": (
        "testdev_balanced_questions.json",
        '{"077": {"imageId": "n42", "question": "Is it red?", "answer": "yes", "types": {"semantic": "attr"}}}',
    ),
    "vqav2": (
        "v2_OpenEnded_mscoco_val2014_questions.json",
        '{"data_subtype": "val2014", "questions": [{"image_id": 42, "question": "What?", "question_id": 42000}]}',
    ),
    "mme": ("count.txt", "000.jpg\tAre there two dogs? Please answer yes or no.\tYes\n000.jpg\tAre there three?\tNo\n"),
    "mmvet": (
        "mm-vet.json",
        '{"v1_0": {"imagename": "v1_0.png", "question": "x?", "answer": "x=-1<AND>x=-5", '
        '"capability": ["ocr", "math"]}}',
    ),
}


def sample(tmp_path, name: str):
    file, text = FILES[name]
    if name == "vqav2":
        said = [{"answer": "dog", "answer_id": i} for i in range(10)]
        note = {"question_id": 42000, "multiple_choice_answer": "dog", "answer_type": "other", "answers": said}
        write(tmp_path / "v2_mscoco_val2014_annotations.json", json.dumps({"annotations": [note]}))
    return write(tmp_path / file, text)


@pytest.mark.parametrize("name", FILES)
def test_every_format_is_recognised_and_read(tmp_path, images, name):
    path = sample(tmp_path, name)
    assert guess_format(path) == name
    items, skipped = read_items(path, images)
    assert not skipped
    assert all(item.family == name for item in items)
    assert all(isinstance(item.source, Path) and item.source.is_file() for item in items)
    assert len({item.id for item in items}) == len(items)
    assert set(FILES) | {"items"} == set(FORMATS)


def test_what_the_formats_mean(tmp_path, images):
    (pope,), _ = read_items(sample(tmp_path, "pope"), images)
    assert (pope.kind, pope.answer, pope.question) == ("popular", "no", "Is there a dog?")
    (first, second), _ = read_items(sample(tmp_path, "mmvp"), images)
    assert first.group == second.group
    assert (first.kind, first.answer, first.question) == ("choice", "(a)", "Is it open? (a) Open (b) Closed")
    assert second.question.startswith("Is it, then?")
    (gqa,), _ = read_items(sample(tmp_path, "gqa"), images)
    assert (gqa.kind, gqa.image) == ("attr", "n42.jpg")
    (vqa,), _ = read_items(sample(tmp_path, "vqav2"), images)
    assert (vqa.image, vqa.answer, vqa.answers) == ("COCO_val2014_000000000042.jpg", "dog", ("dog",) * 10)
    (yes, no), _ = read_items(sample(tmp_path, "mme"), images)
    assert (yes.answer, no.answer) == ("yes", "no")
    assert yes.group == no.group
    assert yes.kind == "count"
    (vet,), _ = read_items(sample(tmp_path, "mmvet"), images)
    assert (vet.parts, vet.answer, vet.kind) == (("x=-1", "x=-5"), "x=-1 x=-5", "math+ocr")


def test_real_pope_lines():
    if not POPE.exists():
        pytest.skip(f"no {POPE}")
    items, skipped = read_items(POPE)
    assert (len(items), skipped) == (600, [])
    assert {item.answer for item in items} == {"yes", "no"}
    assert {item.kind for item in items} == {"adversarial"}
    assert len({item.image for item in items}) == 100
    assert items[1].question == "Is there a backpack in the image?"
    with pytest.raises(VlmProbeError, match="names the image .* but no image folder was given"):
        items[0].picture(10)


GOOD = FILES["pope"][1]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{not json}", "no JSON (Expecting property name enclosed in double quotes)"),
        ('{"question_id": 3, "image": "1.jpg", "text": ""}', "no text and no label"),
        (GOOD.replace('"no"', '"perhaps"').strip(), "the answer must be yes or no, got 'perhaps'"),
        (GOOD.replace('"Is there', '5, "else": "Is there').strip(), "text must be text, got 5"),
        ('["a", "list"]', "expected an object with question_id, image, text, label, got \"['a', 'list']\""),
    ],
)
def test_a_malformed_line_is_named_and_skipped_only_on_demand(tmp_path, images, line, why):
    path = write(tmp_path / "pope.jsonl", f"{GOOD}{line}\n{GOOD.replace('1,', '2,', 1)}")
    with pytest.raises(VlmProbeError) as caught:
        read_items(path, images)
    assert str(caught.value) == f"{path}, line 2: {why} (--skip-bad leaves such items out)"
    items, skipped = read_items(path, images, skip_bad=True)
    assert [item.id for item in items] == ["pope-existence-1", "pope-existence-2"]
    assert skipped == [f"{path}, line 2: {why}"]


def test_entries_of_json_files_that_are_none(tmp_path, images):
    questions = sample(tmp_path, "vqav2")
    whole = questions.read_text()
    with pytest.raises(VlmProbeError, match=r"entry 1: a value of an unexpected kind \(invalid literal for int"):
        read_items(write(questions, whole.replace('"image_id": 42', '"image_id": "x"')), images)
    write(questions, whole)
    notes = tmp_path / "v2_mscoco_val2014_annotations.json"
    notes.write_text('{"annotations": [null, 5]}')
    with pytest.raises(VlmProbeError, match=r"entry 1: no annotation of question 42000 in v2_mscoco"):
        read_items(questions, images)
    notes.write_text('{"annotations": null}')
    with pytest.raises(VlmProbeError, match=r"annotations\.json has no list of annotations$"):
        read_items(questions, images)
    notes.write_text('{"annotations": []}')
    with pytest.raises(VlmProbeError, match=r"questions\.json has no list of questions$"):
        read_items(write(questions, '{"questions": null}'), images)
    gqa = sample(tmp_path, "gqa")
    with pytest.raises(VlmProbeError, match=r"entry 1: answer must be text, got 3 \(--skip-bad"):
        read_items(write(gqa, gqa.read_text().replace('"yes"', "3")), images)


def test_a_missing_image_is_named(tmp_path, images):
    path = write(tmp_path / "pope.jsonl", GOOD.replace("1.jpg", "gone.jpg") + GOOD)
    with pytest.raises(VlmProbeError) as caught:
        read_items(path, images)
    missing = f"{path}, line 1: the image {images / 'gone.jpg'} does not exist"
    assert str(caught.value) == f"{missing} (--skip-bad leaves such items out)"
    items, skipped = read_items(path, images, skip_bad=True)
    assert len(items) == 1
    assert skipped == [missing]


def item_line(**changes) -> str:
    whole = {
        "id": "1",
        "family": "own",
        "kind": "color",
        "group": "1",
        "image": "1.png",
        "question": "?",
        "answer": "blue",
    }
    return json.dumps({**whole, **changes}) + "\n"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "q.json",
            "{",
            r"^.*q.json is no question file known here: an item file of your own has .* the format: gqa, items, mme",
        ),
        ("q.json", '{"questions": [}', r"^.*q.json, line 1: no JSON \(Expecting value\)$"),
        ("v2_OpenEnded_mscoco_x_questions.json", '{"questions": []}', r"v2_mscoco_x_annotations.json is not there$"),
        ("q.csv", "Index,Question,Options,Correct Answer\n", r"^.*q.csv holds no usable item$"),
        ("q.csv", "Index,Question,Options,Correct Answer\nx,Q,O,(a)\n", r"line 2: Index must be a number, got 'x'"),
        (
            "q.csv",
            "Index,Question,Options,Correct Answer\n1,Q,O,Open\n",
            r"line 2: the correct answer must be a letter",
        ),
        ("q.csv", f'Index,Question,Options,Correct Answer\n1,"{"Q" * 140_000}\n', r"no CSV \(field larger than"),
        (
            "pope.json",
            '{"question_id": 1, "image": 5, "text": "?", "label": "no"}',
            r"line 1: image must be text, got 5",
        ),
        ("vqav2.json", '[{"questions": 1}]', r"^.*vqav2.json holds a list, expected a JSON object$"),
        ("gqa.json", '{"1": {"imageId": "1", "question": "?", "answer": "x", "types": "y"}}', r"entry 1: a value of"),
        ("items.jsonl", item_line(answers="red"), r"line 1: answers must be a list of texts, got 'red'"),
        ("items.jsonl", item_line(parts="red, left"), r"line 1: parts must be a list of texts, got 'red, left'"),
        ("items.jsonl", item_line(distractors=[1, 2]), r"line 1: distractors must be a list of texts, got \[1, 2\]"),
        (
            "items.jsonl",
            item_line(boxes=[[3, 5, 40, 41]]),
            r"line 1: a box must be in shares of the image",
        ),
        (
            "items.jsonl",
            item_line(boxes=[[0.1, 0.2]]),
            r"line 1: boxes must be a list of \[left, top, right, bottom\], got",
        ),
        ("items.jsonl", item_line(kind="choice"), r"line 1: the right answer to a choice must be a letter, got 'blue'"),
        (
            "items.jsonl",
            item_line(kind="choice", answer="(a)", also=["red"]),
            r"line 1: the right answer to a choice must be a letter, got 'red'",
        ),
        ("items.jsonl", item_line(also="navy"), r"line 1: also must be a list of texts, got 'navy'"),
        ("items.parquet", "text", r"^cannot read .*items.parquet: "),
        ("gone.parquet", None, r"^cannot read .*gone.parquet: No such file or directory$"),
        ("count.txt", "000.jpg\tonly two\n", r"line 1: expected image, question and answer between tabs, got 2 fields"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, text, message):
    path = tmp_path / name if text is None else write(tmp_path / name, text)
    with pytest.raises(VlmProbeError, match=message):
        read_items(path, tmp_path)


def test_paths_that_are_none(tmp_path):
    with pytest.raises(VlmProbeError, match=r"^cannot read .*gone.json: No such file or directory$"):
        read_items(tmp_path / "gone.json")
    path = write(tmp_path / "pope.jsonl", GOOD)
    with pytest.raises(VlmProbeError, match=r"^no format 'pop'; nearest are 'pope'"):
        read_items(path, format="pop")
    with pytest.raises(VlmProbeError, match=r"^the image folder .*nowhere does not exist$"):
        read_items(path, tmp_path / "nowhere")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(VlmProbeError, match="is not a text file"):
        read_items(tmp_path / "binary.json")


def test_line_breaks_inside_an_entry_are_text(tmp_path, images):
    line = json.dumps({"question_id": 1, "image": "1.jpg", "text": "Is\u2028it?", "label": "no"}, ensure_ascii=False)
    (item,), _ = read_items(write(tmp_path / "pope.jsonl", line + "\r\n"), images)
    assert item.question == "Is\u2028it?"
    text = 'Index,Question,Options,Correct Answer\n1,"Is it\nopen?",(a) Yes (b) No,(a)\n'
    (item,), _ = read_items(write(tmp_path / "q.csv", text), images)
    assert item.question == "Is it\nopen? (a) Yes (b) No"


def test_categories_of_mme_with_images_of_one_name_stay_apart(tmp_path):
    for name, below in (("count", ""), ("landmark", "images")):
        (tmp_path / name / below).mkdir(parents=True)
        Image.fromarray(np.zeros((7, 11, 3), dtype=np.uint8)).save(tmp_path / name / below / "1.jpg")
        write(tmp_path / f"{name}.txt", "1.jpg\tIs it?\tYes\n1.jpg\tIs it not?\tNo\n")
    found = [item for name in ("count", "landmark") for item in read_items(tmp_path / f"{name}.txt", tmp_path)[0]]
    assert [item.image for item in found] == ["count/1.jpg"] * 2 + ["landmark/1.jpg"] * 2
    assert found[2].source == tmp_path / "landmark" / "images" / "1.jpg"
    write(tmp_path / "readme.txt", "none of MME's")
    assert read_items(tmp_path, tmp_path)[0] == found, "the folder is its categories"
    write(tmp_path / "landmark.txt", "1.jpg\tIs it?\tYes\n1.jpg\n")
    with pytest.raises(VlmProbeError, match=r"landmark\.txt, line 2: expected image, question and answer"):
        read_items(tmp_path, tmp_path)
    with pytest.raises(VlmProbeError, match="is a folder without an item table"):
        read_items(tmp_path / "landmark")
    folder = export_items(found, tmp_path / "out")
    assert {p.name for p in (folder / "images").iterdir()} == {"count-1.png", "landmark-1.png"}
    again, _ = read_items(folder / "items.jsonl")
    assert [isinstance(item.source, Path) and item.source.name for item in again] == ["count-1.png"] * 2 + [
        "landmark-1.png"
    ] * 2


def test_several_right_answers_of_an_item_file(tmp_path, images):
    line = item_line(image="1.jpg", also=["navy blue", "azure"])
    (item,), _ = read_items(write(tmp_path / "items.jsonl", line), images)
    assert (item.answer, item.also) == ("blue", ("navy blue", "azure"))
    assert [score_answer(item, text) for text in ("Blue.", "navy blue", "It is azure.", "navy")] == [
        ("blue", 1),
        ("navy blue", 1),
        ("azure", 1),
        ("navy", 0),
    ]
    folder = export_items([item], tmp_path / "out")
    for name in ("items.parquet", "items.jsonl"):
        (again,), _ = read_items(folder / name)
        assert again.also == item.also, name
