"""Whatever a list of images holds, and whatever is asked for: right items, or one line; never anything else."""

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from saved import LAST, PICTURE, parquet, told, write

GOOD = {"image": "1.png", "question": "What?", "answer": "it"}


LINES: dict[str, tuple[bytes, str]] = {
    "not closed": (b'{"image": "1.png"', "no JSON (Expecting ',' delimiter)"),
    "no JSON": (b"image", "no JSON (Expecting value)"),
    "a list": (b'["1.png"]', "expected an object with an image, got \"['1.png']\""),
    "null": (b"null", "expected an object with an image, got 'None'"),
    "a number": (b"1e999", "expected an object with an image, got 'inf'"),
    "a text": (b'"1.png"', "expected an object with an image, got '1.png'"),
    "nothing in it": (b"{}", "no image"),
    "no image": (b'{"question": "What?"}', "no image"),
    "an empty image": (b'{"image": ""}', "no image"),
    "an image that is null": (b'{"image": null}', "no image"),
    "an image that is a number": (b'{"image": 7}', "image must be text, got 7"),
    "an image that is no number": (b'{"image": NaN}', "image must be text, got nan"),
    "an image that is a list": (b'{"image": ["1.png"]}', "image must be text, got ['1.png']"),
    "a question that is a number": (b'{"image": "1.png", "question": 3}', "question must be text, got 3"),
    "an answer that is true": (b'{"image": "1.png", "answer": true}', "answer must be text, got True"),
    "an id that is a list": (b'{"image": "1.png", "id": [1]}', "id must be text or a number, got [1]"),
    "answers that are a text": (b'{"image": "1.png", "answers": "a"}', "answers must be a list of texts, got 'a'"),
    "boxes that are numbers": (
        b'{"image": "1.png", "boxes": [1]}',
        "boxes must be a list of [left, top, right, bottom], got 1 in it",
    ),
    "boxes that are no list": (
        b'{"image": "1.png", "boxes": 1}',
        "a value of an unexpected kind ('int' object is not iterable)",
    ),
    "a box of NaN": (
        b'{"image": "1.png", "boxes": [[NaN, 0, 1, 1]]}',
        "a box must be in shares of the image, 0 to 1, got [nan, 0, 1, 1]",
    ),
    "a choice without a letter": (
        b'{"image": "1.png", "kind": "choice", "answer": "dog"}',
        "the right answer to a choice must be a letter, got 'dog'",
    ),
    "a family that is a number": (b'{"image": "1.png", "family": 3}', "family must be text, got 3"),
    "an infinite seed": (b'{"image": "1.png", "image_seed": Infinity}', "cannot convert float infinity to integer"),
    "latin-1": (b'{"image": "1.png", "question": "\xe9"}', "it is no text (UTF-8)"),
    "utf-16": ('{"image": "1.png"}'.encode("utf-16"), "it is no text (UTF-8)"),
    "zeros": (bytes(40), "no JSON (Expecting value)"),
    "half a character": (
        b'{"image": "1.png", "question": "\\ud800"}',
        "its text holds half a character (a lone surrogate)",
    ),
    "half a character in a list": (
        b'{"image": "1.png", "also": ["\\udfff"]}',
        "its text holds half a character (a lone surrogate)",
    ),
    "deep": (
        b'{"image": "1.png", "more": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        "maximum recursion depth exceeded while decoding a JSON array from a unicode string",
    ),
    "a number of many digits": (b'{"image": "1.png", "id": ' + b"9" * 5000 + b"}", "Exceeds the limit"),
    "two on a line": (b'{"image": "1.png"} {"image": "1.png"}', "no JSON (Extra data)"),
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "1.png").write_bytes(PICTURE)
    return tmp_path


@pytest.mark.parametrize("name", LINES)
def test_a_line_that_is_wrong_spoils_no_other(folder, name):
    line, message = LINES[name]
    (folder / "a.jsonl").write_bytes(json.dumps(GOOD).encode() + b"\n" + line + b"\n" + json.dumps(GOOD).encode())
    first, wrong, last = told(folder / "a.jsonl")
    assert (first, last) == ("1", "3")
    assert wrong.startswith(f"{folder}/a.jsonl, line 2: ")
    assert message in wrong


@pytest.mark.parametrize("name", LINES)
def test_a_table_that_begins_with_a_wrong_line(folder, name):
    line, message = LINES[name]
    (folder / "a.jsonl").write_bytes(line + b"\n" + json.dumps(GOOD).encode())
    wrong, last = told(folder / "a.jsonl")
    assert message in wrong
    assert last == "2"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"\xef\xbb\xbf" + json.dumps(GOOD).encode(), ["1"]),
        (b"\n \r\n" + json.dumps(GOOD).encode() + b"\r\n\n", ["3"]),
        (b'{"image": "1.png", "id": NaN}', ["1"]),
        (b'{"image": "1.png", "id": null, "question": NaN, "answers": null}', ["1"]),
        (b'{"image": "1.png", "id": 3.5}', ["3.5"]),
        (b'{"image": "2.png", "image": "1.png"}', ["1"]),
        ('{"image": "1.png", "id": "a\u2028b"}'.encode(), ["a\u2028b"]),
    ],
)
def test_lines_that_are_odd_and_right(folder, text, expected):
    (folder / "a.jsonl").write_bytes(text)
    assert told(folder / "a.jsonl") == expected


@pytest.mark.parametrize("text", [b"", b"\n", b" \n\t\n"])
def test_a_table_without_a_row(folder, text):
    (folder / "a.jsonl").write_bytes(text)
    assert told(folder / "a.jsonl") == [f"no: {folder}/a.jsonl holds no item"]


def test_a_line_longer_than_is_read(folder, monkeypatch):
    monkeypatch.setattr("vlm_probe.items.datasets.lines.MAX_TEXT", 1_000_000)
    long = json.dumps({**GOOD, "more": "x" * 3_000_000})
    (folder / "a.jsonl").write_text(f"{json.dumps(GOOD)}\n{long}\n{json.dumps(GOOD)}\n")
    assert told(folder / "a.jsonl") == ["1", f"{folder}/a.jsonl, line 2: it is longer than 1 megabytes", "3"]


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("../secret.png", "1"),  # the user's own list, and a picture
        ("{folder}/secret.png", "1"),
        ("../../../../../../../../../etc/passwd", "picture: 'passwd' is not an image that can be decoded"),
        ("/etc/passwd", "picture: 'passwd' is not an image that can be decoded"),
        ("/dev/zero", "picture: no image file at '/dev/zero'"),
        ("pipe.png", "picture: no image file at '{folder}/in/pipe.png'"),
        ("http://127.0.0.1:9/1.png", "picture: no image file at '{folder}/in/http:/127.0.0.1:9/1.png'"),
        (".", "picture: no image file at '{folder}/in'"),
        ("gone.png", "picture: no image file at '{folder}/in/gone.png'"),
        ("a\0b.png", "picture: no image file at "),
        ("x" * 5000, "picture: "),
    ],
)
def test_where_an_images_path_may_lead(tmp_path, image, expected):
    (tmp_path / "in").mkdir()
    (tmp_path / "secret.png").write_bytes(PICTURE)
    os.mkfifo(tmp_path / "in" / "pipe.png")
    row = {**GOOD, "image": image.replace("{folder}", str(tmp_path))}
    (tmp_path / "in" / "a.jsonl").write_text(json.dumps(row))
    pq.write_table(pa.table({name: [value] for name, value in row.items()}), tmp_path / "in" / "a.parquet")
    for name in ("a.jsonl", "a.parquet"):
        (said,) = told(tmp_path / "in" / name)
        assert said.startswith(expected.replace("{folder}", str(tmp_path)))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("gone", {}, "there is no gone"),
        ("x" * 5000, {}, "there is no xxx"),
        ("a\0b", {}, "there is no a"),
        (".", {"format": "folders"}, "no format 'folders'; nearest are 'folder'"),
        (".", {"images": Path("gone")}, "the image folder {cwd}/gone does not exist"),
        (".", {"images": Path(".")}, "the pictures are in {cwd} itself: it takes no folder of images"),
        (".", {"columns": {"picture": "a"}}, "an item has no field 'picture'; nearest are "),
        (".", {"columns": {"question": "a"}}, "a folder of pictures has no columns"),
        (".", {"format": "jsonl"}, "{cwd}: there is no such file"),
        (".", {"format": "webdataset"}, "{cwd} holds no item"),
        (".", {"format": "parquet"}, "{cwd} holds no item"),
        (".", {"format": "arrow"}, "cannot read {cwd}/state.json: No such file or directory"),
        ("a.tar.gz", {}, "{cwd}/a.tar.gz is compressed, and cannot be read from the middle; unpack it to a .tar"),
        ("a.png", {}, "{cwd}/a.png is no"),
        ("a.jsonl", {"columns": {"question": "q"}}, ""),
        ("s.tar", {"columns": {"image": "pkl"}}, "the image of a sample is one of jpg, jpeg, png, webp, got 'pkl'"),
        (
            "a.parquet",
            {"columns": {"image": "img"}},
            "{cwd}/a.parquet holds no item; the first problem: {cwd}/a.parquet: there is no column 'img'",
        ),
    ],
)
def test_what_cannot_be_opened(tmp_path, monkeypatch, name, options, message):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.tar.gz", b"\x1f\x8b")
    write(tmp_path / "a.png", PICTURE)
    write(tmp_path / "a.jsonl", b'{"image": "a.png"}')
    if name != ".":
        write(tmp_path / "s.tar", LAST)
        parquet(tmp_path, image=["a.png"])
    (said,) = told(name, **options)
    if message:
        assert said.startswith(f"no: {message.replace('{cwd}', str(tmp_path))}"), said
    else:
        assert said == f"{tmp_path}/a.jsonl, line 1: there is no column 'q' for question; there are image"


def test_a_folder_that_may_not_be_read(tmp_path):
    (tmp_path / "1.png").write_bytes(PICTURE)
    assert told(tmp_path / "1.png", format="folder") == [f"no: cannot read {tmp_path}/1.png: Not a directory"]
