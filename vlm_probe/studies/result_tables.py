"""The tables that studies left: read from the package, and collected from a folder of runs."""

from __future__ import annotations

import json
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import pandas as pd

from vlm_probe.errors import VlmProbeError
from vlm_probe.files import make_folder, replacing
from vlm_probe.studies.study import STUDIES, Study, find_study
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
        "command": f"vlm-probe study {id} --seeds {max(table['seed'].tolist()) + 1}",
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


def collect(study: Study, folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A runs folder's scores and how its runs were made, as `results` and `runs` return them."""
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
    return _sorted(table, study), _sorted(pd.DataFrame(made, columns=["arm", "seed", *MADE]), study)


def merged(study: Study, new: pd.DataFrame, kept: pd.DataFrame) -> pd.DataFrame:
    """Rows of arms and seeds trained elsewhere stay; those of a run that is in both are the new ones."""
    done = set(zip(new["arm"], new["seed"], strict=True))
    stays = [key not in done for key in zip(kept["arm"], kept["seed"], strict=True)]
    return _sorted(pd.concat([part for part in (kept.loc[stays], new) if len(part)], ignore_index=True), study)


def ship(folder: Path, package: Path) -> list[str]:
    """Bring the scores of a runs folder into the package's tables; returns the names of the studies it has runs of."""
    done = []
    for id, study in STUDIES.items():
        found = collect(study, folder)
        if found[0].empty:
            continue
        tables = package / "studies" / "tables"
        there = [tables / name for name in _names(study)]
        scores, made = (
            merged(study, new, pd.read_csv(file)) if file.exists() else new
            for new, file in zip(found, there, strict=True)
        )
        write(study, scores, made, tables)
        done.append(id)
    return done


def write(study: Study, scores: pd.DataFrame, made: pd.DataFrame, folder: Path) -> None:
    """Write a study's two tables, as `results` and `runs` read them."""
    make_folder(folder)
    for name, table in zip(_names(study), (scores, made), strict=True):
        with replacing(folder / name) as partial:
            table.to_csv(partial, index=False)


def _names(study: Study) -> tuple[str, str]:
    return f"{study.id}.csv", f"{study.id}_runs.csv"


def at_budget(table: pd.DataFrame, budget: float = 1.0) -> pd.DataFrame:
    """The rows of `results` of one budget, as `grid_differences` and `grid_interactions` take scores."""
    names = {"arm": "cell", "pretrained": "connector_pretrained"}
    return table.loc[table["budget"] == budget].rename(columns=names).reset_index(drop=True)


def _sorted(table: pd.DataFrame, study: Study) -> pd.DataFrame:
    """By seed, then as the study lists its arms; within a run as it was scored."""
    order = {name: i for i, name in enumerate(study.arms)}
    rank = [(seed, order[arm], i) for i, (seed, arm) in enumerate(zip(table["seed"], table["arm"], strict=True))]
    return table.iloc[sorted(range(len(rank)), key=rank.__getitem__)].reset_index(drop=True)
