"""A disk that is full: one line that names the file, exit code 2, nothing half-written; the same command goes on."""

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from vlm_probe.errors import VlmProbeError
from vlm_probe.files import naming, replacing, writing
from vlm_probe.findings import engine

FULL = "File too large; make room and run it again"


@contextmanager
def at_most(size: int) -> Iterator[None]:
    """No file can grow beyond so many bytes: what a full disk is to a process, told by another number."""
    before, bytecode = resource.getrlimit(resource.RLIMIT_FSIZE), sys.dont_write_bytecode
    sys.dont_write_bytecode = True  # a module's would be cut off, and broken for whoever imports it next
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        sys.dont_write_bytecode = bytecode


@pytest.fixture
def nth_replacement_fails(monkeypatch) -> Callable[[int], None]:
    """The so-manieth file to take its place finds the disk full."""
    replace = os.replace

    def arrange(number: int) -> None:
        left = [number]

        def fail(source, target):
            left[0] -= 1
            if left[0] == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            replace(source, target)

        monkeypatch.setattr("vlm_probe.files.os.replace", fail)

    return arrange


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def unfinished(folder: Path) -> list[str]:
    return [str(p) for p in folder.rglob("*") if ".partial" in p.name]


def writers() -> dict[str, Callable[[Path], object]]:
    many = pd.DataFrame({"a": torch.rand(10_000).numpy()})
    return {
        "safetensors": lambda path: save_file({"a": torch.zeros(10_000)}, path),
        "parquet": lambda path: many.to_parquet(path),
        "csv": lambda path: many.to_csv(path),
        "text": lambda path: path.write_text("x" * 10_000),
    }


@pytest.mark.parametrize("library", writers())
def test_whatever_library_writes_the_file_is_named_and_what_was_there_stays(tmp_path, library):
    path = tmp_path / "file"
    path.write_text("before")
    with at_most(1000), pytest.raises(OSError, match="File too large") as caught, replacing(path) as partial:
        writers()[library](partial)
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(path))
    assert files(tmp_path) == {"file": b"before"}
    gone = tmp_path / "gone" / "file"
    with pytest.raises(VlmProbeError) as failed, writing(gone), replacing(gone) as partial:
        writers()[library](partial)
    assert str(failed.value) == f"cannot write {gone}: No such file or directory"


def test_what_is_no_trouble_of_the_disk_is_left_as_it_is(tmp_path):
    for error in (ValueError("x"), OSError("undecodable"), VlmProbeError("weights (os error 28)")):
        with pytest.raises(type(error)) as caught, naming(tmp_path / "file"):
            raise error
        assert caught.value is error


def test_scenes_export(command, refused, tmp_path):
    out = tmp_path / "out"
    export = ("scenes", "export", out, "--n", 2, "--size", 32)
    with at_most(1000):
        assert refused(*export) == f"cannot write {out}/items.parquet: {FULL}"
    assert list(out.iterdir()) == []
    assert command(*export).code == 0
    before = files(out)
    with at_most(4000):
        assert refused(*export, "--seed", 1) == f"cannot write {out}/items.parquet: {FULL}"
    assert files(out) == before


def test_evaluate_keeps_every_part_and_goes_on(command, refused, tmp_path, monkeypatch, nth_replacement_fails):
    from vlm_probe.running import evaluation

    monkeypatch.setattr(evaluation, "IMAGES_AT_ONCE", 4)
    asked = ("evaluate", "--n", 2, "--out")
    out, whole = tmp_path / "out", tmp_path / "whole"
    assert command(*asked, whole).code == 0
    with at_most(3000):
        said = refused(*asked, out)
    assert said.startswith(f"cannot write {out}/parts/replica-default-")
    assert said.endswith(f"/000000.parquet: {FULL}")
    nth_replacement_fails(2)  # of the parts, after the first
    assert refused(*asked, out).endswith("/000001.parquet: No space left on device; make room and run it again")
    monkeypatch.undo()
    monkeypatch.setattr(evaluation, "IMAGES_AT_ONCE", 4)
    assert [p.name for p in sorted(out.rglob("*.parquet"))] == ["000000.parquet"]
    first = next(out.rglob("000000.parquet")).stat().st_mtime_ns
    with at_most(10):  # no table
        monkeypatch.setattr(
            evaluation, "_answer_chunk", lambda *a: pd.DataFrame(columns=list(evaluation.ANSWER_COLUMNS))
        )
        assert refused(*asked, out).endswith(FULL)
    monkeypatch.undo()
    monkeypatch.setattr(evaluation, "IMAGES_AT_ONCE", 4)
    assert command(*asked, out).code == 0
    assert next(out.rglob("000000.parquet")).stat().st_mtime_ns == first
    assert {name: data for name, data in files(out).items() if "parts" not in name} == {
        name: data for name, data in files(whole).items() if "parts" not in name
    }
    assert unfinished(tmp_path) == []


def test_tables_of_an_evaluation_are_replaced_together(tmp_path, nth_replacement_fails):
    from vlm_probe.items import Item
    from vlm_probe.items.scores import answer_row
    from vlm_probe.running.evaluation import write_evaluation

    def answers(said: str) -> pd.DataFrame:
        item = Item("x", "gqa", "color", "x", "1.png", "What color?", "red")
        return pd.DataFrame([answer_row("m", item, said)])

    write_evaluation([answers("red")], tmp_path, seed=0, skipped=["x"])
    before = files(tmp_path)
    assert set(before) == {"answers.parquet", "metrics.csv", "kinds.csv", "skipped.txt"}
    with at_most(1000), pytest.raises(VlmProbeError) as caught:
        write_evaluation([answers("blue")], tmp_path, seed=0, skipped=[])
    assert str(caught.value) == f"cannot write {tmp_path}/answers.parquet: {FULL}"
    with at_most(20_000), pytest.raises(VlmProbeError) as caught:
        write_evaluation([answers("blue")], tmp_path, seed=0, skipped=["y" * 30_000])
    assert str(caught.value) == f"cannot write {tmp_path}/skipped.txt: {FULL}"
    assert files(tmp_path) == before


def test_findings_go_on_from_the_parts_that_are_kept(command, refused, tmp_path):
    out, whole = tmp_path / "out", tmp_path / "whole"
    asked = ("findings", "S1", "--items", 3, "--no-untrained", "--out")
    with at_most(5000):
        assert refused(*asked, out).endswith(f".parquet: {FULL}")
    assert unfinished(out) == []
    assert command(*asked, out).code == command(*asked, whole).code == 0
    assert files(out) == files(whole)


def test_findings_are_told_where_they_cannot_be_written(command, tmp_path):
    out = tmp_path / "out"
    with at_most(500):
        ended = command("findings", "X1", "--out", out)
    assert ended.code == 2
    assert ended.out.startswith("\nX1. ")
    assert ended.err.strip().startswith(f"error: cannot write {out}/tables/X1_")
    assert ended.err.endswith(f".parquet: {FULL}\n")
    assert command("findings", "X1", "--out", out).code == 0


def test_a_report_keeps_what_was_measured(command, refused, tmp_path, monkeypatch):
    out = tmp_path / "report"
    asked = ("report", "--items", 12, "--finding", "V1", "--out", out)
    with at_most(30_000):  # what is measured is smaller, figures are larger
        said = refused(*asked)
    assert said.startswith("cannot write ")
    assert said.endswith(FULL)
    assert [p.name for p in tmp_path.iterdir()] == [".report.parts"], "no half report"
    part = engine._part

    def kept(*given):
        assert given[-1].is_dir(), "it is measured again"
        return part(*given)

    monkeypatch.setattr(engine, "_part", kept)
    assert command(*asked).code == 0
    assert [p.name for p in tmp_path.iterdir()] == ["report"]


def test_inspect(command, refused, tmp_path):
    from vlm_probe.scenes import sample_scene, scene_image

    scene_image(sample_scene(3), 64).save(tmp_path / "scene.png")
    asked = ("inspect", tmp_path / "scene.png", "What color is the circle?", "--out", tmp_path / "out")
    with at_most(1000):
        assert refused(*asked) == f"cannot write {tmp_path}/out/inspect.html: {FULL}"
    assert list((tmp_path / "out").iterdir()) == []
    assert command(*asked).code == 0


def test_a_folder_that_vanishes_midway(refused, tmp_path, monkeypatch):
    import shutil

    from vlm_probe.running import evaluation

    out = tmp_path / "out"
    answer = evaluation._answer_chunk

    def vanishing(*given):
        shutil.rmtree(out)
        return answer(*given)

    monkeypatch.setattr(evaluation, "_answer_chunk", vanishing)
    said = refused("evaluate", "--n", 1, "--out", out)
    assert said.startswith(f"cannot read or write {out}/parts/")
    assert said.endswith("/000000.parquet: No such file or directory")


def test_training_says_how_it_goes_on(refused, tmp_path, monkeypatch):
    from vlm_probe.training import replica

    def full(*given, **options):
        with replacing(tmp_path / "encoder.pt"):
            raise OSError(errno.ENOSPC, "")

    monkeypatch.setattr(replica, "train", full)
    asked = ("train", "replica/small-clip", "--runs", tmp_path)
    trouble = f"cannot write {tmp_path}/encoder.pt: No space left on device; make room and run it again"
    assert refused(*asked) == f"{trouble}; with --resume it goes on from what is done"
    assert refused(*asked, "--resume") == trouble


def test_a_model_is_finished_once_all_of_it_is_written(refused, tmp_path, monkeypatch):
    from vlm_probe.training import card, replica

    def export(trained, folder):
        with at_most(100):
            save_file({"a": torch.zeros(1000)}, folder / "model.safetensors")

    monkeypatch.setattr(
        replica, "train", lambda cell, runs, **options: (runs / "seed-0" / cell.name).mkdir(parents=True)
    )
    monkeypatch.setattr(replica, "export", export)
    out = tmp_path / "out"
    out.mkdir()
    (out / "card.json").write_text("{}")
    asked = ("train", "replica/small-clip", "--runs", tmp_path / "runs", "--out", out, "--resume")
    assert refused(*asked) == f"cannot write {out}: {FULL}"
    assert not (out / "card.json").exists()
    (tmp_path / "runs" / "seed-0" / "small-clip" / "model.lock").unlink()
    (tmp_path / "runs" / "seed-0" / "small-clip").rmdir()
    monkeypatch.setattr(replica, "export", lambda trained, folder: None)
    monkeypatch.setattr(card, "score", lambda folder, items, bar: ())

    def write_card(cell, runs, folder):
        (folder / "card.json").write_text("{")
        raise OSError(errno.ENOSPC, "")

    monkeypatch.setattr(card, "write_card", write_card)
    assert refused(*asked) == f"cannot write {out}: No space left on device; make room and run it again"
    assert not (out / "card.json").exists(), "half a card would say that the model is finished"


def test_a_study_whose_tables_cannot_be_written(refused, tmp_path, monkeypatch):
    from vlm_probe.studies import result_tables
    from vlm_probe.training import processes

    monkeypatch.setattr(processes, "run_all", lambda *a, **k: None)
    table = pd.DataFrame({"arm": ["x"] * 200, "kind": "all", "budget": 1})
    monkeypatch.setattr(result_tables, "collect", lambda study, runs: (table, table))
    with at_most(100):
        assert refused("study", "grid", "--seeds", 1, "--runs", tmp_path) == f"cannot write {tmp_path}/grid.csv: {FULL}"
    assert unfinished(tmp_path) == []


def test_an_analysis(tmp_path):
    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    root = Path(__file__).parents[1]
    command = [sys.executable, "analyses/published_results.py", "--out", str(tmp_path)]
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}  # see `at_most`
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root, preexec_fn=limited, env=env)
    assert done.returncode == 2
    line = done.stderr.splitlines()[-1]
    assert line.startswith("error: cannot write")
    assert line.endswith(FULL)
