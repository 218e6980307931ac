"""The scores of the grid's cells, from the cards of a runs folder and as committed."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import pandas as pd

from vlm_probe.zoo.cells import CELLS

COLUMNS = (
    "cell",
    "seed",
    "size",
    "encoder",
    "connector_pretrained",
    "vocabulary",
    "split",
    "kind",
    "n",
    "accuracy",
    "low",
    "high",
)


def collect_scores(runs: Path, kept: pd.DataFrame | None = None) -> pd.DataFrame:
    """The scores of every finished cell in a runs folder, columns `COLUMNS`.

    kept: such a table; its rows of cells and seeds that are not in this folder stay.
    """
    rows = []
    for card in sorted(runs.glob("seed-*/*/model/card.json")):
        data = json.loads(card.read_text())
        if "cell" not in data:  # a connector between real models, trained in the same folder
            continue
        cell = data["cell"]
        about = (
            card.parents[1].name,
            cell["seed"],
            cell["size"],
            cell["encoder"],
            cell["steps"]["connector"] > 0,
            cell["vocabulary"],
        )
        for split, scores in data["scores"].items():
            rows += [(*about, split, *(s[name] for name in ("kind", "n", "accuracy", "low", "high"))) for s in scores]
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    if kept is not None and len(kept):
        done = set(zip(table["cell"], table["seed"], strict=True))
        stays = [key not in done for key in zip(kept["cell"], kept["seed"], strict=True)]
        table = pd.concat([part for part in (kept[stays], table) if len(part)], ignore_index=True)
    order = {name: i for i, name in enumerate(CELLS)}
    rank = [(order.get(cell, len(order)), seed) for cell, seed in zip(table["cell"], table["seed"], strict=True)]
    return table.iloc[sorted(range(len(rank)), key=rank.__getitem__)].reset_index(drop=True)


def grid_scores() -> pd.DataFrame:
    """The committed scores of the grid: accuracy on held-out and novel scenes per cell, seed and question type.

    Made by `vlm-probe train --grid --seeds 3` and `vlm-probe ship`, which brings a runs folder's scores into the
    package; a cell or seed that is not there was not trained.
    """
    with (files("vlm_probe.studies") / "grid_scores.csv").open() as file:
        return pd.read_csv(file)
