"""A replica's own card: what it is, how it was trained, how it scores on held-out scenes."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from vlm_probe.hooked import HookedVLM
from vlm_probe.items import accuracy_table
from vlm_probe.opening import load
from vlm_probe.running.evaluation import evaluate
from vlm_probe.scenes import SHIPPED, World, scene_items, with_baselines
from vlm_probe.scenes.world import Split
from vlm_probe.training.replica import runs_of
from vlm_probe.zoo.cells import Cell

_FOLDERS = {
    "encoder": "encoders",
    "language": "{language}",
    "connector": "{name}",
    "joint": "{name}",
    "questions": "{name}",
}


def stage_files(cell: Cell, runs: Path) -> dict[str, Path]:
    """Each trained stage's files, without suffix."""
    files = {}
    for stage, folder in _FOLDERS.items():
        if getattr(cell.steps, stage) > 0:
            name = f"encoder-{cell.encoder}" if stage == "encoder" else stage
            files[stage] = runs_of(cell, runs) / folder.format(language=cell.language_name, name=cell.name) / name
    return files


def stage_logs(files: Mapping[Any, Path]) -> dict[str, dict[str, Any]]:
    """Per stage: steps, seconds of training, first and last log line."""
    logs = {}
    for stage, file in files.items():
        lines = [json.loads(line) for line in file.with_suffix(".jsonl").read_text().splitlines()]
        state = torch.load(file.with_suffix(".pt"), weights_only=True)
        logs[stage] = {"steps": state["step"], "seconds": round(state["seconds"]), "first": lines[0], "last": lines[-1]}
    return logs


SPLITS: tuple[Split, ...] = ("heldout", "novel")
"""Scored in every card."""
ITEMS_SEED = 1
"""Seed of the scenes in the cards (the report's default is 0)."""


def write_files(folder: Path, files: Mapping[Any, Path], data: dict[str, Any], text: str) -> None:
    """Write `README.md`, `training_log.jsonl` and, last, `card.json`: a folder that has it is finished."""
    (folder / "README.md").write_text(text)
    write_log(files, folder)
    (folder / "card.json").write_text(json.dumps(data, indent=1) + "\n")


def write_log(files: Mapping[Any, Path], folder: Path) -> None:
    """Write `training_log.jsonl`: what the stages logged, thinned out."""
    with (folder / "training_log.jsonl").open("w") as out:
        for stage, file in files.items():
            lines = file.with_suffix(".jsonl").read_text().splitlines()
            # All of them would weigh more than the tokenizer: the first tell whether a rerun goes the same way.
            for line in [*lines[:11], *lines[15:-1:5], lines[-1]]:
                out.write(json.dumps({"stage": stage, **json.loads(line)}) + "\n")


def stage_table(logs: dict[str, dict[str, Any]]) -> str:
    """Steps, minutes and last loss of every stage, as Markdown."""
    rows = "\n".join(
        f"| {name} | {log['steps']} | {log['seconds'] / 60:.0f} | {log['last']['loss']:.3f} |"
        for name, log in logs.items()
    )
    total = sum(log["seconds"] for log in logs.values()) / 60
    head = "| stage | steps | minutes | last loss |\n|---|---|---|---|\n"
    where = "The log is in `training_log.jsonl`, all of this as data in `card.json`."
    return f"{head}{rows}\n\n{total:.0f} minutes in all. {where}"


def record(files: Mapping[Any, Path], scores: dict[str, pd.DataFrame], check: dict[str, float | int]) -> dict[str, Any]:
    """A card's data, whatever was trained: logs, scores, versions and machine of this run."""
    return {
        "stages": stage_logs(files),
        "seed": ITEMS_SEED,
        "scores": {split: table.round(4).to_dict("records") for split, table in scores.items()},
        "check": check,
        "versions": {p: version(p) for p in ("vlm-probe", "torch", "transformers")},
        "machine": {
            "python": platform.python_version(),
            "processor": platform.machine(),
            "threads": torch.get_num_threads(),
        },
    }


def score_table(scores: pd.DataFrame) -> str:
    head = "| question type | n | accuracy | 95 % interval | chance | best blind guess |\n|---|---|---|---|---|---|\n"
    return head + "\n".join(
        f"| {r['kind']} | {r['n']} | {r['accuracy']:.3f} | {r['low']:.3f} to {r['high']:.3f} | {r['chance']:.2f} "
        f"| {r['blind']:.2f} |"
        for r in scores.to_dict("records")
    )


CHECKED_ITEMS = 100
"""Items of which the card keeps exact figures, so that a test can compute them again."""


def check_scores(model: HookedVLM, items: int = CHECKED_ITEMS, world: World = SHIPPED) -> dict[str, float | int]:
    """Figures of the first held-out items that reproduce: accuracy, and the right answer's mean probability."""
    chosen = list(scene_items(items, split="heldout", seed=ITEMS_SEED, world=world))
    answers = evaluate(model, chosen)
    return {
        "items": items,
        "accuracy": float(answers["correct"].to_numpy().mean()),
        "mean_probability": float(answers["p_answer"].to_numpy().mean()),
    }


def write_card(
    cell: Cell, runs: Path, folder: Path, scores: dict[str, pd.DataFrame], check: dict[str, float | int]
) -> None:
    """Write `README.md` (the card), `card.json` (the same as data) and `training_log.jsonl`.

    scores: `accuracy_table` of every split in `SPLITS`; check: `check_scores` of the exported model.
    """
    files = stage_files(cell, runs)
    data = {"cell": asdict(cell), **record(files, scores, check)}
    shape, sight = cell.language, cell.vision
    how = "contrast with captions" if cell.encoder == "clip" else "self-distillation without labels"
    text = f"""# replica/{cell.name}

A LLaVA-Gemma in miniature, trained by `vlm-probe train replica/{cell.name} --seed {cell.seed}` on generated scenes.
It says nothing about the 2B or the 7B; it is for trying methods where the truth is known.

- Encoder: {cell.encoder} ({how}), {sight["num_hidden_layers"]} layers x {sight["hidden_size"]},
  {sight["image_size"]} px, patch {sight["patch_size"]}; frozen once trained.
- Connector: two-layer MLP on the second to last layer, CLS dropped.
- Language model: Gemma, {shape.num_hidden_layers} layers x {shape.hidden_size}, {shape.num_attention_heads} heads,
  {shape.num_key_value_heads} key-value head, vocabulary {cell.vocabulary}.
- Image rows are not multiplied by sqrt(d_model) (`embed_scale="text"`).

## Held-out scenes

Every scene shows two coloured shapes together that never stand together in an image the replica was trained on; each
was seen with others (`scene_items(n, split="heldout", seed={ITEMS_SEED})`; greedy decoding, exact match). The best
blind guess is the most frequent answer to the same question in training, the image unseen.

{score_table(scores["heldout"])}

## Novel kinds

The harder question: every scene shows a coloured shape (a green cross, a blue triangle, a yellow circle) that no
training image ever showed. Text named them.

{score_table(scores["novel"])}

## Training

{stage_table(data["stages"])}
"""
    write_files(folder, files, data, text)


def score(
    folder: Path,
    items: int,
    bar: Callable[[str, int], AbstractContextManager[Callable[[int], None]]],
    world: World = SHIPPED,
) -> tuple[dict[str, pd.DataFrame], dict[str, float | int]]:
    """A finished checkpoint's accuracy on scenes of every split in `SPLITS`, and `check_scores`."""
    model = load(folder, device="cpu", dtype="float32")
    tables = {}
    for split in SPLITS:
        with bar(f"scoring, {split}", items) as advance:
            chosen = list(scene_items(items, split=split, seed=ITEMS_SEED, world=world))
            tables[split] = accuracy_table(with_baselines(evaluate(model, chosen, progress=advance), chosen))
    return tables, check_scores(model, world=world)
