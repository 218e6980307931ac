"""What a run of findings leaves in a folder: one run's files, and whatever else was there."""

import json

from vlm_probe.findings import run, write_run


def names(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_the_tables_of_an_earlier_run_go_and_other_files_stay(tmp_path):
    write_run(run(["V6"], []), tmp_path)
    first = names(tmp_path)
    assert any(name.startswith("tables/V6_") for name in first)
    mine = ("tables/V6_mine.parquet", "notes.txt")
    for name in mine:
        (tmp_path / name).write_text("mine")
    write_run(run(["X1"], []), tmp_path)
    tables = {f"tables/{name}" for name in json.loads((tmp_path / "results.json").read_text())["tables"]}
    assert all(name.startswith("tables/X1_") for name in tables)
    assert names(tmp_path) == {"evidence.csv", "results.json", *tables, *mine}
    write_run(run(["V6"], []), tmp_path)
    assert names(tmp_path) == first | set(mine)


def test_results_that_are_of_something_else(tmp_path):
    for text in ("{}", "[1]", "no JSON", json.dumps({"tables": ["../precious.txt", "notes.txt"]})):
        out = tmp_path / "out"
        (out / "tables").mkdir(parents=True, exist_ok=True)
        (out / "precious.txt").write_text("mine")
        (out / "results.json").write_text(text)
        write_run(run(["X1"], []), out)
        assert (out / "precious.txt").read_text() == "mine"
