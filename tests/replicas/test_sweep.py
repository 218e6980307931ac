"""The whole grid: in the right order, resumable, and stopped with a reason when a cell fails."""

import json
import subprocess
import sys

import pandas as pd
import pytest
import torch

from vlm_probe import load
from vlm_probe.errors import VlmProbeError
from vlm_probe.replicas import sweep
from vlm_probe.replicas.encoders import DinoStage
from vlm_probe.replicas.grid import CELLS, VOCABULARY
from vlm_probe.replicas.recipe import runs_of
from vlm_probe.replicas.scores import COLUMNS, collect_scores
from vlm_probe.replicas.shipped import shipped
from vlm_probe.replicas.text import Packer, build_tokenizer
from vlm_probe.replicas.training import run_stage

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
                "seed": cell.seed, "size": cell.size, "encoder": cell.encoder, "vocabulary": cell.vocabulary,
                "steps": {"connector": cell.steps.connector},
            },
            "scores": {"heldout": [ROW]},
        }  # fmt: skip
        code = f"import pathlib; pathlib.Path({str(folder / 'card.json')!r}).write_text({json.dumps(card)!r})"
        if cell.name in failing:
            code = "raise SystemExit('out of luck')"
        log = folder.parent / "train.log"
        with log.open("wb") as out:
            process = subprocess.Popen([sys.executable, "-c", code], stdout=out, stderr=subprocess.STDOUT)
        return sweep._Job(cell, process, log)

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
    kept = tmp_path / "kept.csv"
    other = table.iloc[[0]].assign(seed=1, accuracy=0.9)
    pd.concat([other, table.iloc[[0]].assign(accuracy=0.1)]).to_csv(kept, index=False)
    merged = collect_scores(tmp_path, kept)
    assert merged.query("cell == 'small-clip'")[["seed", "accuracy"]].to_numpy().tolist() == [[0, 0.5], [1, 0.9]]
    assert len(merged) == 12


def test_two_processes_train_a_shared_stage_once(tmp_path):
    """The second waits for the first, and then finds the stage finished."""
    script = """
import sys, time, torch
from pathlib import Path
from torch import nn
from vlm_probe.replicas.training import run_stage

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


def test_new_cells_see_through_the_shipped_encoders(tmp_path):
    assert sweep.adopt_shipped(tmp_path) == shipped()
    cell = CELLS["small-dino-nopre"]
    stage = DinoStage(cell, Packer(build_tokenizer(VOCABULARY)))
    run_stage(stage, runs_of(cell, tmp_path) / "encoders", resume=True, listen=lambda _: pytest.fail("it trained"))
    kept = load("replica/small-dino", dtype="float32").hf.model.vision_tower.state_dict()
    assert all(torch.equal(kept[name], value) for name, value in stage.encoder.state_dict().items())
    # The card of a new cell reads the encoder's log.
    assert (runs_of(cell, tmp_path) / "encoders/encoder-dino.jsonl").read_text().startswith('{"step": 0, "loss"')
