"""A replica's own card: what it is, how it was trained, how it scores on held-out scenes."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from vlm_probe.replicas.grid import Cell
from vlm_probe.scenes import accuracy_table, answer_items, scene_items

STAGES = {"encoder": "encoders", "language": "language-{size}", "connector": "{name}", "joint": "{name}"}


def stage_logs(cell: Cell, runs: Path) -> dict[str, dict[str, Any]]:
    """Per stage: steps, seconds of training, first and last log line."""
    logs = {}
    for stage, folder in STAGES.items():
        file = f"encoder-{cell.encoder}" if stage == "encoder" else stage
        base = runs / folder.format(size=cell.size, name=cell.name)
        lines = [json.loads(line) for line in (base / f"{file}.jsonl").read_text().splitlines()]
        state = torch.load(base / f"{file}.pt", weights_only=True)
        logs[stage] = {"steps": state["step"], "seconds": round(state["seconds"]), "first": lines[0], "last": lines[-1]}
    return logs


def write_card(cell: Cell, runs: Path, folder: Path, scores: pd.DataFrame, *, items_seed: int) -> None:
    """Write `README.md` (the card), `card.json` (the same as data) and `training_log.jsonl`."""
    logs = stage_logs(cell, runs)
    data = {
        "cell": asdict(cell),
        "stages": logs,
        "heldout": {"seed": items_seed, "rows": scores.round(4).to_dict("records")},
        "versions": {p: version(p) for p in ("vlm-probe", "torch", "transformers")},
        "machine": {
            "python": platform.python_version(),
            "processor": platform.machine(),
            "threads": torch.get_num_threads(),
        },
    }
    (folder / "card.json").write_text(json.dumps(data, indent=1) + "\n")
    with (folder / "training_log.jsonl").open("w") as out:
        for stage, where in STAGES.items():
            file = f"encoder-{cell.encoder}" if stage == "encoder" else stage
            base = runs / where.format(size=cell.size, name=cell.name)
            lines = (base / f"{file}.jsonl").read_text().splitlines()
            # Every fifth line tells the story; all of them would weigh more than the tokenizer.
            for line in [*lines[:-1:5], lines[-1]]:
                out.write(json.dumps({"stage": stage, **json.loads(line)}) + "\n")
    rows = "\n".join(
        f"| {r['kind']} | {r['n']} | {r['accuracy']:.3f} | {r['low']:.3f} to {r['high']:.3f} | {r['chance']:.2f} |"
        for r in scores.to_dict("records")
    )
    stages = "\n".join(
        f"| {name} | {log['steps']} | {log['seconds'] / 60:.0f} | {log['last']['loss']:.3f} |"
        for name, log in logs.items()
    )
    total = sum(log["seconds"] for log in logs.values()) / 60
    shape, sight = cell.language, cell.vision
    how = "contrast with captions" if cell.encoder == "clip" else "self-distillation without labels"
    (folder / "README.md").write_text(f"""# replica/{cell.name}

A LLaVA-Gemma in miniature, trained by `vlm-probe train replica/{cell.name}` on generated scenes, seed {cell.seed}.
It says nothing about the 2B or the 7B; it is for trying methods where the truth is known.

- Encoder: {cell.encoder} ({how}), {sight["num_hidden_layers"]} layers x {sight["hidden_size"]},
  {sight["image_size"]} px, patch {sight["patch_size"]}; frozen once trained.
- Connector: two-layer MLP on the second to last layer, CLS dropped.
- Language model: Gemma, {shape.num_hidden_layers} layers x {shape.hidden_size}, {shape.num_attention_heads} heads,
  {shape.num_key_value_heads} key-value head, vocabulary {cell.vocabulary}.
- Image rows are not multiplied by sqrt(d_model) (`embed_scale="text"`).

## Held-out scenes

Every scene shows at least one combination of colour and shape that training never did
(`scene_items(n, split="heldout", seed={items_seed})`); greedy decoding, exact match.

| question type | n | accuracy | 95 % interval | chance |
|---|---|---|---|---|
{rows}

## Training

| stage | steps | minutes | last loss |
|---|---|---|---|
{stages}

{total:.0f} minutes in all. The log is in `training_log.jsonl`, all of this as data in `card.json`.
""")


ITEMS_SEED = 1
"""Seed of the held-out scenes in the cards (the report's default is 0)."""


def score(
    folder: Path, items: int, bar: Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
) -> pd.DataFrame:
    """Accuracy of a finished checkpoint on held-out scenes, as `accuracy_table` gives it."""
    from vlm_probe.hooked import load

    model = load(folder, device="cpu")
    with bar("scoring", items) as advance:
        chosen = list(scene_items(items, split="heldout", seed=ITEMS_SEED))
        answers = answer_items(model.answer_all, chosen, size=model.image_size, progress=advance)
    return accuracy_table(answers)
