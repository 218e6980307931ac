"""What stands inside the runs of a study, and where what two arms differ in comes from.

A run is looked into once, at its whole budget. All of it are shares: of the same objects, whose properties a probe
reads over their boxes at one place after the other, and of the same questions, answered with and without what an answer
may need. The difference of two arms can so be followed, seed by seed, from the picture to the answer. Every place is
tested by itself: whether more is left at one than at another is not, nor what as many random edges would cost. Probes
tell shapes alone, whatever their scale, and a model that sees another picture answers from that, not from language.
"""

from __future__ import annotations

import json
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vlm_probe.errors import VlmProbeError
from vlm_probe.evidence.verdict import Verdict
from vlm_probe.files import make_folder, replacing
from vlm_probe.scenes.worlds import Split
from vlm_probe.studies import result_tables
from vlm_probe.studies.effects import grid_differences, grid_effects
from vlm_probe.studies.result_tables import SCORES, beside, factors_of, in_order, results
from vlm_probe.studies.study import STUDIES, find_study

INSIDE = "inside.json"
"""In the folder of a run: what was found inside it."""
SPLITS: tuple[Split, ...] = ("heldout", "novel")
PROPERTIES = ("color", "shape")
"""Of objects, which probes read; and the kinds of question that ask for them."""
ANSWER, OTHER_PICTURE = "answer", "answer, another picture"
SCORED = "as scored"
"""What `studies.results` has of the run, by which it is known which run was looked into."""


def cut(route: str) -> str:
    """The place that is an answer without attention along a route (`causal.knockout.ROUTES`)."""
    return f"answer, no {route}"


FOLLOWED = {
    (ANSWER, "all"): "answers",
    ("encoder", "shape"): "shapes read from the encoder",
    ("connector", "shape"): "shapes read from the connector",
    ("last layer", "shape"): "shapes read from the last layer",
    (OTHER_PICTURE, "all"): "answers, another picture",
    (cut("image to question"), "all"): "answers, no attention\nfrom question to image",
    (cut("image to answer"), "all"): "answers, no attention\nfrom answer to image",
}
"""Place and kind by which a difference is followed, in words. Colors are not: six numbers of the pixels tell them. Nor
is the route from question to answer: without it there is hardly an answer, whatever else differs."""
MARGIN = 0.02
"""A difference in shares that does not matter, as in X1."""
FILE = "inside.csv"
COLUMNS = ("arm", "seed", "split", "kind", "place", "n", "share")
"""Of one table for all studies: arms of one name are one arm, trained once."""
ARMS = tuple(dict.fromkeys(name for study in STUDIES.values() for name in study.arms))


def readings(id: str) -> pd.DataFrame:
    """What was found inside a study's runs at their whole budget: a row a run, split, kind and place.

    Columns: arm and the study's factors, as in `studies.results`; seed; split; kind and place; n and share. Places that
    a probe reads are "pixels" (six numbers of what the encoder is given), "untrained encoder", "encoder" (what the
    connector is given), "connector" and "last layer" (of the language model): the share of objects of which it finds
    the "color" or "shape"; a logistic regression over the object's box that learned from objects in training scenes: of
    novel objects shapes from those of other colors and colors from those of other shapes (one that saw red objects, but
    no star among them, would know that red is no star). At "answer" it is the share of questions, "all" or those about
    a color or shape, of which the answer's first token is the most probable one; at "answer, another picture" with the
    next item's picture; at "answer, no <route>" without attention along a route of `causal.knockout.ROUTES` in every
    layer. Questions are the first of each type of `results`, and objects of split "novel" of its kinds. "as scored" is
    the share right there of the same run: one that was trained once more, from the same seed on another machine, may
    come to other weights, and is not this study's.

    Raises VlmProbeError for a study there is none of, or into none of whose runs anybody looked.
    """
    study, scores = find_study(id), results(id).query("kind == 'all' and budget == 1")
    table = committed()
    scored = table.query("place == @SCORED").merge(scores, on=["arm", "seed", "split"])
    same = scored.assign(same=np.isclose(scored["share"], scored["accuracy"], atol=1e-6))
    runs = same.groupby(["arm", "seed"])["same"].all().reset_index().query("same").filter(["arm", "seed"])
    about = pd.DataFrame([{"arm": name, **factors_of(cell, study)} for name, cell in study.arms.items()])
    table = in_order(about.merge(table.merge(runs, on=["arm", "seed"]), on="arm"), study.arms)
    if table.empty:
        raise VlmProbeError(f"nobody looked inside a run of study {id} yet; vlm-probe study {id} --seeds 5 does")
    table.attrs = {"title": f"Inside the runs of study {id}", "units": "share"}
    return table


def committed(tables: Traversable | None = None) -> pd.DataFrame:
    """The table of all runs that were looked into, `COLUMNS`.

    tables: the folder it is in; the package's if None.
    """
    file = (result_tables.committed_tables() if tables is None else tables) / FILE
    if not file.is_file():
        return pd.DataFrame(columns=[*COLUMNS])
    with file.open() as opened:
        return pd.read_csv(opened)


def collect(folder: Path) -> pd.DataFrame:
    """What was found inside the runs of a folder, `COLUMNS`."""
    rows: list[dict[str, Any]] = []
    for file in sorted(folder.glob(f"study-*/seed-*/*/{INSIDE}")):
        about = {"arm": file.parent.name, "seed": int(file.parents[1].name.removeprefix("seed-"))}
        if about["arm"] not in ARMS:  # it is of another version
            continue
        for row in json.loads((file.parent / SCORES).read_text())["scores"]:
            if row["kind"] == "all" and row["budget"] == 1 and row["split"] in SPLITS:
                about_it = {"split": row["split"], "kind": "all", "place": SCORED, "n": row["n"]}
                rows.append({**about, **about_it, "share": row["accuracy"]})
        rows += [{**about, **row} for row in json.loads(file.read_text())]
    return in_order(pd.DataFrame(rows, columns=[*COLUMNS]), ARMS)


def ship(folder: Path, package: Path) -> None:
    """Bring what was found inside a folder's runs into the package's table; of a run that is there, what is new."""
    tables, new = package / "studies" / "tables", collect(folder)
    if len(new):
        write(beside(new, committed(tables), ARMS), tables)


def write(table: pd.DataFrame, folder: Path) -> None:
    """Write the table into a folder."""
    make_folder(folder)
    with replacing(folder / FILE) as partial:
        table.to_csv(partial, index=False)


def reading_differences(table: pd.DataFrame) -> pd.DataFrame:
    """What `FOLLOWED` differs in between every two arms that differ in one factor alone, seed by seed.

    table: as `readings` returns it.

    Returns the columns of `studies.grid_differences`; kind has the words of `FOLLOWED`, and n what the share is of.
    Raises VlmProbeError as it does.
    """
    places = zip(table["place"].tolist(), table["kind"].tolist(), strict=True)
    words = [FOLLOWED.get(place, "") for place in places]
    names = {"arm": "cell", "pretrained": "connector_pretrained", "share": "accuracy"}
    scores = table.rename(columns=names).assign(kind=words).drop(columns="place")
    return grid_differences(scores.loc[scores["kind"] != ""].reset_index(drop=True))


def sources(effects: pd.DataFrame, differences: pd.DataFrame) -> pd.DataFrame:
    """Where every effect that is decided comes from: the same two arms at the places of `FOLLOWED`.

    effects: of answers, as `studies.grid_effects` returns them. differences: as `reading_differences` returns them.

    Returns the columns of `grid_effects`, a row a decided effect (of all question types together), split and place,
    whose words are in kind, in the order of `FOLLOWED`; none where nobody looked. p_holm is corrected over the places
    of an effect, "answers" apart: those are what is followed, and are decided by the effect.
    """
    key = ["factor", "first", "second", "split"]
    called = effects["verdict"].isin([str(one) for one in Verdict if one.decided])
    decided = effects.loc[called & (effects["kind"] == "all"), key]
    own = differences.merge(decided, on=key)
    answers = own["kind"] == FOLLOWED[(ANSWER, "all")]
    parts = [grid_effects(part, margin=MARGIN, family=key) for part in (own.loc[answers], own.loc[~answers])]
    table = pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)
    order = {tuple(pair): number for number, pair in enumerate(decided.to_numpy().tolist())}
    places = list(FOLLOWED.values())
    pairs = [order[tuple(pair)] for pair in table[key].to_numpy().tolist()]
    rank = [(pair, places.index(kind)) for pair, kind in zip(pairs, table["kind"].tolist(), strict=True)]
    table = table.iloc[sorted(range(len(rank)), key=rank.__getitem__)].reset_index(drop=True)
    table.attrs = {**parts[0].attrs, "method": METHOD}
    return table


METHOD = (
    "paired by seed; 95 % interval by Student's t over seeds; p by Holm over the places that one decided effect is "
    "followed by"
)
