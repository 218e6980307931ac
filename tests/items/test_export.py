"""An export's folder: an earlier export goes, all of it and nothing else."""

import json
from dataclasses import replace

import pandas as pd
import pytest
from PIL import Image

from vlm_probe import VlmProbeError
from vlm_probe.items import Item
from vlm_probe.items.item import export_items
from vlm_probe.scenes import family_items


def exported(folder):
    table = pd.read_parquet(folder / "items.parquet")
    lines = [json.loads(line) for line in (folder / "items.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == table["id"].tolist()
    return set(table["image"])


def test_images_of_an_earlier_export_go_and_other_files_stay(tmp_path):
    out = tmp_path / "items"
    export_items(list(family_items(5, seed=0)), out, size=32)
    first = exported(out)
    (out / "images" / "mine.png").write_text("mine")
    (out / "notes.txt").write_text("mine")
    export_items(list(family_items(2, seed=1)), out, size=48)
    second = exported(out)
    assert first - second
    assert {p.name for p in (out / "images").iterdir()} == second | {"mine.png"}
    assert {p.name for p in out.iterdir()} == {"images", "items.parquet", "items.jsonl", "notes.txt"}
    for name in second:
        with Image.open(out / "images" / name) as picture:
            assert picture.size == (48, 48)
    assert ((out / "images" / "mine.png").read_text(), (out / "notes.txt").read_text()) == ("mine", "mine")


def test_names_in_a_table_of_someone_elses_reach_nothing_outside(tmp_path):
    out = tmp_path / "items"
    (out / "images").mkdir(parents=True)
    (tmp_path / "precious.png").write_text("mine")
    (out / "items.jsonl").write_text(json.dumps({"image": "../../precious.png"}) + "\n[]\n")
    export_items(list(family_items(1, families=("gqa",))), out, size=16)
    (out / "items.jsonl").write_text(json.dumps({"image": "../../precious.png"}) + "\n")
    export_items(list(family_items(1, families=("gqa",))), out, size=16)
    assert (tmp_path / "precious.png").read_text() == "mine"


def test_an_export_that_fails_leaves_the_earlier_one(tmp_path):
    out = tmp_path / "items"
    items = list(family_items(2, families=("gqa",)))
    export_items(items, out, size=16)
    before = {p.name: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    (tmp_path / "broken.png").write_text("no image")
    broken = replace(items[0], id="b", image="broken.png", source=tmp_path / "broken.png")
    with pytest.raises(VlmProbeError) as caught:
        export_items([*family_items(2, families=("gqa",), seed=5), broken], out, size=16)
    assert str(caught.value) == "'broken.png' is not an image that can be decoded"
    bare = Item("x", "pope", "k", "x", "gone.jpg", "Is there?", "yes")
    with pytest.raises(VlmProbeError, match=r"^item x names the image 'gone.jpg', but no image folder was given$"):
        export_items([bare], out)
    assert {p.name: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before


def test_what_a_killed_export_left_is_swept(tmp_path):
    (tmp_path / ".export.partial" / "images").mkdir(parents=True)
    export_items(list(family_items(1, families=("gqa",))), tmp_path, size=16)
    assert {p.name for p in tmp_path.iterdir()} == {"images", "items.parquet", "items.jsonl"}
