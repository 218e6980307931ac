"""`vlm-probe scenes export`: files that say what they are."""

import json

import pandas as pd
import pytest
from PIL import Image

EXPORT = ("scenes", "export")


def test_it_writes_what_it_says(command, tmp_path):
    out = tmp_path / "new" / "[red]items"
    ended = command(*EXPORT, out, "--n", 2, "--size", 48)
    assert ended.code == 0
    table = pd.read_parquet(out / "items.parquet")
    pictures = list((out / "images").iterdir())
    said, where = ended.out.splitlines()
    assert said == f"{len(table)} items about {len(pictures)} images"
    assert where == str(out)
    assert sorted(p.name for p in out.iterdir()) == ["images", "items.jsonl", "items.parquet"]
    assert {p.name for p in pictures} == set(table["image"])
    for picture in pictures:
        with Image.open(picture) as opened:
            assert opened.size == (48, 48)
    assert list(table["family"].unique()) == ["pope", "mmvp", "gqa", "mme", "vqav2", "mmvet"]
    lines = [json.loads(line) for line in (out / "items.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == table["id"].tolist()
    assert [line["question"] for line in lines] == table["question"].tolist()


def test_some_families_of_a_split_by_seed(command, tmp_path):
    def export(name, seed, split="heldout"):
        chosen = ("--family", "vqav2", "--family", "gqa", "--split", split)
        assert command(*EXPORT, tmp_path / name, "--n", 3, "--size", 16, "--seed", seed, *chosen).code == 0
        return pd.read_parquet(tmp_path / name / "items.parquet")

    first = export("first", 0)
    assert list(first["family"].unique()) == ["vqav2", "gqa"]
    pd.testing.assert_frame_equal(export("again", 0), first)
    assert export("other", 1)["question"].tolist() != first["question"].tolist()
    assert export("novel", 0, "novel")["question"].tolist() != first["question"].tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--family", "popes"), "no question family 'popes'; nearest are 'pope'"),
        (("--split", "held"), "no split 'held'; there are train, heldout, novel, any"),
        (("--split", "[bold]"), "no split '[bold]'; there are train, heldout, novel, any"),
    ],
)
def test_what_there_is_none_of(refused, tmp_path, options, message):
    assert message in refused(*EXPORT, tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written(refused, in_the_way):
    assert refused(*EXPORT, in_the_way, "--n", 1) == f"cannot write to {in_the_way}: Not a directory"
