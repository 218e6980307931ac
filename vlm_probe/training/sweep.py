"""The whole grid, unattended: every cell from every seed, several at a time, resumable.

Each cell is trained by a process of its own (`vlm-probe train <cell> --resume`), which leaves its
model, its card and its log in `<runs>/seed-<seed>/<cell>/`. What is finished is not done again.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from transformers import LlavaForConditionalGeneration

from vlm_probe.errors import VlmProbeError
from vlm_probe.files import alone, make_folder, replacing
from vlm_probe.studies.grid import collect_scores
from vlm_probe.training.encoders import ENCODERS, ClipStage, DinoStage
from vlm_probe.training.loop import write_state
from vlm_probe.training.packing import Packer, build_tokenizer
from vlm_probe.training.processes import Job, run_all, start
from vlm_probe.training.replica import runs_of, share_encoder
from vlm_probe.zoo.cells import CELLS, VOCABULARY, Cell
from vlm_probe.zoo.replicas import folder_of, shipped


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
    is there. Returns the names of the shipped cells, which need no training.

    Raises VlmProbeError where the folder has another encoder.
    """
    for cell in {CELLS[name].encoder: CELLS[name] for name in shipped()}.values():
        shared = replace(cell, vocabulary=VOCABULARY)
        stage = ENCODERS[cell.encoder](shared, Packer(build_tokenizer(VOCABULARY)))
        file = runs_of(cell, runs) / "encoders" / stage.name
        file.parent.mkdir(parents=True, exist_ok=True)
        model = LlavaForConditionalGeneration.from_pretrained(folder_of(cell.name), dtype=torch.float32)
        ours = model.model.vision_tower.state_dict()
        with alone(file.with_suffix(".lock")):
            if file.with_suffix(".pt").exists():
                _check_adopted(stage, file.with_suffix(".pt"), ours)
                continue
            stage.encoder.load_state_dict(ours)
            about = json.loads((folder_of(cell.name) / "card.json").read_text())["stages"]["encoder"]
            log = (folder_of(cell.name) / "training_log.jsonl").read_text().splitlines()
            lines = [line for line in map(json.loads, log) if line.pop("stage") == "encoder"]
            file.with_suffix(".jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
            state = {"module": stage.module.state_dict(), "step": about["steps"], "seconds": about["seconds"]}
            write_state(state, file.with_suffix(".pt"))
    return shipped()


def _check_adopted(stage: ClipStage | DinoStage, file: Path, ours: dict[str, torch.Tensor]) -> None:
    """VlmProbeError where a runs folder has another encoder than the package ships."""
    try:
        state = torch.load(file, weights_only=True, map_location="cpu")
        stage.module.load_state_dict(state["module"])
        same = state["step"] >= stage.steps
    except Exception:  # there is no end to what `torch.load` raises for a file that is none
        same = False
    theirs = stage.encoder.state_dict()
    # What is shipped is rounded to half precision.
    if not same or any(not torch.equal(theirs[name].half(), value.half()) for name, value in ours.items()):
        raise VlmProbeError(
            f"{file} is not the encoder that the package ships: cells trained on it would not go with the shipped "
            "ones; give another --runs, or train all of them (without --keep-shipped)"
        )


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
    run_all(waiting, lambda cell, threads: _start(cell, runs, items, device, threads), jobs=jobs, finished=finished)


def _start(cell: Cell, runs: Path, items: int, device: str, threads: int) -> Job:
    arguments = ["train", cell.name, "--runs", str(runs), "--resume"]
    arguments += ["--seed", str(cell.seed), "--items", str(items), "--device", device]
    log = model_folder(cell, runs).parent / "train.log"
    return start(arguments, f"{cell.name} (seed {cell.seed})", log, threads)


def ship(runs: Path, package: Path) -> list[str]:
    """Copy the finished cells of seed 0 into the package, encoders once, and the scores of all seeds.

    package: its folder, which holds `zoo/weights/replicas` and `studies/grid_scores.csv`.

    Scores of cells and seeds that are not in this runs folder stay in the table. Encoders of seed 1 are copied alone:
    nothing sees through them, they say how far apart two seeds are (E1). Returns the names of what was copied: no cell
    where the folder has other seeds alone.

    Raises VlmProbeError before anything is written where no cell is finished, or two cells of one
    encoder saw through two.
    """
    weights, scores = package / "zoo" / "weights" / "replicas", package / "studies" / "grid_scores.csv"
    encoders = _ship_second_encoders(runs, weights)
    if collect_scores(runs).empty:
        if encoders:
            return encoders
        raise VlmProbeError(f"{runs} has no finished cell")
    finished = [cell for cell in CELLS.values() if (model_folder(cell, runs) / "card.json").exists()]
    _check_encoders(finished, runs, weights)
    for cell in finished:
        shutil.rmtree(weights / cell.name, ignore_errors=True)
        shutil.copytree(model_folder(cell, runs), weights / cell.name)
        share_encoder(weights / cell.name, _shared_file(cell))
    make_folder(scores.parent)
    kept = pd.read_csv(scores) if scores.exists() else None
    collect_scores(runs, kept).to_csv(scores, index=False)
    return [*encoders, *(cell.name for cell in finished)]


def _ship_second_encoders(runs: Path, weights: Path) -> list[str]:
    """Put the finished encoders of seed 1 into the package, in half precision as the first; returns their names."""
    done = []
    for kind, make in ENCODERS.items():
        cell = replace(CELLS[f"small-{kind}"], seed=1)
        stage = make(cell, Packer(build_tokenizer(VOCABULARY)))
        file = runs_of(cell, runs) / "encoders" / f"{stage.name}.pt"
        state = torch.load(file, weights_only=True, map_location="cpu") if file.exists() else {"step": 0}
        if state["step"] < stage.steps:
            continue
        stage.module.load_state_dict(state["module"])
        # By the names that a checkpoint has, which are not always those of modules.
        with tempfile.TemporaryDirectory() as folder:
            stage.encoder.half().save_pretrained(folder)
            saved = load_file(Path(folder) / "model.safetensors")
        named = {f"vision_tower.{name.removeprefix('vision_model.')}": value for name, value in saved.items()}
        name = f"encoder-{kind}-seed{cell.seed}"
        make_folder(weights)
        with replacing(weights / f"{name}.safetensors") as partial:
            save_file(named, partial, metadata={"format": "pt"})
        done.append(name)
    return done


def _shared_file(cell: Cell) -> str:
    return f"encoder-{cell.encoder}.safetensors"


def _check_encoders(finished: Sequence[Cell], runs: Path, weights: Path) -> None:
    """VlmProbeError where cells that will share an encoder's file do not have the same encoder."""
    there = {path.parent.name for path in weights.glob("*/config.json")} - {cell.name for cell in finished}
    for encoder in {cell.encoder for cell in finished}:
        sources = [model_folder(cell, runs) / "model.safetensors" for cell in finished if cell.encoder == encoder]
        if any(cell.encoder == encoder and name in there for name, cell in CELLS.items()):
            sources.insert(0, weights / f"encoder-{encoder}.safetensors")
        first, *others = [
            {name: value for name, value in load_file(source).items() if "vision_tower" in name} for source in sources
        ]
        for source, other in zip(sources[1:], others, strict=True):
            if any(not torch.equal(first[name], value) for name, value in other.items()):
                raise VlmProbeError(
                    f"{source} has another encoder than {sources[0]}, which it would share a file with; train with "
                    "--keep-shipped, or ship all cells of one runs folder"
                )
