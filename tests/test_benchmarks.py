"""Benchmarks run as their users run them, refuse ways that do not agree, and are quoted as they were recorded."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import measure  # noqa: E402
import suite  # noqa: E402
import tables  # noqa: E402
from measure import Task, Way  # noqa: E402


def run(script: str, *arguments: str, out: Path) -> dict:
    """A section of the record, by a script on a miniature."""
    command = [sys.executable, str(ROOT / "benchmarks" / f"{script}.py"), *arguments, "--out", str(out)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(out.with_suffix(".json").read_text())[script]


def by_task(rows: list[dict]) -> dict:
    found: dict[str, dict] = {}
    for row in rows:
        found.setdefault(row["task"], {})[row["library"], row["against"]] = row
    return found


def test_five_libraries_do_the_same_tasks_and_agree(tmp_path):
    found = run("hooks", "--small", "--repeats", "2", out=tmp_path / "r")
    rows = [row for row in found["rows"] if "difference" in row]
    assert {row["library"] for row in rows} >= set(tables.PEERS)
    # On models this small every way gives plain transformers' numbers to a few units in the last place.
    assert all(row["difference"] < 2e-5 for row in rows)
    lines = {row["task"]: {} for row in rows}
    for row in rows:
        lines[row["task"]][row["library"]] = row["lines"]
    assert lines["one position patched from another run"]["vlm_probe"] == 2
    assert lines["nothing hooked"] == {"transformers": 1, "vlm_probe": 1, "TransformerLens bridge": 1, "nnsight": 3}
    assert found["one_pattern"]["added_peak_in_patterns"] > 0
    assert found["command"].startswith("python benchmarks/hooks.py --small")


def test_relevancy_is_that_of_whole_matrices_and_recomputing_keeps_a_stream_a_layer(tmp_path):
    found = run("relevancy", "--layers", "6", "--repeats", "2", out=tmp_path / "r")
    rows = {row["library"]: row for row in found["rows"]}
    assert rows["vlm_probe"]["difference"] < 1e-6
    assert rows["vlm_probe"]["memory"] < 0.5 > rows["vlm_probe, recompute=True"]["memory"]
    assert found["recompute"]["mib_a_layer"] < 1.05 * found["recompute"]["residual_stream_mib"]


def test_the_real_sizes_are_measured_with_one_command(tmp_path):
    given = ["--shapes", "tiny", "--device", "cpu", "--repeats", "2", "--computed", "tiny", "--batches", "1", "3"]
    found = run("real_size", *given, out=tmp_path / "r")
    tasks = found["tiny"]["tasks"]
    assert {"forward", "relevancy through the encoder", "capture of 4 items to disk"} < set(tasks)
    assert found["tiny, batch 3"]["batch"] == 3
    # Two layers are what this shape has: what is computed for it is what was measured with two.
    assert found["tiny, computed"]["tasks"]["forward"]["teraflop"] == pytest.approx(tasks["forward"]["teraflop"])
    assert found["matrix_teraflop_a_second"] > 0 < found["copied_gib_a_second"]


def test_sharing_an_image_gives_the_same_answers(tmp_path):
    found = run("shared_prefix", "--repeats", "2", "--layers", "2", out=tmp_path / "r")
    assert all(row["difference"] < 1e-5 for row in found["rows"])


def test_the_lens_is_measured_against_products_and_dense_logits(tmp_path):
    sizes = ["--layers", "3", "--positions", "40", "--vocabulary", "5000", "--width", "64", "--repeats", "2"]
    found = run("lens", *sizes, "--fits", "2000", out=tmp_path / "r")
    rows = by_task(found["rows"])
    assert set(rows) == {"logit lens of all layers and positions", "logit lens where dense logits fit"}
    assert found["largest_difference"]["top_log_probability"] < 1e-4


def test_ways_that_do_not_agree_are_not_timed():
    ways = {"a": Way(lambda: torch.ones(3)), "b": Way(lambda: torch.tensor([1.0, 1.0, 1.1]))}
    with pytest.raises(SystemExit, match="a task: b is 0.1 from a, more than 0.001"):
        measure.measure(Task("a task", ways), 2)
    ways["b"] = Way(lambda: torch.ones(2))
    with pytest.raises(SystemExit, match="b is inf from a"):
        measure.measure(Task("a task", ways), 2)
    ways["b"] = Way(lambda: torch.full((3,), float("nan")))
    with pytest.raises(SystemExit, match="b is nan from a"):
        measure.measure(Task("a task", ways), 2)


def three_lines(x):
    """A docstring is no code."""
    y = x + 1

    # Neither is a comment.
    z = y * 2
    return z


def test_a_row_says_what_was_measured():
    clock = iter(range(1000))
    ways = {"a": Way(lambda: torch.ones(1024, 256), three_lines), "vlm_probe": Way(lambda: torch.ones(1024, 256) * 1)}
    task = Task("a task", ways, {"time": 1.01})
    first, second = measure.measure(task, 3, clock=lambda: float(next(clock)))
    assert (first["lines"], second["lines"]) == (3, None)
    assert second["time"] == {"median": 1.0, "q25": 1.0, "q75": 1.0}
    assert (first["peak_mib"], second["peak_mib"], second["memory"]) == (1.0, 2.0, 2.0)
    assert (first["goals"], second["goals"]) == ({}, {"time": 1.01})


def test_readme_quotes_the_record():
    assert tables.written_readme(ROOT) == (ROOT / "README.md").read_text()


def test_every_row_of_every_record_is_on_the_site():
    made = tables.benchmark_tables(ROOT)
    for machine, sections in tables.records(ROOT).items():
        assert f"## {machine}" in made
        for name, section in sections.items():
            assert f"### {tables.plain(name)}" in made
            for row in section["rows"]:
                if row.get("time"):
                    assert f"| {row['time']['median']:.3f}" in made
            assert section["command"] in made


def test_a_goal_that_is_not_reached_says_so():
    row = {"time": {"median": 1.2, "q25": 1.0, "q75": 1.3}, "memory": 0.2, "goals": {"time": 1.1, "memory": 0.5}}
    said = tables.shown_row(row, "goal")
    assert said == "time at most 1.1: not reached; memory at most 0.5: kept"


def test_the_suite_has_every_script():
    shared = {"measure", "peers", "tables", "suite"}
    assert set(suite.SUITE) == {path.stem for path in (ROOT / "benchmarks").glob("*.py")} - shared
