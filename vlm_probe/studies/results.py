"""The tables that studies left: read from the package, and collected from a folder of runs."""

from __future__ import annotations

import json
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import pandas as pd

from vlm_probe.errors import VlmProbeError
from vlm_probe.studies.study import Study, find_study
from vlm_probe.zoo.cells import Cell

SCORES = "scores.json"
"""In the folder of a run: its scores at every budget so far, and how it was made."""
ALL_FACTORS = ("size", "encoder", "pretrained", "vocabulary")
MEASURED = ("seed", "budget", "scenes", "split", "kind", "n", "accuracy")
MADE = ("seconds", "device", "threads", "processor", "torch", "commit")


def _tables() -> Traversable:
    return files("vlm_probe.studies") / "tables"


def results(id: str) -> pd.DataFrame:
    """What a study's runs scored, as committed: a row a run, budget, split and question type.

    Columns: arm; size, encoder, pretrained, vocabulary; seed; budget (share of the study's fusion steps), scenes (seen
    in fusion); split ("heldout": pairs of kinds that never stood together in training; "novel": questions about a kind
    that no training image showed), kind (question type, or "all"), n (items) and accuracy (share right, greedy decoding
    and exact match). Made by `vlm-probe study <id>`; `attrs["command"]` has it whole. An arm or seed that is not there
    was not trained; a run that was stopped has its first budgets alone.

    Raises VlmProbeError for a study there is none of, or none is trained of.
    """
    study = find_study(id)
    file = _tables() / f"{id}.csv"
    if not file.is_file():
        raise VlmProbeError(f"study {id} has no table yet; train it with vlm-probe study {id} --seeds 5")
    with file.open() as opened:
        table = pd.read_csv(opened)
    table.attrs = {
        "title": study.question,
        "units": "share right",
        "command": f"vlm-probe study {id} --seeds {int(table['seed'].max()) + 1}",
    }
    return table


def runs(id: str) -> pd.DataFrame:
    """How every run of a study's table was made: arm, seed, seconds of training (its own, the shared encoder and
    language model left out), device, threads, processor, torch and commit. Raises as `results` does."""
    results(id)
    with (_tables() / f"{id}_runs.csv").open() as opened:
        return pd.read_csv(opened)


def factors_of(cell: Cell) -> dict[str, Any]:
    """What an arm is made of, as columns."""
    pretrained = cell.steps.connector > 0
    return dict(zip(ALL_FACTORS, (cell.size, cell.encoder, pretrained, cell.vocabulary), strict=True))


def collect(study: Study, folder: Path, kept: pd.DataFrame | None = None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A runs folder's scores and how they were made, as `results` and `runs` return them.

    kept: the table of results so far; rows of arms and seeds that are not in this folder stay. Of the second table the
    rows of this folder alone.
    """
    rows, made = [], []
    for file in sorted(folder.glob(f"study-*/seed-*/*/{SCORES}")):
        found = json.loads(file.read_text())
        name, seed = found["arm"], found["seed"]
        if found["study"] != study.id or name not in study.arms:
            continue
        about = {"arm": name, **factors_of(study.arms[name]), "seed": seed}
        rows += [{**about, **row} for row in found["scores"]]
        made.append({"arm": name, "seed": seed, **found["made"]})
    table = pd.DataFrame(rows, columns=["arm", *ALL_FACTORS, *MEASURED])
    if kept is not None and len(kept):
        done = set(zip(table["arm"], table["seed"], strict=True))
        stays = [key not in done for key in zip(kept["arm"], kept["seed"], strict=True)]
        table = pd.concat([part for part in (kept[stays], table) if len(part)], ignore_index=True)
    return _sorted(table, study), pd.DataFrame(made, columns=["arm", "seed", *MADE])


def _sorted(table: pd.DataFrame, study: Study) -> pd.DataFrame:
    """By seed, then as the study lists its arms; within a run as it was scored."""
    order = {name: i for i, name in enumerate(study.arms)}
    rank = [(seed, order[arm], i) for i, (seed, arm) in enumerate(zip(table["seed"], table["arm"], strict=True))]
    return table.iloc[sorted(range(len(rank)), key=rank.__getitem__)].reset_index(drop=True)
