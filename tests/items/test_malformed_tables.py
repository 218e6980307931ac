"""Whatever a Parquet file or a saved dataset holds: right items, or one line; never anything else."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from saved import PICTURE, check, hf_images, parquet, saved_to_disk, told, write

from vlm_probe.items.datasets import reading
from vlm_probe.items.datasets.parquet import MAX_GROUP


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "1.png").write_bytes(PICTURE)
    return tmp_path


def twice(folder: Path) -> Path:
    pq.write_table(pa.Table.from_arrays([pa.array(["1.png"])] * 2, ["image", "image"]), folder / "a.parquet")
    return folder / "a.parquet"


def whole(folder: Path) -> bytes:
    return parquet(folder, "whole.parquet", image=hf_images([PICTURE] * 3)).read_bytes()


def not_utf8(folder: Path) -> Path:
    texts = pa.array([b"1.png", b"\xff\xfe.png"], pa.binary())
    names = pa.Array.from_buffers(pa.string(), 2, texts.buffers())
    return parquet(folder, image=names)


ROW = "{path}, row 1: "
CELL = "picture: {path}, part 0, row 0, image: "
PARQUETS: dict[str, tuple[Callable[[Path], Path], list[str]]] = {
    "nothing": (lambda f: write(f / "a.parquet", b""), ["no: {path} holds no item; the first problem: {path}: "]),
    "text": (
        lambda f: write(f / "a.parquet", b"image\n" * 99),
        ["no: {path} holds no item; the first problem: {path}: "],
    ),
    "cut": (
        lambda f: write(f / "a.parquet", whole(f)[:-20]),
        ["no: {path} holds no item; the first problem: {path}: "],
    ),
    "half": (
        lambda f: write(f / "a.parquet", whole(f)[:300]),
        ["no: {path} holds no item; the first problem: {path}: "],
    ),
    "a footer alone": (lambda f: write(f / "a.parquet", b"PAR1" + whole(f)[-600:]), ["no: "]),
    "no row": (lambda f: parquet(f, image=pa.array([], pa.string())), ["no: {path} holds no item"]),
    "no image": (
        lambda f: parquet(f, picture=["1.png"]),
        [
            "no: {path} holds no item; the first problem: {path}: it has no column of images (image, jpg, bytes, "
            "path, file_name, filepath), but picture"
        ],
    ),
    "images of numbers": (
        lambda f: parquet(f, image=[3]),
        ["no: {path} holds no item; the first problem: {path}: its column 'image' holds int64, expected"],
    ),
    "images of lists": (
        lambda f: parquet(f, image=[[b"a"]]),
        ["no: {path} holds no item; the first problem: {path}: its column 'image' holds list"],
    ),
    "images of other structs": (
        lambda f: parquet(f, image=[{"data": b"a"}]),
        ["no: {path} holds no item; the first problem: {path}: its column 'image' holds struct"],
    ),
    "images of nothing": (
        lambda f: parquet(f, image=pa.nulls(2)),
        ["no: {path} holds no item; the first problem: {path}: its column 'image' holds null"],
    ),
    "a column twice": (twice, ["no: {path} holds no item; the first problem: {path}: it has the column 'image' twice"]),
    "null bytes": (lambda f: parquet(f, image=pa.array([None, PICTURE])), [CELL + "there is no picture", "2"]),
    "a null struct": (
        lambda f: parquet(f, image=pa.array([None, {"bytes": PICTURE, "path": None}], hf_images([]).type)),
        [CELL + "there is no picture", "2"],
    ),
    "neither bytes nor path": (
        lambda f: parquet(f, image=hf_images([None, PICTURE])),
        [CELL + "there is no picture", "2"],
    ),
    "a path to nothing": (
        lambda f: parquet(f, image=hf_images([None, PICTURE], ["gone.png", None])),
        [CELL + "the image {folder}/gone.png does not exist", "2"],
    ),
    "a path to a device": (
        lambda f: parquet(f, image=hf_images([None, PICTURE], ["/dev/zero", None])),
        [CELL + "the image /dev/zero does not exist", "2"],
    ),
    "empty bytes": (
        lambda f: parquet(f, image=[b"", PICTURE]),
        ["picture: 'a.parquet/1' is not an image that can be decoded", "2"],
    ),
    "text for bytes": (
        lambda f: parquet(f, image=[b"text", PICTURE]),
        ["picture: 'a.parquet/1' is not an image that can be decoded", "2"],
    ),
    "null paths": (lambda f: parquet(f, image=[None, "1.png"]), [ROW + "no image", "2"]),
    "null ids": (lambda f: parquet(f, image=["1.png"] * 2, id=pa.array([None, "b"])), ["1", "b"]),
    "NaN ids": (lambda f: parquet(f, image=["1.png"] * 2, id=[float("nan"), 5.0]), ["1", "5.0"]),
    "ids of bytes": (lambda f: parquet(f, image=["1.png"], id=[b"a"]), [ROW + "id must be text or a number, got b'a'"]),
    "questions of numbers": (
        lambda f: parquet(f, image=["1.png"], question=[1]),
        [ROW + "question must be text, got 1"],
    ),
    "answers of structs": (
        lambda f: parquet(f, image=["1.png"], answers=[[{"answer": "a"}]]),
        [ROW + "answers must be a list of texts, got [{'answer': 'a'}]"],
    ),
    "paths that are no text": (not_utf8, ["1", "{path}, row 2: "]),
    "paths of a dictionary": (lambda f: parquet(f, image=pa.array(["1.png"] * 2).dictionary_encode()), ["1", "2"]),
    "a name with a dot": (lambda f: parquet(f, **{"image": ["1.png"], "a.b": [1]}), ["1"]),
}


@pytest.mark.parametrize("name", PARQUETS)
def test_a_parquet_file(folder, name):
    make, expected = PARQUETS[name]
    path = make(folder)
    check(told(path), expected, path, folder)


def test_one_bad_file_among_several_counts_as_one_item(tmp_path):
    parquet(tmp_path, "0.parquet", image=[PICTURE] * 2)
    write(tmp_path / "1.parquet", b"noise")
    parquet(tmp_path, "2.parquet", other=[1])
    parquet(tmp_path, "3.parquet", image=[PICTURE])
    (tmp_path / "4.parquet").mkdir()
    os.mkfifo(tmp_path / "5.parquet")
    one, two, noise, other, three, folder, pipe = told(tmp_path)
    assert (one, two, three) == ("1", "2", "5")
    assert noise.startswith(f"{tmp_path}/1.parquet: ")
    assert other.startswith(f"{tmp_path}/2.parquet: it has no column of images")
    assert folder == f"{tmp_path}/4.parquet: there is no such file"
    assert pipe == f"{tmp_path}/5.parquet: there is no such file"


def test_a_row_group_too_large_to_read(folder, monkeypatch):
    assert MAX_GROUP == 4_000_000_000
    monkeypatch.setattr("vlm_probe.items.datasets.parquet.MAX_GROUP", 100)
    path = parquet(folder, image=[PICTURE], question=["?"])
    (said,) = told(path)
    assert said.startswith(f"{path}, row 1: row group 0 has 0 megabytes, and at most 0 are read")


def test_a_parquet_file_whose_pages_are_noise(folder):
    path = parquet(folder, image=[bytes([n]) * 500 for n in range(9)], question=[f"question {n}" for n in range(9)])
    content = bytearray(path.read_bytes())
    for start in range(4, 600, 97):
        broken = bytes(content[:start]) + b"\xff" * 60 + bytes(content[start + 60 :])
        assert told(write(folder / f"{start}.parquet", broken))


def state(folder: Path, state: object) -> Path:
    saved_to_disk(folder / "saved", {"image": hf_images([PICTURE] * 3)})
    text = state if isinstance(state, str) else json.dumps(state)
    (folder / "saved" / "state.json").write_text(text)
    return folder / "saved"


def cut_stream(folder: Path, share: float) -> Path:
    path = saved_to_disk(folder / "saved", {"image": hf_images([PICTURE] * 8)}, batch=2)
    file = path / "data-00000-of-00001.arrow"
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])
    return path


NAMES = "no: {path}/state.json names the file "
ARROWS: dict[str, tuple[Callable[[Path], Path], list[str]]] = {
    "no state": (lambda f: state(f, ""), ["no: {path}/state.json, line 1: no JSON"]),
    "a state that is a list": (lambda f: state(f, []), ["no: {path}/state.json holds a list"]),
    "a deep state": (lambda f: state(f, "[" * 100_000), ["no: {path}/state.json: no JSON (nested too deep)"]),
    "no files": (lambda f: state(f, {}), ["no: {path}/state.json has no list of _data_files"]),
    "an empty list of files": (lambda f: state(f, {"_data_files": []}), ["no: {path} holds no item"]),
    "a file upwards": (
        lambda f: state(f, {"_data_files": [{"filename": "../a.arrow"}]}),
        [NAMES + "'../a.arrow', expected a plain name"],
    ),
    "an absolute file": (
        lambda f: state(f, {"_data_files": [{"filename": "/etc/passwd"}]}),
        [NAMES + "'/etc/passwd', expected a plain name"],
    ),
    "a file that is no name": (
        lambda f: state(f, {"_data_files": [{"filename": 3}]}),
        [NAMES + "3, expected a plain name"],
    ),
    "a file above": (lambda f: state(f, {"_data_files": [".."]}), [NAMES + "'..', expected a plain name"]),
    "a file of null": (lambda f: state(f, {"_data_files": [None]}), [NAMES + "None, expected a plain name"]),
    "a file that is gone": (
        lambda f: state(f, {"_data_files": [{"filename": "gone.arrow"}]}),
        ["no: {path} holds no item; the first problem: {path}/gone.arrow: there is no such file"],
    ),
    "an index": (
        lambda f: state(f, {"_data_files": [], "_indices_data_files": [{"filename": "i"}]}),
        ["no: {path} was saved with an index of rows"],
    ),
    "an empty stream": (lambda f: cut_stream(f, 0), ["no: {path} holds no item; the first problem: "]),
    "a cut schema": (lambda f: cut_stream(f, 0.02), ["no: {path} holds no item; the first problem: "]),
    "a cut batch": (
        lambda f: cut_stream(f, 0.6),
        ["1", "2", "3", "4", "{path}/data-00000-of-00001.arrow: after row 4 it cannot be read: "],
    ),
}


@pytest.mark.parametrize("name", ARROWS)
def test_a_saved_dataset(tmp_path, name):
    make, expected = ARROWS[name]
    path = make(tmp_path)
    check(told(path), expected, path, tmp_path)


def test_splits_that_are_none(tmp_path):
    for text, expected in (
        ("{}", "dataset_dict.json has no list of splits"),
        ('{"splits": []}', "holds several splits (none)"),
        ('{"splits": [1, {"a": 2}]}', "holds several splits (1, {'a': 2})"),
    ):
        (tmp_path / "dataset_dict.json").write_text(text)
        assert expected in told(tmp_path)[0]


def test_an_arrow_stream_with_any_byte_changed(tmp_path):
    path = saved_to_disk(tmp_path / "saved", {"image": hf_images([PICTURE] * 4), "question": list("abcd")}, batch=2)
    file = path / "data-00000-of-00001.arrow"
    content = file.read_bytes()
    for place in range(0, len(content), 7):
        broken = bytearray(content)
        broken[place] ^= 0xFF
        file.unlink()  # what is mapped stays as it was
        file.write_bytes(broken)
        assert told(path)


def test_a_picture_too_large_in_a_table(folder, monkeypatch):
    monkeypatch.setattr("vlm_probe.items.datasets.tables.MAX_BYTES", 10)
    monkeypatch.setattr(reading, "MAX_BYTES", 10)
    path = parquet(folder, image=hf_images([PICTURE, None], [None, "1.png"]))
    inside, beside = told(path)
    assert inside.endswith("the image is too large; at most 0 megabytes are read")
    assert beside.endswith("1.png is too large; at most 0 megabytes are read")
