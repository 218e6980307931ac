"""The whole grid, unattended: every cell from every seed, several at a time, resumable.

Each cell is trained by a process of its own (`vlm-probe train <cell> --resume`), which leaves its
model, its card and its log in `<runs>/seed-<seed>/<cell>/`. What is finished is not done again.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import LlavaForConditionalGeneration

from vlm_probe.errors import VlmProbeError
from vlm_probe.replicas.encoders import ENCODERS
from vlm_probe.replicas.grid import CELLS, VOCABULARY, Cell
from vlm_probe.replicas.recipe import runs_of, share_encoder
from vlm_probe.replicas.scores import collect_scores
from vlm_probe.replicas.shipped import folder_of, shipped
from vlm_probe.replicas.text import Packer, build_tokenizer


def order_of_grid(seeds: int) -> list[Cell]:
    """All cells from all seeds: the first seed whole, then the cells of the size and vocabulary comparisons."""
    first = list(CELLS.values())
    carrying = [c for c in first if c.encoder == "clip" and c.steps.connector]
    rest = [c for c in first if c not in carrying]
    further = [replace(cell, seed=seed) for part in (carrying, rest) for seed in range(1, seeds) for cell in part]
    return first + further


def adopt_shipped(runs: Path) -> list[str]:
    """Put the encoders that the package ships into a runs folder, as finished stages of seed 0.

    New cells then see through the very encoder of the shipped ones, rounded to half precision as it
    is there. A stage that the folder already has stays. Returns the names of the shipped cells,
    which need no training.
    """
    for cell in (CELLS[name] for name in shipped()):
        stage = ENCODERS[cell.encoder](cell, Packer(build_tokenizer(VOCABULARY)))
        file = runs_of(cell, runs) / "encoders" / stage.name
        if file.with_suffix(".pt").exists():
            continue
        file.parent.mkdir(parents=True, exist_ok=True)
        model = LlavaForConditionalGeneration.from_pretrained(folder_of(cell.name), dtype=torch.float32)
        stage.encoder.load_state_dict(model.model.vision_tower.state_dict())
        about = json.loads((folder_of(cell.name) / "card.json").read_text())["stages"]["encoder"]
        log = (folder_of(cell.name) / "training_log.jsonl").read_text().splitlines()
        lines = [line for line in map(json.loads, log) if line.pop("stage") == "encoder"]
        file.with_suffix(".jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        state = {"module": stage.module.state_dict(), "step": about["steps"], "seconds": about["seconds"]}
        torch.save(state, file.with_suffix(".pt"))
    return shipped()


@dataclass
class _Job:
    cell: Cell
    process: subprocess.Popen[bytes]
    log: Path


def model_folder(cell: Cell, runs: Path) -> Path:
    """Where a cell's finished model and card go."""
    return runs_of(cell, runs) / cell.name / "model"


def run_grid(
    runs: Path,
    cells: Sequence[Cell],
    *,
    jobs: int = 1,
    items: int = 1200,
    device: str = "cpu",
    finished: Callable[[Cell], None] | None = None,
) -> None:
    """Train cells, `jobs` at a time, each with its share of the processor's cores.

    A killed run goes on where it stopped. Stages that cells share are trained by whichever comes
    first; others wait for it.

    Raises VlmProbeError where a cell fails: it names the cell and its log, and stops the others.
    """
    waiting = [cell for cell in cells if not (model_folder(cell, runs) / "card.json").exists()]
    for cell in cells:
        if cell not in waiting and finished is not None:
            finished(cell)
    threads = str(max(1, (os.cpu_count() or 1) // jobs))
    running: list[_Job] = []
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                running.append(_start(waiting.pop(0), runs, items, device, threads))
            time.sleep(0.5)
            for job in [job for job in running if job.process.poll() is not None]:
                running.remove(job)
                if job.process.returncode != 0:
                    last = job.log.read_text(errors="replace").strip().splitlines()[-1:] or ["it wrote nothing"]
                    raise VlmProbeError(f"training {job.cell.name} (seed {job.cell.seed}) failed; {job.log}: {last[0]}")
                if finished is not None:
                    finished(job.cell)
    finally:
        for job in running:
            job.process.terminate()


def _start(cell: Cell, runs: Path, items: int, device: str, threads: str) -> _Job:
    folder = model_folder(cell, runs).parent
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "train.log"
    command = [sys.executable, "-m", "vlm_probe", "train", cell.name, "--runs", str(runs), "--resume"]
    command += ["--seed", str(cell.seed), "--items", str(items), "--device", device]
    with log.open("ab") as out:
        environment = {**os.environ, "OMP_NUM_THREADS": threads}
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment)
    return _Job(cell, process, log)


def ship(runs: Path, weights: Path) -> list[str]:
    """Copy the finished cells of seed 0 into the package, encoders once, and the scores beside them.

    Scores of cells and seeds that are not in this runs folder stay in the table. Returns the cells' names.
    """
    names = []
    for cell in CELLS.values():
        model = model_folder(cell, runs)
        if not (model / "card.json").exists():
            continue
        shutil.rmtree(weights / cell.name, ignore_errors=True)
        shutil.copytree(model, weights / cell.name)
        share_encoder(weights / cell.name, f"encoder-{cell.encoder}.safetensors")
        names.append(cell.name)
    scores = weights.parent / "grid_scores.csv"
    collect_scores(runs, kept=scores).to_csv(scores, index=False)
    return names
