"""What stands inside the runs of a study, and what goes with a difference of two arms.

A run is looked into once, at its whole budget. All of it are shares: of the same objects, whose properties a probe
reads over their boxes at one place after the other, and of the same questions, answered with and without what an answer
may need. A difference of two arms in answers can so be followed, seed by seed, from the picture to the answer: whether
one has more that can be read, and whether one loses more where something is taken from both. What goes with a
difference need not be its cause. Where taking something away leaves both arms at the floor, what is lost repeats the
difference: the answers need it in both arms. Probes tell shapes alone, whatever their scale, and a model that sees
another picture answers from that, not from language.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from pathlib import Path

import numpy as np
import pandas as pd

from vlm_probe.errors import VlmProbeError
from vlm_probe.evidence.verdict import Verdict
from vlm_probe.files import make_folder, replacing
from vlm_probe.scenes.worlds import Split
from vlm_probe.studies import result_tables
from vlm_probe.studies.effects import FEWEST_RUNS, grid_differences, grid_effects
from vlm_probe.studies.result_tables import beside, factors_of, in_order, results
from vlm_probe.studies.study import STUDIES, find_study

INSIDE = "inside.json"
"""In the folder of a run: what was found inside it."""
SPLITS: tuple[Split, ...] = ("heldout", "novel")
PROPERTIES = ("color", "shape")
"""Of objects, which probes read; and the kinds of question that ask for them."""
ANSWER, OTHER_PICTURE = "answer", "answer, another picture"
SCORED = "as scored"
"""The share right of all that a run is scored on, by which it is known which run was looked into."""


def cut(route: str, *, random: bool = False) -> str:
    """The place that is an answer without attention along a route (`causal.knockout.ROUTES`), or as many random
    edges."""
    return f"answer, random edges for {route}" if random else f"answer, no {route}"


@dataclass(frozen=True)
class Followed:
    """What two arms are compared in: a share at one place, or what it has more there than at another."""

    kind: str
    place: str
    less: str | None = None
    beside: str | None = None
    """In place of `place`, what a loss is held to: as many random edges cut, which are mostly others' (text looks at
    little but the image), so that they tell whether an arm is hurt by any cut, not which of the route's edges count."""


FOLLOWED = {
    "answers": Followed("all", SCORED),
    "shapes read from the encoder": Followed("shape", "encoder"),
    "shapes read from the connector": Followed("shape", "connector"),
    "shapes read from the last layer": Followed("shape", "last layer"),
    "answers lost with\nanother picture": Followed("all", ANSWER, OTHER_PICTURE),
    **{
        f"answers lost without\nattention from {queries} to image": Followed(
            "all", ANSWER, cut(route), cut(route, random=True)
        )
        for queries, route in (
            ("question", "image to question"),
            ("answer", "image to answer"),
            ("either", "image to both"),
        )
    },
}
"""What a difference is followed by, in words. Colors are not: six numbers of the pixels tell them. Nor is the route
from question to answer: without it there is hardly an answer, whatever else differs. Where one of two routes is cut the
other may carry as much, which "either" tells."""
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
    layer, and at "answer, random edges for <route>" without as many others. Questions are the first of each type of
    `results`, and objects of split "novel" of its kinds. "as scored" is the share right of all questions, as in
    `results`: a run that was trained once more, from the same seed on another machine, may come to other weights, is
    known by it, and is not this study's. The untrained encoder has the architecture of the trained one; only "pixels"
    are the same of all arms.

    Raises VlmProbeError for a study there is none of, or into none of whose runs anybody looked.
    """
    study, scores = find_study(id), results(id).query("kind == 'all' and budget == 1")
    table = committed()
    scored = table.query("place == @SCORED").merge(scores, on=["arm", "seed", "split"])
    same = scored.loc[np.isclose(scored["share"], scored["accuracy"], atol=1e-6)].groupby(["arm", "seed"]).size()
    runs = same.index[same == len(SPLITS)].to_frame(index=False)
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
    return result_tables.committed(FILE, COLUMNS, tables)


def collect(folder: Path) -> pd.DataFrame:
    """What was found inside the runs of a folder, `COLUMNS`; VlmProbeError for a file that has no readings."""
    parts = [pd.DataFrame(columns=[*COLUMNS])]
    for file in sorted(folder.glob(f"study-*/seed-*/*/{INSIDE}")):
        arm, seed = file.parent.name, int(file.parents[1].name.removeprefix("seed-"))
        if arm not in ARMS:  # it is of another version
            continue
        try:
            found = pd.DataFrame(json.loads(file.read_text()))[[*COLUMNS[2:]]]
        except (ValueError, KeyError) as error:
            raise VlmProbeError(f"{file} has no readings ({error}); without it the run is looked into again") from error
        parts.append(found.assign(arm=arm, seed=seed))
    table = pd.concat(parts[1:] or parts, ignore_index=True)
    return in_order(table.filter([*COLUMNS]), ARMS)


def ship(folder: Path, package: Path) -> bool:
    """Bring what was found inside a folder's runs into the package's table; of a run that is there, what is new.
    Returns whether there was any."""
    tables, new = package / "studies" / "tables", collect(folder)
    if len(new):
        write(beside(new, committed(tables), ARMS), tables)
    return len(new) > 0


def write(table: pd.DataFrame, folder: Path) -> None:
    """Write the table into a folder."""
    make_folder(folder)
    with replacing(folder / FILE) as partial:
        table.to_csv(partial, index=False)


def reading_differences(table: pd.DataFrame) -> pd.DataFrame:
    """What `FOLLOWED` differs in between every two arms that differ in one factor alone, seed by seed.

    table: as `readings` returns it.

    Returns the columns of `studies.grid_differences`; kind has the words of `FOLLOWED`, n what the share is of, and a
    and b are shares, or what is lost of them. Beside them stands beside, the difference of what is lost beyond as many
    random edges; the difference itself where nothing is cut. Raises VlmProbeError as `grid_differences` does, and for
    a run that lacks what another has, or has it twice.
    """
    run = list(table.columns[: table.columns.get_loc("kind")])
    each = {place: own.set_index(run).sort_index() for place, own in table.groupby(["kind", "place"])}
    runs = table.filter(run).drop_duplicates().set_index(run).sort_index().index
    nothing = pd.DataFrame({"n": [], "share": []})
    parts = []
    for words, what in FOLLOWED.items():
        names = [place for place in (what.place, what.less, what.beside) if place is not None]
        at = [each.get((what.kind, place), nothing) for place in names]
        for other in at:
            if not other.index.equals(runs) or not other["n"].equals(at[0]["n"]):
                raise VlmProbeError(f"not every run has one reading for {words!r}; look into them again")
        share, *taken = (one["share"] for one in at)
        lost = share - taken[0] if taken else share
        held = taken[1] - taken[0] if what.beside else lost
        parts.append(at[0].filter(["n"]).assign(accuracy=lost, held=held, kind=words).reset_index())
    scores = pd.concat(parts, ignore_index=True).rename(columns={"arm": "cell", "pretrained": "connector_pretrained"})
    held = grid_differences(scores.assign(accuracy=scores["held"]))
    return grid_differences(scores).assign(beside=held["difference"])


def effects_followed(effects: pd.DataFrame, differences: pd.DataFrame) -> pd.DataFrame:
    """What goes with every effect that is decided: the same two arms in what `FOLLOWED` names.

    effects: of answers, as `studies.grid_effects` returns them. differences: as `reading_differences` returns them.

    Returns the columns of `grid_effects`, a row a decided effect (of all question types together) and words of
    `FOLLOWED`, in their order, which are in kind; none of arms that were looked into in fewer than `FEWEST_RUNS` seeds,
    which `attrs["left_out"]` names. The row "answers" is the effect itself, of its own seeds; the others are of those
    that were looked into, and p_holm is corrected over them, but for what no seed differs in ("equivalent" is not
    corrected). Where the effect was decided by chance, what answers hang on was drawn with it and is called too often.
    """
    key = ["factor", "first", "second", "split"]
    called = effects["verdict"].isin([str(one) for one in Verdict if one.decided])
    decided = effects.loc[called & (effects["kind"] == "all")]
    pairs, answers = decided.filter(key), next(iter(FOLLOWED))
    seeds = pairs.merge(differences.groupby(key)["seed"].nunique().reset_index(), on=key, how="left").fillna(0)
    few = seeds.loc[seeds["seed"] < FEWEST_RUNS]
    own = differences.merge(seeds.loc[seeds["seed"] >= FEWEST_RUNS, key], on=key)
    # Arms that share an encoder are not asked whether they differ in it.
    own = own.assign(shared=(own["difference"] == 0).groupby([own[name] for name in (*key, "kind")]).transform("all"))
    places = pd.concat(
        [grid_effects(part, margin=MARGIN, family=key) for _, part in own.loc[own["kind"] != answers].groupby("shared")]
        or [effects.iloc[:0]]
    )
    looked = decided.merge(own.filter(key).drop_duplicates(), on=key).assign(kind=answers)
    table = pd.concat([looked, places], ignore_index=True) if len(looked) else places
    order = pairs.merge(pd.DataFrame({"kind": [*FOLLOWED]}), how="cross")
    table = order.merge(table, on=[*key, "kind"])[[*table.columns]]
    left_out = [
        f"{row['first']} to {row['second']}, {row['split']}: {row['seed']:.0f} seeds looked into, {FEWEST_RUNS} do"
        for row in few.to_dict("records")
    ]
    table.attrs = {**differences.attrs, "method": METHOD, "left_out": left_out}
    return table


METHOD = (
    "paired by seed; 95 % interval by Student's t over seeds; p by Holm over what one decided effect is followed by; "
    "what is lost without attention is decided where it is also beyond what as many random edges cost"
)
