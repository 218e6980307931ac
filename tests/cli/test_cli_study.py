"""`vlm-probe study`: what is trained, in which processes, and what is left; training itself is in tests/training."""

import json
import subprocess
import sys

import pandas as pd
import pytest
from tiny import untyped

from vlm_probe.studies import softmax
from vlm_probe.studies.study import STUDIES
from vlm_probe.training import processes
from vlm_probe.training import softmax as softmax_training
from vlm_probe.training import study as training
from vlm_probe.training.processes import Job
from vlm_probe.training.replica import runs_of

GRID = STUDIES["grid"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("gird",), "no study 'gird'; nearest are 'grid'"),
        (("sofmax",), "no study 'sofmax'; nearest are 'softmax'"),
        (("grid", "--arm", "small-clop"), "study grid has no arm 'small-clop'; nearest are 'small-clip'"),
        (("grid", "--device", "toaster"), "no device 'toaster' here: "),
    ],
)
def test_what_cannot_be_trained(refused, tmp_path, argv, message):
    assert refused("study", *argv, "--runs", tmp_path / "runs").startswith(message)


def finished(cell, runs, accuracy=0.5, study="grid", **more):
    """What a trained arm leaves."""
    folder = runs_of(cell, runs) / cell.name
    folder.mkdir(parents=True)
    row = {"budget": 1.0, "scenes": 64, "split": "heldout", "kind": "all", "n": 7, "accuracy": accuracy}
    made = {"seconds": 3, "device": "cpu", "threads": 1, "processor": "x", "torch": "2", "commit": "a"}
    about = {"study": study, "arm": cell.name, "seed": cell.seed, "scores": [row], "made": made, **more}
    (folder / "scores.json").write_text(json.dumps(about))


@pytest.mark.parametrize("study", STUDIES.values(), ids=lambda study: study.id)
def test_every_arm_of_every_seed_is_begun_and_their_scores_are_collected(command, tmp_path, monkeypatch, study):
    id, arms = study.id, study.arms
    begun = []

    def begin(name, arm, seed, runs, device, log, threads):
        begun.append((arm, seed, device))
        finished(STUDIES[name].arm(arm, seed), runs, study=name)
        return Job(arm, subprocess.Popen([sys.executable, "-c", ""]), tmp_path / "log")

    monkeypatch.setattr(processes, "begin_arm", begin)
    runs = tmp_path / "runs"
    ended = command("study", id, "--seeds", 2, "--first-seed", 3, "--jobs", 3, "--runs", runs)
    assert ended.code == 0, ended.err
    assert begun == [(name, seed, "cpu") for seed in (3, 4) for name in arms]
    table = pd.read_csv(runs / f"{id}.csv")
    assert list(zip(table["arm"], table["seed"], strict=True)) == [(name, seed) for name, seed, _ in begun]
    assert pd.read_csv(runs / f"{id}_runs.csv")["seconds"].tolist() == [3] * 2 * len(arms)
    assert ended.out.strip().endswith(str(runs / f"{id}.csv"))


def test_one_arm_is_trained_in_this_process(command, tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(
        training, "train_arm", lambda study, cell, runs, device: told.append((study.id, cell.name, cell.seed)) or runs
    )
    ended = command("study", "grid", "--arm", "large-dino", "--first-seed", 2, "--runs", tmp_path)
    assert (ended.code, told) == (0, [("grid", "large-dino", 2)])


def test_tables_of_studies_are_shipped_beside_what_is_there(command, tmp_path):
    runs, package = tmp_path / "runs", tmp_path / "package"
    finished(GRID.arm("small-clip", 1), runs)
    finished(GRID.arm("large-dino", 0), runs)
    for _ in range(2):
        ended = command("ship", "--runs", runs, "--out", package)
        assert ended.code == 0, ended.err
        file = package / "studies" / "tables" / "grid.csv"
        table = pd.read_csv(file)
        assert table["arm"].tolist() == ["large-dino", "small-clip"]
        other = runs_of(GRID.arm("small-clip", 1), runs) / "small-clip" / "scores.json"
        other.write_text(other.read_text().replace("0.5", "0.75"))
    assert table["accuracy"].tolist() == [0.5, 0.75]
    assert len(pd.read_csv(package / "studies" / "tables" / "grid_runs.csv")) == 2


def test_an_arm_of_two_studies_is_shipped_with_both_that_asked_for_it(command, tmp_path):
    runs, package = tmp_path / "runs", tmp_path / "package"
    finished(GRID.arm("small-clip", 1), runs, also=["rate"])
    finished(STUDIES["vocabulary"].arm("large-clip-narrow", 1), runs, study="vocabulary")
    ended = command("ship", "--runs", runs, "--out", package)
    assert ended.code == 0, ended.err
    tables = package / "studies" / "tables"
    found = {file.stem: pd.read_csv(file) for file in tables.glob("*.csv") if not file.stem.endswith("_runs")}
    assert {name: table["arm"].tolist() for name, table in found.items()} == {
        "grid": ["small-clip"],
        "rate": ["small-clip"],
        "vocabulary": ["large-clip-narrow"],
    }
    assert found["vocabulary"]["rows"].tolist() == ["narrow"]
    assert found["rate"].filter(["frozen", "rate"]).to_numpy().tolist() == [[False, 1.0]]


def test_arms_that_another_study_s_table_has_are_shipped_with_those_trained_now(command, tmp_path):
    """Machines come and go: what one trained for the grid is what the encoder study would train again."""
    first, second, package = tmp_path / "first", tmp_path / "second", tmp_path / "package"
    finished(GRID.arm("small-clip", 1), first, accuracy=0.25)
    finished(GRID.arm("small-dino", 1), first)
    assert command("ship", "--runs", first, "--out", package).code == 0
    finished(STUDIES["encoder"].arm("small-clip-one", 1), second, study="encoder")
    assert command("ship", "--runs", second, "--out", package).code == 0
    tables = package / "studies" / "tables"
    encoder = pd.read_csv(tables / "encoder.csv")
    assert encoder.filter(["arm", "encoder", "accuracy"]).to_numpy().tolist() == [
        ["small-clip", "clip", 0.25],
        ["small-clip-one", "clip-one", 0.5],
    ]
    assert pd.read_csv(tables / "encoder_runs.csv")["arm"].tolist() == ["small-clip", "small-clip-one"]
    # Its own run comes before a borrowed one.
    finished(STUDIES["encoder"].arm("small-clip", 1), second, study="encoder", accuracy=0.75)
    assert command("ship", "--runs", second, "--out", package).code == 0
    own = pd.read_csv(tables / "encoder.csv").query("arm == 'small-clip'")
    assert own["accuracy"].tolist() == [0.75]
    # It is the grid's as well: what is newer counts, where it came as far.
    assert pd.read_csv(tables / "grid.csv").query("arm == 'small-clip'")["accuracy"].tolist() == [0.25]
    before = {file.name: file.read_text() for file in tables.iterdir()}
    assert command("ship", "--runs", second, "--out", package).code == 0
    assert {file.name: file.read_text() for file in tables.iterdir()} == before


def test_what_the_shipped_tables_have_is_left_out_on_request(command, refused, tmp_path, monkeypatch):
    begun = []

    def begin(name, arm, seed, runs, device, log, threads):
        begun.append((arm, seed))
        finished(STUDIES[name].arm(arm, seed), runs, study=name)
        return Job(arm, subprocess.Popen([sys.executable, "-c", ""]), tmp_path / "log")

    monkeypatch.setattr(processes, "begin_arm", begin)
    said = refused("study", "grid", "--seeds", 5, "--missing", "--runs", tmp_path / "a")
    assert said == "the shipped tables have every such arm of study grid"
    assert refused("study", "grid", "--arm", "small-clip", "--missing", "--runs", tmp_path / "a") == said
    ended = command("study", "grid", "--first-seed", 4, "--seeds", 2, "--missing", "--runs", tmp_path / "b")
    assert ended.code == 0, ended.err
    assert begun == [(name, 5) for name in GRID.arms]
    begun.clear()
    ended = command("study", "encoder", "--first-seed", 4, "--seeds", 1, "--missing", "--runs", tmp_path / "c")
    assert ended.code == 0, ended.err
    assert {"small-clip", "large-clip"}.isdisjoint({name for name, _ in begun})
    assert ("small-clip-one", 4) in begun


def trained(arm, runs, losses):
    """What a trained arm of the study softmax leaves."""
    row = {"scenes": 8, "split": "heldout", "kind": "all", "n": 7, "accuracy": 0.5, "accuracy_all_ids": 0.4}
    row["accuracy_other_images"] = 0.3
    rows = [{**row, "split": split, "loss": losses.get(arm.name, 1.0)} for split in ("dev", "heldout")]
    gradient = {"share": 1.0, "batch": 0, "others_share": 0.25, "cosine": 0.5, "task_loss": 2.0}
    made = {"seconds": 3, "device": "cpu", "threads": 1, "processor": "x", "torch": "2", "commit": "a"}
    arm.folder(runs).mkdir(parents=True)
    about = {"arm": arm.name, "seed": arm.seed, "scores": rows, "gradients": [gradient], "made": [made]}
    (arm.folder(runs) / "scores.json").write_text(json.dumps(about))


def test_real_connectors_are_trained_at_every_rate_then_at_the_best(command, refused, tmp_path, monkeypatch):
    begun, losses = [], {"gemma3-270m-all-x2": 0.5, "smollm2-135m-task-x0.5": 0.2}

    def begin(name, arm, seed, runs, device, log, threads):
        begun.append((arm, seed))
        trained(softmax.find_arm(arm, seed), runs, losses)
        return Job(arm, subprocess.Popen([sys.executable, "-c", ""]), tmp_path / "log")

    monkeypatch.setattr(processes, "begin_arm", begin)
    monkeypatch.setattr(softmax, "_read", lambda name: pd.DataFrame(columns=[*softmax._FILES[name][1]]))
    runs, package = tmp_path / "runs", tmp_path / "package"
    assert refused("study", "softmax", "--first-seed", 1, "--runs", runs) == (
        "which rate is best is told by seed 0: vlm-probe study softmax --seeds 1 comes first"
    )
    ended = command("study", "softmax", "--seeds", 2, "--jobs", 4, "--runs", runs)
    assert ended.code == 0, ended.err
    assert begun[:21] == [(name, 0) for name in softmax.ARMS]
    best = {name for name, seed in begun[21:] if seed == 1}
    assert len(begun) == 28
    assert {"gemma3-270m-all-x2", "smollm2-135m-task-x0.5", "gemma3-270m-hard"} <= best
    table = untyped(pd.read_csv(runs / "softmax.csv"))
    assert table.query("split == 'dev'")["loss"].min() == 0.2
    assert len(pd.read_csv(runs / "softmax_gradients.csv")) == len(pd.read_csv(runs / "softmax_runs.csv")) == 28
    monkeypatch.undo()
    for _ in range(2):
        assert command("ship", "--runs", runs, "--out", package).code == 0
        assert pd.read_csv(package / "studies" / "tables" / "softmax.csv").equals(table)


def test_one_real_connector_is_trained_in_this_process(command, refused, tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(softmax_training, "train_arm", lambda arm, runs, device: told.append(arm) or runs)
    ended = command("study", "softmax", "--arm", "gemma3-270m-hard-x2", "--first-seed", 3, "--runs", tmp_path)
    assert (ended.code, told) == (0, [softmax.SoftmaxArm("gemma3-270m", "hard", 2.0, 3)])
    assert refused("study", "softmax", "--arm", "gemma3-270m-hart", "--runs", tmp_path).startswith(
        "study softmax has no arm 'gemma3-270m-hart'; nearest are 'gemma3-270m-hard'"
    )
