"""The tables that studies left: read from the package, and collected from a folder of runs."""

from __future__ import annotations

import json
from collections.abc import Iterable
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vlm_probe.errors import VlmProbeError
from vlm_probe.files import make_folder, replacing
from vlm_probe.studies.study import STUDIES, Study, find_study
from vlm_probe.zoo.cells import Cell

SCORES = "scores.json"
"""In the folder of a run: its scores at every budget so far, and how it was made."""
MEASURED = ("seed", "budget", "scenes", "split", "kind", "n", "accuracy")
MADE = ("seconds", "device", "threads", "processor", "torch", "commit")


def committed_tables() -> Traversable:
    """The package's folder of tables."""
    return files("vlm_probe.studies") / "tables"


def committed(name: str, columns: Iterable[str], tables: Traversable | None = None) -> pd.DataFrame:
    """A table as it is committed; empty, with these columns, where there is none.

    tables: the folder it is in; the package's if None.
    """
    file = (committed_tables() if tables is None else tables) / name
    if not file.is_file():
        return pd.DataFrame(columns=[*columns])
    with file.open() as opened:
        return pd.read_csv(opened)


def results(id: str) -> pd.DataFrame:
    """What a study's runs scored, as committed: a row a run, budget, split and question type.

    Columns: arm; size, encoder, pretrained, vocabulary (tokens that text is cut into) and the study's further factors
    (rows: of the vocabulary, by their name in `zoo.cells.ROWS`; frozen: whether the language model learned in fusion;
    rate: times the recipe's learning rate of fusion); seed; budget (share of the study's fusion steps), scenes (seen in
    fusion); split ("heldout": pairs of kinds that never stood together in training; "novel": questions about a kind
    that no training image showed; "dev": as heldout, other items, to choose by), kind (question type, or "all"), n
    (items) and accuracy (share right, greedy decoding and exact match). Made by `vlm-probe study <id>`;
    `attrs["command"]` has it whole. An arm or seed that is not there was not trained; a run that was stopped has its
    first budgets alone.

    Raises VlmProbeError for a study there is none of, or none is trained of.
    """
    study = find_study(id)
    table = committed(_names(study)[0], ())
    if table.empty:
        raise VlmProbeError(f"study {id} has no table yet; train it with vlm-probe study {id} --seeds 5")
    table.attrs = {
        "title": study.question,
        "units": "share right",
        "command": f"vlm-probe study {id} --seeds {max(table['seed'].tolist()) + 1}",
    }
    return table


def tabled() -> list[str]:
    """Names of the studies that a table is committed of."""
    return [id for id in STUDIES if (committed_tables() / f"{id}.csv").is_file()]


def runs(id: str) -> pd.DataFrame:
    """How every run of a study's table was made: arm, seed, seconds of training (its own, the shared encoder and
    language model left out), device, threads, processor, torch and commit. Raises as `results` does."""
    results(id)
    return committed(_names(find_study(id))[1], ["arm", "seed", *MADE])


def factors_of(cell: Cell, study: Study) -> dict[str, Any]:
    """What an arm is made of, as a study's columns."""
    about = {
        **{"size": cell.size, "encoder": cell.encoder, "pretrained": cell.steps.connector > 0},
        **{"vocabulary": cell.vocabulary, "rows": cell.rows, "frozen": cell.frozen, "rate": cell.rate},
    }
    return {name: about[name] for name in study.columns}


def collect(study: Study, folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A runs folder's scores and how its runs were made, as `results` and `runs` return them: of runs that this study
    asked for, whichever asked first, and of what it scores."""
    rows, made = [], []
    for file in sorted(folder.glob(f"study-*/seed-*/*/{SCORES}")):
        found = json.loads(file.read_text())
        name, seed = found["arm"], found["seed"]
        if study.id not in (found["study"], *found.get("also", ())) or name not in study.arms:
            continue
        about = {"arm": name, **factors_of(study.arms[name], study), "seed": seed}
        rows += [{**about, **row} for row in found["scores"] if row["split"] in study.splits]
        made.append({"arm": name, "seed": seed, **found["made"]})
    table = pd.DataFrame(rows, columns=["arm", *study.columns, *MEASURED])
    return in_order(table, study.arms), in_order(pd.DataFrame(made, columns=["arm", "seed", *MADE]), study.arms)


def known(study: Study, tables: Traversable | None = None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What is committed of a study's arms, as `collect` returns it: in its own tables, and in those of studies that
    have the same arm, trained to the same budget.

    tables: the folder they are in; the package's if None.
    """
    scores = pd.DataFrame(columns=["arm", *study.columns, *MEASURED])
    made = pd.DataFrame(columns=["arm", "seed", *MADE])
    # Its own last: what is in both is what was trained for it.
    for other in sorted(STUDIES.values(), key=lambda one: one.id == study.id):
        same = [name for name, cell in study.arms.items() if other.arms.get(name) == cell]
        if not same or other.budget != study.budget:
            continue
        both = [committed(name, ["arm"], tables) for name in _names(other)]
        if any(table.empty for table in both):
            continue
        found = [table.loc[table["arm"].isin(same)] for table in both]
        about = pd.DataFrame([{"arm": name, **factors_of(study.arms[name], study)} for name in same])
        rows = found[0].loc[found[0]["split"].isin(study.splits), ["arm", *MEASURED]]
        scores, made = merged(study, (about.merge(rows, on="arm"), found[1]), (scores, made))
    return scores, made


def finished(study: Study) -> set[tuple[str, int]]:
    """Arms and seeds of which the committed tables have the whole budget, on every split."""
    scores, _ = known(study)
    whole = scores.loc[(scores["budget"] == max(study.budget.scored)) & (scores["kind"] == "all")]
    splits = whole.groupby(["arm", "seed"])["split"].agg(set)
    return {(str(arm), int(seed)) for (arm, seed), own in splits.items() if own.issuperset(study.splits)}


Tables = tuple[pd.DataFrame, pd.DataFrame]
"""Scores, and how the runs were made."""


def merged(study: Study, new: Tables, kept: Tables) -> Tables:
    """Runs of arms and seeds that one side has, and of those that both have the new ones: but where a run was stopped,
    the one that came further."""
    rows = [scores.groupby(["arm", "seed"]).size().to_dict() for scores, _ in (new, kept)]
    taken = {key for key, n in rows[0].items() if n >= rows[1].get(key, 0)}

    def of(table: pd.DataFrame, *, ours: bool) -> pd.DataFrame:
        return table.loc[[(key in taken) == ours for key in zip(table["arm"], table["seed"], strict=True)]]

    both = []
    for one, other in zip(new, kept, strict=True):
        parts = [part for part in (of(other, ours=False), of(one, ours=True)) if len(part)]
        both.append(in_order(pd.concat(parts, ignore_index=True) if parts else one, study.arms))
    return both[0], both[1]


def ship(folder: Path, package: Path) -> list[str]:
    """Bring the scores of a runs folder into the package's tables, beside those of the same arms that are there for
    another study; returns the names of the studies it has runs of."""
    found = {id: collect(study, folder) for id, study in STUDIES.items()}
    tables = package / "studies" / "tables"
    for _ in range(2):  # once more: what one study got another may have an arm of
        for id, (scores, made) in found.items():
            if not scores.empty:
                study = STUDIES[id]
                write(study, *merged(study, (scores, made), known(study, tables)), tables)
    return [id for id, (scores, _) in found.items() if not scores.empty]


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


def under_curve(table: pd.DataFrame) -> pd.DataFrame:
    """As `at_budget`, but accuracy is the area under a run's learning curve: its mean over the base-2 logarithm of the
    budget, by trapezoids. Runs that lack a budget that others have are left out."""
    budgets = np.array(sorted(set(table["budget"].tolist())))
    key = ["arm", "seed", "split", "kind"]
    curves = table.pivot(index=key, columns="budget", values="accuracy").reindex(columns=budgets).dropna()
    span = np.log2(budgets[-1] / budgets[0]) if len(budgets) > 1 else 0.0
    if not span:
        return at_budget(table).iloc[:0]
    area = np.trapezoid(curves.to_numpy(), np.log2(budgets), axis=1) / span
    areas = pd.Series(area, index=curves.index, name="area").reset_index()
    whole = at_budget(table.merge(areas, on=key), budgets[-1])
    return whole.assign(accuracy=whole.pop("area"))


def tuned(table: pd.DataFrame) -> pd.DataFrame:
    """Of arms that differ in their rate alone, seed by seed, the one that was best on "dev" at the whole budget.

    table: of a study whose factor is the rate, as `results` returns it.

    Returns its rows of the other splits; arms have the name that they have at the recipe's rate, and chosen, in the
    place of rate, says which it was. Seeds of which not every rate was trained are left out; of rates that are equally
    good it is the one that the study lists first.
    """
    own = [name for name in table.columns[1 : table.columns.get_loc("seed")] if name != "rate"]
    at_end = table.query("split == 'dev' and kind == 'all' and budget == budget.max()")
    ranked = at_end.sort_values("accuracy", ascending=False, kind="stable")
    rates = ranked.groupby([*own, "seed"])["rate"].transform("nunique")
    best = ranked.loc[rates == table["rate"].nunique()].drop_duplicates([*own, "seed"])
    names = table.query("rate == 1").drop_duplicates(own).filter(["arm", *own])
    chosen = table.query("split != 'dev'").merge(best.filter(["arm", "seed"]), on=["arm", "seed"])
    return names.merge(chosen.drop(columns="arm").rename(columns={"rate": "chosen"}), on=own)


def beside(new: pd.DataFrame, kept: pd.DataFrame, arms: Iterable[str]) -> pd.DataFrame:
    """Both tables in order, and of a run that both have the new one; arms of another version are left out."""
    arms, there = list(arms), set(zip(new["arm"], new["seed"], strict=True))
    keys = zip(kept["arm"], kept["seed"], strict=True)
    other = kept.loc[[key not in there and key[0] in arms for key in keys]]
    parts = [part for part in (other, new) if len(part)]
    return in_order(pd.concat(parts, ignore_index=True), arms) if parts else new


def in_order(table: pd.DataFrame, arms: Iterable[str]) -> pd.DataFrame:
    """By seed, then as the arms are listed; within a run as it was scored."""
    order = {name: i for i, name in enumerate(arms)}
    rank = [(seed, order[arm], i) for i, (seed, arm) in enumerate(zip(table["seed"], table["arm"], strict=True))]
    return table.iloc[sorted(range(len(rank)), key=rank.__getitem__)].reset_index(drop=True)
