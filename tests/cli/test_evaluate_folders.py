"""What becomes of an evaluation's folder when something else is evaluated there."""

import pandas as pd

ASKED = ("evaluate", "--n", 1, "--out")


def test_of_other_models_the_tables_are_replaced_and_the_answers_kept(command, tmp_path):
    out = tmp_path / "out"
    both = ("--model", "replica/small-clip", "--model", "replica/small-dino")
    assert command(*ASKED, out, *both).code == 0
    (out / "notes.txt").write_text("mine")
    parts = {p: p.stat().st_mtime_ns for p in (out / "parts").rglob("*.parquet")}
    assert command(*ASKED, out, "--model", "replica/small-dino").code == 0
    tables = [
        pd.read_csv(out / "metrics.csv"),
        pd.read_csv(out / "kinds.csv"),
        pd.read_parquet(out / "answers.parquet"),
    ]
    for table in tables:
        assert set(table["model"]) == {"replica/small-dino"}
    assert {p.name for p in out.iterdir()} == {"answers.parquet", "metrics.csv", "kinds.csv", "notes.txt", "parts"}
    # What was answered is not asked again.
    assert {p: p.stat().st_mtime_ns for p in (out / "parts").rglob("*.parquet")} == parts


def test_other_items_of_the_same_model_are_refused(command, refused, tmp_path):
    out = tmp_path / "out"
    assert command(*ASKED, out).code == 0
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    (parts,) = (out / "parts").iterdir()
    assert refused(*ASKED, out, "--seed", 1) == (
        f"{parts} holds answers of a run with another items; give another --out, or delete it"
    )
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before
