"""The whole grid: in the right order, resumable, and stopped with a reason when a cell fails."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from vlm_probe import load
from vlm_probe.errors import VlmProbeError
from vlm_probe.studies.grid import COLUMNS, collect_scores
from vlm_probe.training import sweep
from vlm_probe.training.encoders import DinoStage
from vlm_probe.training.loop import run_stage
from vlm_probe.training.packing import Packer, build_tokenizer
from vlm_probe.training.processes import Job
from vlm_probe.training.replica import runs_of
from vlm_probe.zoo.cells import CELLS, VOCABULARY
from vlm_probe.zoo.replicas import shipped

ROW = {"kind": "all", "n": 7, "accuracy": 0.5, "low": 0.3, "high": 0.7}


def test_the_first_seed_comes_whole_then_what_carries_the_comparisons():
    order = sweep.order_of_grid(3)
    assert len(order) == len({(c.name, c.seed) for c in order}) == 33
    assert [c.name for c in order[:11]] == list(CELLS)
    assert all(c.seed == 0 for c in order[:11])
    carrying = {"small-clip", "large-clip", "small-clip-v320", "small-clip-v4096", "small-clip-v20480"}
    assert {c.name for c in order[11:21]} == carrying
    assert sweep.order_of_grid(1) == list(CELLS.values())


@pytest.fixture
def stub(monkeypatch):
    """In place of training, a process that writes a card, or fails for small-dino if told so."""
    started: list[str] = []

    def start(cell, runs, items, device, threads, failing=()):
        started.append(cell.name)
        folder = sweep.model_folder(cell, runs)
        folder.mkdir(parents=True, exist_ok=True)
        card = {
            "cell": {
                "seed": cell.seed,
                "size": cell.size,
                "encoder": cell.encoder,
                "vocabulary": cell.vocabulary,
                "steps": {"connector": cell.steps.connector},
            },
            "scores": {"heldout": [ROW]},
        }
        code = f"import pathlib; pathlib.Path({str(folder / 'card.json')!r}).write_text({json.dumps(card)!r})"
        if cell.name in failing:
            code = "raise SystemExit('out of luck')"
        log = folder.parent / "train.log"
        with log.open("wb") as out:
            process = subprocess.Popen([sys.executable, "-c", code], stdout=out, stderr=subprocess.STDOUT)
        return Job(f"{cell.name} (seed {cell.seed})", process, log)

    monkeypatch.setattr(sweep, "_start", start)
    return started, start


def test_a_stopped_grid_names_the_cell_and_goes_on_where_it_stopped(tmp_path, monkeypatch, stub):
    started, start = stub
    monkeypatch.setattr(sweep, "_start", lambda *a: start(*a, failing=("small-dino",)))
    with pytest.raises(VlmProbeError, match=r"^training small-dino \(seed 0\) failed; .*train.log: out of luck$"):
        sweep.run_grid(tmp_path, sweep.order_of_grid(1), jobs=1)
    assert started == ["small-clip", "small-dino"]
    monkeypatch.setattr(sweep, "_start", start)
    done: list[str] = []
    sweep.run_grid(tmp_path, sweep.order_of_grid(1), jobs=3, finished=lambda cell: done.append(cell.name))
    assert started.count("small-clip") == 1, "what is finished is not trained again"
    assert sorted(done) == sorted(CELLS)

    table = collect_scores(tmp_path)
    assert tuple(table.columns) == COLUMNS
    assert table["cell"].tolist() == list(CELLS)
    assert not table.set_index("cell").loc["large-dino-nopre", "connector_pretrained"]
    # Scores of cells trained elsewhere stay, those of the same cell and seed are replaced.
    other = table.iloc[[0]].assign(seed=1, accuracy=0.9)
    merged = collect_scores(tmp_path, pd.concat([other, table.iloc[[0]].assign(accuracy=0.1)]))
    assert merged.query("cell == 'small-clip'")[["seed", "accuracy"]].to_numpy().tolist() == [[0, 0.5], [1, 0.9]]
    assert len(merged) == 12
    # A connector between real models, trained in the same folder, is no cell.
    fusion = tmp_path / "seed-0" / "llava-x" / "model"
    fusion.mkdir(parents=True)
    (fusion / "card.json").write_text(json.dumps({"fusion": {}, "scores": {}}))
    assert len(collect_scores(tmp_path)) == len(table)


def test_a_terminated_grid_ends_what_it_started(tmp_path):
    script = """
import subprocess, sys
from pathlib import Path
from vlm_probe.training import sweep

def start(cell, *rest):
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    print(process.pid, flush=True)
    return sweep.Job(cell.name, process, Path(sys.argv[1]) / "log")

sweep._start = start
sweep.run_grid(Path(sys.argv[1]), sweep.order_of_grid(1), jobs=1)
"""
    parent = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    os.kill(child, 0)  # it is there
    parent.terminate()
    assert parent.wait(60) == 143
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


class ToyStage:
    name, learning_rate = "toy", 0.1

    def __init__(self, seed, steps=3):
        torch.manual_seed(seed)
        self.steps, self.module = steps, torch.nn.Linear(3, 2)

    def parameters(self):
        return self.module.parameters()

    def loss(self, step):
        return self.module(torch.ones(3)).sum(), {}

    def after_step(self, step):
        pass


def test_a_fresh_start_that_is_killed_does_not_resume_to_an_earlier_run(tmp_path):
    run_stage(ToyStage(0), tmp_path, resume=False)

    def kill(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_stage(ToyStage(1), tmp_path, resume=False, listen=kill)
    steps = []
    run_stage(ToyStage(1), tmp_path, resume=True, listen=steps.append)
    assert len(steps) == 3


def test_two_processes_train_a_shared_stage_once(tmp_path):
    """The second waits for the first, and then finds the stage finished."""
    script = """
import sys, time, torch
from pathlib import Path
from torch import nn
from vlm_probe.training.loop import run_stage

class Stage:
    name, steps, learning_rate = "shared", 4, 0.1
    def __init__(self): torch.manual_seed(0); self.module = nn.Linear(3, 2)
    def parameters(self): return self.module.parameters()
    def loss(self, step): print("step", step); time.sleep(0.2); return self.module(torch.ones(3)).sum(), {}
    def after_step(self, step): pass

run_stage(Stage(), Path(sys.argv[1]), resume=True)
"""
    both = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE) for _ in range(2)]
    printed = [process.communicate()[0].decode().split("\n") for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(line for lines in printed for line in lines if line) == [f"step {i}" for i in range(4)]


def fake_model(folder, encoder: float):
    """A finished cell as far as shipping goes."""
    folder.mkdir(parents=True)
    tensors = {"model.vision_tower.w": torch.full((3,), encoder), "lm": torch.ones(2)}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text("{}")
    cell = CELLS[folder.parent.name]
    about = {
        "seed": int(folder.parents[1].name.removeprefix("seed-")),
        "size": cell.size,
        "encoder": cell.encoder,
        "vocabulary": cell.vocabulary,
    }
    card = {"cell": {**about, "steps": {"connector": 1}}, "scores": {"heldout": [ROW]}}
    (folder / "card.json").write_text(json.dumps(card))


def test_cells_that_share_an_encoder_are_shipped_only_with_one_encoder(tmp_path):
    package, first, second = tmp_path / "package", tmp_path / "first", tmp_path / "second"
    weights = package / "zoo" / "weights" / "replicas"
    for name in ("small-clip", "small-clip-nopre"):
        fake_model(first / "seed-0" / name / "model", 1.0)
    assert sweep.ship(first, package) == ["small-clip", "small-clip-nopre"]
    assert len(list(weights.glob("encoder-*.safetensors"))) == 1
    fake_model(second / "seed-0" / "large-clip" / "model", 2.0)
    with pytest.raises(VlmProbeError, match=r"^.*large-clip/model/model.safetensors has another encoder than"):
        sweep.ship(second, package)
    assert load_file(weights / "encoder-clip.safetensors")["model.vision_tower.w"].tolist() == [1, 1, 1]
    assert not (weights / "large-clip").exists()
    # All cells of the encoder at once may bring another.
    for name in ("small-clip", "small-clip-nopre"):
        fake_model(second / "seed-0" / name / "model", 2.0)
    assert len(sweep.ship(second, package)) == 3
    assert pd.read_csv(package / "studies" / "grid_scores.csv")["cell"].tolist() == [
        "small-clip",
        "small-clip-nopre",
        "large-clip",
    ]


def test_scores_of_further_seeds_are_shipped_without_their_weights(tmp_path):
    package, runs = tmp_path / "package", tmp_path / "runs"
    weights = package / "zoo" / "weights" / "replicas"
    weights.mkdir(parents=True)
    with pytest.raises(VlmProbeError, match="runs has no finished cell$"):
        sweep.ship(runs, package)
    fake_model(runs / "seed-2" / "small-clip" / "model", 1.0)
    assert sweep.ship(runs, package) == []
    assert pd.read_csv(package / "studies" / "grid_scores.csv")[["cell", "seed"]].to_numpy().tolist() == [
        ["small-clip", 2]
    ]
    assert not list(weights.iterdir())


def test_new_cells_see_through_the_shipped_encoders(tmp_path):
    assert sweep.adopt_shipped(tmp_path) == shipped()
    cell = CELLS["small-dino-nopre"]
    stage = DinoStage(cell, Packer(build_tokenizer(VOCABULARY)))
    run_stage(stage, runs_of(cell, tmp_path) / "encoders", resume=True, listen=lambda _: pytest.fail("it trained"))
    kept = load("replica/small-dino", dtype="float32").hf.model.vision_tower.state_dict()
    assert all(torch.equal(kept[name], value) for name, value in stage.encoder.state_dict().items())
    # Finished as they are: adopted once more, nothing happens. Another encoder would spoil every further cell.
    assert sweep.adopt_shipped(tmp_path) == shipped()
    other = DinoStage(replace(cell, seed=1), Packer(build_tokenizer(VOCABULARY))).module.state_dict()
    file = runs_of(cell, tmp_path) / "encoders/encoder-dino.pt"
    torch.save({"module": other, "step": 1000, "seconds": 1.0}, file)
    with pytest.raises(VlmProbeError, match=r"encoder-dino.pt is not the encoder that the package ships: .* give anot"):
        sweep.adopt_shipped(tmp_path)
    file.write_bytes(b"junk")
    with pytest.raises(VlmProbeError, match="is not the encoder that the package ships"):
        sweep.adopt_shipped(tmp_path)
    # The card of a new cell reads the encoder's log.
    assert (runs_of(cell, tmp_path) / "encoders/encoder-dino.jsonl").read_text().startswith('{"step": 0, "loss"')


def test_a_second_encoder_is_shipped_when_it_is_finished(tmp_path):
    package, runs = tmp_path / "package", tmp_path / "runs"
    stage = sweep.ENCODERS["clip"](replace(CELLS["small-clip"], seed=1), sweep.Packer(sweep.build_tokenizer(704)))
    file = runs / "seed-1" / "encoders" / f"{stage.name}.pt"
    file.parent.mkdir(parents=True)
    torch.save({"module": stage.module.state_dict(), "step": stage.steps - 1}, file)
    with pytest.raises(VlmProbeError, match="runs has no finished cell$"):
        sweep.ship(runs, package)
    torch.save({"module": stage.module.state_dict(), "step": stage.steps}, file)
    assert sweep.ship(runs, package) == ["encoder-clip-seed1"]
    there = load_file(package / "zoo" / "weights" / "replicas" / "encoder-clip-seed1.safetensors")
    first = stage.encoder.state_dict()
    assert there.keys() == {f"vision_tower.{name}" for name in first}
    assert all(torch.equal(there[f"vision_tower.{name}"], value.half()) for name, value in first.items())
