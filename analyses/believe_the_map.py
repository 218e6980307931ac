"""Can a heat map be believed? Every map over patches, beside maps that know nothing of the question.

    python analyses/believe_the_map.py
    python analyses/believe_the_map.py --models Intel/llava-gemma-2b --n 100 --batch-size 64

Every model is asked about generated scenes, and maps of its own answers are scored (`attention.faithfulness`). Whether
a right map goes with a right answer is asked of more scenes, of kinds that training left out: of the others nearly
all answers are right.

Writes to figures/: believe_the_map.csv (every map against every baseline), believe_the_map_scores.csv (every score's
mean), believe_the_map_answers.csv (right map x right answer), and for every model believe_the_map_<model>_deletion,
_insertion, _answers and _example as .png and .svg.
"""

from __future__ import annotations

from itertools import islice
from typing import Literal

import numpy as np
import pandas as pd
from command import disclaim, each_model, options, run, write_table

from vlm_probe.attention import BASELINES, MAPS, faithfulness
from vlm_probe.attention.faithfulness import asked_word
from vlm_probe.evidence import holm, summarize, wilson
from vlm_probe.evidence.estimate import paired
from vlm_probe.figures import save
from vlm_probe.figures.faithfulness import maps_beyond_random, right_map_right_answer
from vlm_probe.figures.grids import case_panels
from vlm_probe.findings.shared import about
from vlm_probe.hooked import HookedVLM
from vlm_probe.items import Item
from vlm_probe.running.evaluation import evaluate
from vlm_probe.scenes import scene_items

BETTER = {"deletion_area": -1, "insertion_area": 1}
"""Score -> the sign of what is good."""
AGAINST = ("random", *BASELINES, "another item")
AREA = {
    "deletion_area": "area under deletion,\nrandom map's less the map's",
    "insertion_area": "area under insertion,\nthe map's less random map's",
}
"""In probability; to the right is better than random."""


def scenes(n: int, split: Literal["heldout", "novel"], seed: int) -> list[Item]:
    """Scenes of which an object is asked about, and hold another."""
    every = scene_items(8 * n, split=split, seed=seed)
    return list(islice((item for item in every if item.boxes and item.others), n))


def by_map(scores: pd.DataFrame, score: str) -> pd.DataFrame:
    """One score, a row an item and a column a (map, of)."""
    own = scores.loc[scores["score"] == score]
    return own.pivot(index="id", columns=["map", "of"], values="value")


def against_baselines(scores: pd.DataFrame, clusters: dict[str, str], seed: int) -> pd.DataFrame:
    """Every map against every baseline, item by item: above 0 the map is better.

    Holm over all of them, but for maps of another picture, which are controls themselves and beat nothing.
    """
    rows = []
    for score, sign in BETTER.items():
        wide = by_map(scores, score)
        places = np.asarray([clusters[str(name)] for name in wide.index])
        for name, of in wide.columns:
            for against in AGAINST:
                control = (name, "another item") if against == "another item" else (against, "this item")
                if name == "random" or control == (name, of) or control not in wide:
                    continue
                found = paired(sign * wide[name, of].to_numpy(), sign * wide[control].to_numpy(), places, seed=seed)
                rows.append({"map": name, "of": of, "score": score, "against": against, **vars(found)})
    table = pd.DataFrame(rows)
    own = table["of"] == "this item"
    table.loc[own, "p_holm"] = holm(table.loc[own, "p"].tolist())
    table["beats"] = (table["low"] > 0) & (table["p_holm"] < 0.05)
    return table


def with_answers(scores: pd.DataFrame, correct: dict[str, bool]) -> pd.DataFrame:
    """Right map x right answer; right is a map of which more, beyond an even one, is on the object than on another."""
    own = scores.loc[scores["of"] == "this item"]
    wide = own.loc[own["score"].isin(["in_box", "in_other"])].pivot(
        index="id", columns=["map", "score"], values="value"
    )
    beyond = {name: wide[name, "in_box"] - wide["even", "in_box"] for name in wide.columns.unique("map")}
    other = {name: wide[name, "in_other"] - wide["even", "in_other"] for name in beyond}
    rows = []
    for name in beyond:
        if name in ("random", "even"):
            continue
        known = beyond[name].notna() & other[name].notna()
        looks = (beyond[name] > other[name])[known]
        right = np.asarray([correct[str(one)] for one in looks.index], dtype=bool)
        for right_map in (True, False):
            some = right[looks.to_numpy() == right_map]
            low, high = wilson(int(some.sum()), len(some)) if len(some) else (np.nan, np.nan)
            share = float(some.mean()) if len(some) else np.nan
            cells = {"right_answers": int(some.sum()), "wrong_answers": int((~some).sum())}
            rows.append(
                {
                    "map": name,
                    "right_map": right_map,
                    **cells,
                    "n": len(some),
                    "accuracy": share,
                    "low": low,
                    "high": high,
                }
            )
    return pd.DataFrame(rows)


def example(model: HookedVLM, item: Item) -> np.ndarray:
    """Every map of one item; what is below 0 is not drawn."""
    inputs, target = asked_word(model, item)
    cases = [
        {
            "image": inputs.images[0][0],
            "map": make(model, inputs, target=target).clip(min=0),
            "boxes": item.boxes,
            "text": name,
        }
        for name, make in {**MAPS, **BASELINES}.items()
    ]
    said = model.token_strings([target])[0].strip()
    return case_panels(cases, title=f"{item.question} {said!r}, by {model.name}", columns=5)


def main() -> None:
    parser = options("Can a heat map be believed?", ("replica/small-clip", "replica/large-clip"), n=60)
    parser.add_argument("--maps", nargs="+", default=list(MAPS), help="of attention.MAPS")
    parser.add_argument("--hard", type=int, default=240, help="scenes of kinds never seen, for right and wrong answers")
    parser.add_argument("--steps", type=int, default=8, help="of deletion and insertion")
    parser.add_argument("--batch-size", type=int, default=32, help="pictures run together")
    arguments = parser.parse_args()
    items = scenes(arguments.n, "heldout", arguments.seed)
    hard = scenes(arguments.hard, "novel", arguments.seed)
    clusters = dict(zip(*(about(items)[name].tolist() for name in ("id", "cluster")), strict=True))
    compared, means, answers = [], [], []
    for model, advance in each_model(arguments, len(items) + len(hard)):
        how = {"suffix": arguments.suffix, "seed": arguments.seed, "batch_size": arguments.batch_size}
        scores = faithfulness(
            model, items, maps=arguments.maps, steps=arguments.steps, noises=2, progress=advance, **how
        )
        print(*scores.attrs["skipped"], sep="\n", end="\n" if scores.attrs["skipped"] else "")
        table = against_baselines(scores, clusters, arguments.seed)
        looked = faithfulness(model, hard, maps=arguments.maps, scores=["boxes"], progress=advance, **how)
        asked = evaluate(model, hard, suffix=arguments.suffix)
        single = scores.loc[scores["share"].isna() & (scores["score"] != "agreement")]
        crossed = with_answers(looked, dict(zip(asked["id"].tolist(), asked["correct"].tolist(), strict=True)))
        short = f"believe_the_map_{str(model.name).replace('/', '-')}"
        for score, label in AREA.items():
            drawn = table.loc[(table["score"] == score) & (table["against"] == "random")]
            figure = maps_beyond_random(drawn, label=label, note=str(model.name))
            print(*save(figure, arguments.out, f"{short}_{score.removesuffix('_area')}", data=drawn), sep="\n")
        print(*save(right_map_right_answer(crossed), arguments.out, f"{short}_answers", data=crossed), sep="\n")
        print(*save(example(model, items[0]), arguments.out, f"{short}_example"), sep="\n")
        named = {"model": str(model.name)}
        compared.append(table.assign(**named))
        means.append(summarize(single, ["value"], ["map", "of", "score"]).assign(**named))
        answers.append(crossed.assign(**named))
        print(f"\n{model.name}: area beyond each baseline (deletion, insertion; * beats it, 5 % after Holm)")
        print(as_text(table).to_string())
    for name, tables in (("", compared), ("_scores", means), ("_answers", answers)):
        write_table(pd.concat(tables, ignore_index=True), arguments.out / f"believe_the_map{name}.csv")
    disclaim(arguments.models)


def as_text(table: pd.DataFrame) -> pd.DataFrame:
    """A row a map and score, a column a baseline."""
    own = table.loc[table["of"] == "this item"]
    cells = [
        f"{difference:+.3f}{'*' if beats else ' '}"
        for difference, beats in zip(own["difference"].tolist(), own["beats"].tolist(), strict=True)
    ]
    wide = own.assign(cell=cells).pivot(index=["score", "map"], columns="against", values="cell")
    return wide.reindex(columns=list(AGAINST)).fillna("")


if __name__ == "__main__":
    run(main)
