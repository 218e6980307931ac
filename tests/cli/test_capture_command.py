"""`vlm-probe capture` and `vlm-probe store`, as a user types them."""

import json

import numpy as np
import pytest
from PIL import Image

from vlm_probe.store import open_store


@pytest.fixture
def photos(tmp_path):
    """A folder of five pictures, one of which is none."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    (folder / "broken.jpg").write_bytes(b"[bold]no picture[/bold]")
    return folder


def test_a_folder_of_pictures_is_captured(command, photos, tmp_path):
    out = tmp_path / "acts"
    ended = command("capture", photos, "--out", out, "-c", "connector.hook_out", "--positions", "image")
    assert ended.code == 1  # one of them failed
    assert "4 items captured, 1 failed; 5 of them in this run" in ended.out
    assert ended.out.splitlines()[-1] == str(out)
    assert "failed: broken.jpg: 'broken.jpg' is not an image that can be decoded" in ended.err
    assert "5 items, 1 points: 28.0 kB an item, 140.0 kB in all" in ended.err
    assert open_store(out)["connector.hook_out"].shape == (4, 8, 8, 112)
    again = command("capture", photos, "--out", out, "-c", "connector.hook_out", "--positions", "image")
    assert (again.code, "0 of them in this run" in again.out) == (1, True)
    told = command("store", "info", out)
    assert told.code == 0
    for text in ("replica/default", "image", "5 of 5, 1 of them failed", "5 x 8 x 8 x 112", "broken.jpg"):
        assert text in told.out
    whole = command("store", "verify", out)
    assert (whole.code, whole.out.startswith("whole: 1 of 1 shards, 5 items (1 failed)")) == (0, True)


def test_strict_stops_at_the_first_that_fails(command, photos, tmp_path):
    ended = command("capture", photos, "--out", tmp_path / "acts", "--strict", "-c", "connector.hook_out")
    assert ended.code == 2
    assert ended.err.splitlines()[-1].startswith("error: item broken.jpg: 'broken.jpg' is not an image")


def test_a_table_is_captured_with_its_questions(command, photos, tmp_path):
    table = tmp_path / "table.jsonl"
    rows = [{"file_name": f"{number}.png", "caption": f"Is it {number}?"} for number in range(4)]
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ("--images", photos, "--column", "question=caption", "--limit", "3", "--positions", "answer")
    ended = command("capture", table, "--out", tmp_path / "acts", *options, "--keep", "float16")
    assert ended.code == 0, ended.err
    data = open_store(tmp_path / "acts")
    assert data["question"].values.tolist() == ["Is it 0?", "Is it 1?", "Is it 2?"]
    assert sorted(map(str, data.data_vars)) == [f"language.blocks.{layer}.hook_resid_post" for layer in range(4)]
    assert data["language.blocks.3.hook_resid_post"].dtype == np.float16


def test_a_damaged_store_is_told_and_mended(command, tmp_path):
    out = tmp_path / "acts"
    given = ("capture", "7", "--out", out, "--shard-items", "3")
    assert command(*given).code == 0
    (out / "items" / "000001.parquet").write_bytes(b"PAR1")
    ended = command("store", "verify", out)
    assert ended.code == 1
    assert "wrong: items/000001.parquet is not what was written: its checksum differs" in ended.err
    assert ended.out.startswith("damaged: 2 of 3 shards")
    mended = command("store", "repair", out)
    assert (mended.code, mended.out.startswith("not finished: 2 of 3 shards, 4 items")) == (0, True)
    assert "1 shards are missing: run the same vlm-probe capture again" in mended.err
    assert "3 of them in this run" in command(*given).out
    assert command("store", "verify", out).out.startswith("whole: 3 of 3 shards, 7 items (0 failed)")


def test_a_file_of_somebody_else_is_left_and_told(command, tmp_path):
    command("capture", "2", "--out", tmp_path / "acts")
    (tmp_path / "acts" / ".DS_Store").write_text("")
    for what in ("verify", "repair"):
        ended = command("store", what, tmp_path / "acts")
        assert (ended.code, ended.out.startswith("whole: ")) == (0, True)
        assert "note: .DS_Store is not the store's, and left alone" in ended.err


def test_a_dataset_of_options_is_repaired_with_them(command, photos, tmp_path):
    table = tmp_path / "table.jsonl"
    table.write_text("".join(json.dumps({"photo": f"{n}.png", "said": f"Is it {n}?"}) + "\n" for n in range(3)))
    given = ("--images", photos, "--column", "image=photo", "--column", "question=said")
    capturing = ("capture", table, *given, "--out", tmp_path / "acts", "-c", "connector.hook_out")
    assert command(*capturing).code == 0
    Image.new("RGB", (30, 30), "red").save(photos / "2.png")
    assert command("store", "repair", tmp_path / "acts", "--data", table, *given).out.startswith("not finished: 0 of 1")
    assert command(*capturing).code == 0


def test_changed_pictures_are_dropped_with_the_data(command, photos, tmp_path):
    out = tmp_path / "acts"
    given = ("capture", photos, "--out", out, "-c", "connector.hook_out")
    command(*given)
    Image.new("RGB", (30, 30), "red").save(photos / "2.png")
    assert "pictures changed since they were captured" in command(*given).err
    assert command("store", "repair", out, "--data", photos).out.startswith("not finished: 0 of 1 shards")
    assert "5 of them in this run" in command(*given).out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("capture", "nowhere", "--out", "o"), "there is no nowhere"),
        (("capture", "3", "--out", "o", "--column", "question"), "--column takes field=column, got 'question'"),
        (("capture", "0", "--out", "o"), "0 holds no item"),
        (("capture", "3", "--out", "o", "--keep", "int8"), "values are kept as float32 or float16, got 'int8'"),
        (("capture", "3", "--out", "o", "--positions", "sink"), "no positions 'sink' to keep"),
        (("capture", "3", "--out", "o", "--engine", "spark"), "no engine 'spark'; there are local and ray"),
        (("capture", "3", "--out", "o", "-m", "replica/none"), "no replica 'none'"),
        (("capture", "3", "--out", "o", "-c", "vision.blocks.9.*"), "vision.blocks.9"),
        (("store", "info", "nowhere"), "no store at "),
        (("store", "verify", "nowhere"), "no store at "),
        (("store", "repair", "nowhere"), "no store at "),
        (("store", "repair", "nowhere", "--images", "x"), "--images, --format and --limit go with --data"),
        (("capture", "3", "--out", "nosuch://bucket/x"), "nosuch"),
    ],
)
def test_what_is_wrong_is_one_line(refused, tmp_path, monkeypatch, argv, message):
    monkeypatch.chdir(tmp_path)
    assert message in refused(*argv)
