"""A user's own item file: JSON Lines, CSV, Parquet, or a folder of pictures with one of them; and what checks it."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from vlm_probe.errors import VlmProbeError
from vlm_probe.items import Item, read_items
from vlm_probe.items.checking import counted, problems
from vlm_probe.items.scores import score_answer
from vlm_probe.layout import UnitBox

ROWS = [
    {"image": "a.png", "question": "What is it?", "answer": "a cup"},
    {
        "image": "b.png",
        "question": "Is it red?",
        "answer": "no",
        "id": "seven",
        "kind": "color",
        "group": "pair-1",
        "boxes": [[0.1, 0.2, 0.5, 0.75]],
        "others": [[0.5, 0.5, 1.0, 1.0]],
        "distractors": ["yes"],
        "also": ["not at all"],
    },
]


@pytest.fixture
def folder(tmp_path):
    for name in ("a.png", "b.png"):
        Image.fromarray(np.full((7, 11, 3), 9, dtype=np.uint8)).save(tmp_path / name)
    return tmp_path


def as_jsonl(path):
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))


def as_csv(path):
    cells = pd.DataFrame(ROWS)
    for name in ("boxes", "others", "distractors", "also"):
        cells[name] = [json.dumps(value) if isinstance(value, list) else "" for value in cells[name]]
    cells.to_csv(path, index=False)


def as_parquet(path):
    pd.DataFrame(ROWS).to_parquet(path, index=False)


WRITERS = {"questions.jsonl": as_jsonl, "my items.csv": as_csv, "q.parquet": as_parquet}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("where", ["the file", "the folder", "images/ beside it", "a folder named"])
def test_every_form_gives_the_same_items(folder, name, where):
    WRITERS[name](folder / name)
    named = folder / name if where != "the folder" else folder
    images = None
    pictures = folder
    if where in ("images/ beside it", "a folder named"):
        pictures = folder / ("images" if where == "images/ beside it" else "elsewhere")
        pictures.mkdir()
        for picture in ("a.png", "b.png"):
            shutil.move(folder / picture, pictures / picture)
        images = None if where == "images/ beside it" else pictures
    items, skipped = read_items(named, images)
    assert skipped == []
    number = "2" if name.endswith(".csv") else "1"  # the line, of a file with a first line of names
    assert items == [
        Item(number, "own", "question", number, "a.png", "What is it?", "a cup"),
        Item(
            "seven",
            "own",
            "color",
            "pair-1",
            "b.png",
            "Is it red?",
            "no",
            also=("not at all",),
            distractors=("yes",),
            boxes=(UnitBox(0.1, 0.2, 0.5, 0.75),),
            others=(UnitBox(0.5, 0.5, 1.0, 1.0),),
        ),
    ]
    assert [item.source for item in items] == [pictures / "a.png", pictures / "b.png"]
    assert score_answer(items[0], "It is a cup.")[1] == 1
    assert score_answer(items[1], "No, it is not.")[1] == 1  # yes/no questions as POPE reads them


def test_a_folder_with_a_table_of_a_usual_name_may_hold_others(folder):
    as_csv(folder / "items.csv")
    as_jsonl(folder / "notes.jsonl")
    assert len(read_items(folder)[0]) == 2
    (folder / "items.csv").rename(folder / "other.csv")
    with pytest.raises(VlmProbeError) as caught:
        read_items(folder)
    assert str(caught.value) == f"{folder} holds 2 tables, notes.jsonl and other.csv: name one"
    for name in ("notes.jsonl", "other.csv"):
        (folder / name).unlink()
    with pytest.raises(VlmProbeError) as caught:
        read_items(folder)
    assert str(caught.value) == (
        f"{folder} is a folder without an item table (items.jsonl, items.csv or items.parquet) and without a file of "
        "MME (existence.txt, count.txt, ...)"
    )


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "q.jsonl",
            '{"image": "a.png", "question": "What?", "answer": ""}\n',
            "q.jsonl, line 1: no answer; an item has image, question and answer",
        ),
        (
            "q.jsonl",
            '{"image": "a.png", "question": "What?", "answer": 3}\n',
            "q.jsonl, line 1: answer must be text, got 3; an item has image, question and answer",
        ),
        ("q.csv", "image,question,answer\n,,x\n", "q.csv, line 2: no image and no question; an item has image"),
        ("q.csv", "image,question,answer\na.png,What, ever?,x\n", "line 2: there are 1 cells more than names in the"),
        (
            "q.csv",
            'image,question,answer,boxes\na.png,What?,x,"0.1, 0.2"\n',
            "line 2: boxes must be a list as JSON has it, got '0.1, 0.2'",
        ),
        (
            "q.csv",
            'image,question,answer,boxes\na.png,What?,x,"[[1, 2, 30, 40]]"\n',
            "line 2: a box must be in shares of the image, 0 to 1, got [1, 2, 30, 40]",
        ),
        (
            "q.csv",
            'image,question,answer,boxes\na.png,What?,x,"[[0.5, 0.6, 0.1, 0.9]]"\n',
            "line 2: a box's left must be before its right, its top before its bottom, got [0.5, 0.6, 0.1, 0.9]",
        ),
        (
            "q.jsonl",
            '{"image": "a.png", "question": "What?", "answer": "x", "boxes": [0.1, 0.2, 0.3, 0.4]}\n',
            "line 1: boxes must be a list of [left, top, right, bottom], got 0.1 in it",
        ),
        ("q.csv", "image,question,answer,answer\na.png,What?,x,y\n", "q.csv has the column 'answer' twice"),
        ("q.CSV", "image;question;answer\n", "(it has image;question;answer), and no benchmark's: "),
        ("q.jsonl", "\n", "q.jsonl is no question file known here"),
        (
            "q.csv",
            "image,question\na.png,What?\n",
            "q.csv is no item file, which has image, question, answer (it has image, question), and no benchmark's: ",
        ),
    ],
)
def test_what_is_wrong_names_what_an_item_must_have(folder, name, text, message):
    (folder / name).write_text(text)
    with pytest.raises(VlmProbeError) as caught:
        read_items(folder / name)
    assert message in str(caught.value)


def test_what_items_come_to(folder):
    as_jsonl(folder / "q.jsonl")
    items, _ = read_items(folder)
    items = [*items, *items[:1]]
    assert counted(items).to_dict("records") == [
        {"family": "own", "kind": "question", "items": 2, "images": 1, "boxes": 0, "others": 0, "distractors": 0},
        {"family": "own", "kind": "color", "items": 1, "images": 1, "boxes": 1, "others": 1, "distractors": 1},
    ]
    (folder / "b.png").write_text("no picture")
    seen = []
    assert problems(items, seen.append) == [
        "the id '1' comes more than once",
        "item 'seven': 'b.png' is not an image that can be decoded",
    ]
    assert sum(seen) == 3
    odd = replace(items[1], distractors=("no",), others=items[1].boxes, source=None)
    assert problems([odd]) == [
        "item 'seven': its answer 'no' is among the distractors",
        "item 'seven': a box of what is asked about is among those of other objects",
    ]


def test_the_command_says_what_can_be_asked(command, refused, folder):
    as_csv(folder / "items.csv")
    ended = command("items", "check", folder)
    assert (ended.code, ended.err.strip()) == (0, "")
    assert ended.out.splitlines()[0].strip() == "2 items about 2 images"
    assert "S1 2" in ended.out
    assert "not E2: it needs twins" in ended.out
    (folder / "odd.jsonl").write_text(json.dumps({**ROWS[0], "bbox": []}) + "\n")
    assert command("items", "check", folder / "odd.jsonl").err.strip() == "note: nothing reads bbox"
    (folder / "odd.jsonl").unlink()
    (folder / "b.png").write_text("no picture")
    ended = command("items", "check", folder / "items.csv")
    assert ended.code == 1
    assert ended.err.strip().splitlines() == [
        "wrong: item 'seven': 'b.png' is not an image that can be decoded",
        "1 thing is wrong; --skip-bad leaves such items out",
    ]
    assert refused("items", "check", folder / "none.csv") == f"no such file or folder: {folder / 'none.csv'}"
