"""S1, for one model at a time: does the language model look at the right place?

On items whose boxes are known: the share of the answer position's image attention inside the box,
per layer, and whether relevancy peaks there. Controls: the box's share of the area, and boxes of
other items ("shuffled"), which share the dataset's habits (objects are rarely at the border) but
not the scene. Attention sinks are reported apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr

from vlm_probe.attention import (
    head_summary,
    image_attention,
    points_at_box,
    relevancy,
    share_in_box,
    sinks,
    union_coverage,
)
from vlm_probe.evidence import Evidence, evidence_table, summarize
from vlm_probe.findings.finding import Cases, CasesOf, FigureOf, Finding, Results, Section, TableOf
from vlm_probe.hooked import HookedVLM
from vlm_probe.hooked.targets import target_token
from vlm_probe.inputs.images import open_image
from vlm_probe.items import Item, accuracy_table
from vlm_probe.layout import TokenLayout, UnitBox
from vlm_probe.running.evaluation import evaluate
from vlm_probe.scenes import Scene, with_baselines
from vlm_probe.trace import Trace

SHUFFLES = 10
"""Boxes of other items that each item is compared with."""


@dataclass
class Looking:
    """What `where_it_looks` measured of one model."""

    items: pd.DataFrame
    """One row an item: the columns of `evaluate` and `with_baselines`, p_answer (probability of the right answer's
    first token), boxes (how many), area, and for items with a box relevancy_in_box and points, each with its
    control from other items' boxes (relevancy_in_shuffled_box, points_shuffled), and points_other (the
    most relevant patch touches another object of the scene; NaN without one)."""
    layers: pd.DataFrame
    """One row an item and layer: image_mass, sink_mass, in_box, in_box_without_sinks,
    in_shuffled_box (the last three NaN for items without a box)."""
    maps: dict[str, xr.DataArray]
    """Relevancy map of every item with a box, by item id."""
    render_size: int

    def layer_means(self) -> pd.DataFrame:
        """Mean and 95 % interval of every measure per layer, and of the box's area (layer -1)."""
        measures = ["image_mass", "sink_mass", "in_box", "in_box_without_sinks", "in_shuffled_box"]
        table = summarize(self.layers, measures, ["model", "layer"])
        area = summarize(self.items.query("area > 0"), ["area"], ["model"])
        return pd.concat([table, area.assign(layer=-1)], ignore_index=True)

    def pointing(self) -> pd.DataFrame:
        """Mean and 95 % interval of the relevancy measures over items with a box."""
        measures = [
            "points",
            "points_other",
            "points_shuffled",
            "relevancy_in_box",
            "relevancy_in_shuffled_box",
            "area",
        ]
        return summarize(self.items.query("area > 0"), measures, ["model"])

    def verdicts(self) -> pd.DataFrame:
        """Each claim with value, control, paired difference, its interval and the verdict.

        Columns model, claim, n, value, control, difference, low, high, verdict.
        """
        boxed = self.items.query("area > 0")
        means = pd.DataFrame(self.layers.groupby("id")[["in_box", "in_shuffled_box"]].mean())
        by_item = means.reindex(boxed["id"].tolist())
        pairs = [
            ("relevancy peaks inside the box", boxed["points"], boxed["points_shuffled"]),
            ("relevancy lies inside the box", boxed["relevancy_in_box"], boxed["relevancy_in_shuffled_box"]),
            (
                "attention (mean over layers and heads) lies inside the box",
                by_item["in_box"],
                by_item["in_shuffled_box"],
            ),
        ]
        images = boxed["image"].to_numpy()
        rows = [
            Evidence.paired(
                "S1",
                claim,
                value.to_numpy(dtype=float),
                control.to_numpy(dtype=float),
                images,
            )
            for claim, value, control in pairs
        ]
        table = evidence_table(rows).drop(columns="hypothesis")
        table.insert(0, "model", self.items["model"].iloc[0])
        return table


def _coverage(boxes: Sequence[UnitBox], layout: TokenLayout) -> np.ndarray | None:
    """Share of every patch that some boxes cover; None without boxes."""
    return union_coverage([layout.box_coverage(box) for box in boxes]) if boxes else None


def _other_boxes(item: Item) -> list[UnitBox]:
    """Boxes of the scene's objects that the item does not ask about."""
    return [o.box for o in item.source.objects if o.box not in item.boxes] if isinstance(item.source, Scene) else []


def where_it_looks(
    model: HookedVLM,
    items: Sequence[Item],
    *,
    progress: Callable[[int], None] | None = None,
    seed: int = 0,
) -> Looking:
    """Measure a model on items with known boxes.

    Parameters
    ----------
    items: from `scene_items`; those without an object to look at count for accuracy and image mass only.
    progress: called with the number of items just done; in all twice the number of items.
    seed: of the shuffled boxes.
    """
    answers = with_baselines(evaluate(model, items, progress=progress), items).drop(columns="p_answer")
    records, layer_rows, maps, coverages, attentions = [], [], {}, {}, {}
    for item in items:
        inputs = model.prepare(model.picture(item), item.question)
        trace = model.trace(inputs, capture=["language.blocks.*.attn.hook_pattern"])
        coverage = _coverage(item.boxes, inputs.layout)
        others = _coverage(_other_boxes(item), inputs.layout)
        probabilities = trace.logits[trace.layout.answer_position].float().softmax(-1)
        right = target_token(model, item.answer, trace.logits[trace.layout.answer_position])
        summary = head_summary(trace).mean("head")
        attention = image_attention(trace).mean("head")
        record = {
            "id": item.id,
            "p_answer": float(probabilities[right]),
            "boxes": len(item.boxes),
            "area": float(coverage.mean()) if coverage is not None else 0.0,
        }
        if coverage is not None:
            # Of the token the model itself gives, right or wrong: the question is where it looked for it.
            map_ = relevancy(model, inputs)
            maps[item.id], coverages[item.id], attentions[item.id] = map_, coverage, attention
            record |= {
                "relevancy_in_box": float(share_in_box(map_, coverage)),
                "points": points_at_box(map_, coverage),
                "points_other": points_at_box(map_, others) if others is not None else float("nan"),
            }
        records.append(record)
        in_box = (
            share_in_box(attention, coverage).values
            if coverage is not None
            else np.full(attention.sizes["layer"], np.nan)
        )
        clear = _without_sinks(trace, attention, coverage)
        layer_rows += [
            {
                "id": item.id,
                "layer": int(layer),
                "image_mass": float(summary["image_mass"][i]),
                "sink_mass": float(summary["sink_mass"][i]),
                "in_box": in_box[i],
                "in_box_without_sinks": clear[i],
            }
            for i, layer in enumerate(attention.layer)
        ]
        if progress is not None:
            progress(1)
    table = answers.merge(pd.DataFrame(records), on="id")
    layers = pd.DataFrame(layer_rows)
    _add_shuffled(table, layers, maps, coverages, attentions, seed)
    layers.insert(0, "model", model.name)
    for frame in (table, layers):
        frame.attrs = {"title": "Where it looks", "split": "held-out scenes", "seed": seed, **model.provenance()}
    return Looking(table, layers, maps, model.image_size)


def _without_sinks(trace: Trace, attention: xr.DataArray, coverage: np.ndarray | None) -> np.ndarray:
    """Per layer, the share of image attention in the box once sink patches are taken out."""
    if coverage is None:
        return np.full(attention.sizes["layer"], np.nan)
    kept = attention.copy(deep=True)
    patches = {int(p): i for i, p in enumerate(trace.layout.image().positions)}
    layers = attention.layer.values.tolist()
    for layer, position in sinks(trace)[["layer", "position"]].itertuples(index=False):
        if position in patches:
            row, col = divmod(patches[position], trace.layout.grid[1])
            kept[layers.index(layer), row, col] = 0.0
    return share_in_box(kept, coverage).values


def _add_shuffled(
    table: pd.DataFrame, layers: pd.DataFrame, maps: dict, coverages: dict, attentions: dict, seed: int
) -> None:
    """Add the shuffled-box controls: the mean over the boxes of `SHUFFLES` other items."""
    ids = list(maps)
    number = dict(zip(table["id"], table["boxes"], strict=True))
    rng = np.random.default_rng(seed)
    columns: dict[str, dict[str, float]] = {"relevancy_in_shuffled_box": {}, "points_shuffled": {}}
    per_layer: dict[tuple[str, int], float] = {}
    for one in ids:
        # Of as many boxes: an item about two objects is compared with other pairs.
        others = [other for other in ids if other != one and number[other] == number[one]]
        picked = [others[i] for i in rng.permutation(len(others))[:SHUFFLES]]
        shuffled = [coverages[other] for other in picked]
        if not shuffled:
            continue
        columns["relevancy_in_shuffled_box"][one] = float(
            np.mean([float(share_in_box(maps[one], c)) for c in shuffled])
        )
        columns["points_shuffled"][one] = float(np.mean([points_at_box(maps[one], c) for c in shuffled]))
        shares = np.mean([share_in_box(attentions[one], c).values for c in shuffled], axis=0)
        per_layer |= {(one, int(layer)): share for layer, share in zip(attentions[one].layer, shares, strict=True)}
    for name, values in columns.items():
        table[name] = [values.get(one, np.nan) for one in table["id"]]
    keys = zip(layers["id"], layers["layer"], strict=True)
    layers["in_shuffled_box"] = [per_layer.get(key, np.nan) for key in keys]


CASES = 8
"""Best and worst cases shown of each model."""


def _cases(name: str, looking: Looking, items: Sequence[Item], *, best: bool) -> Cases:
    """The items whose relevancy lies most (or least) inside their box."""
    boxed = looking.items.query("area > 0")
    chosen = boxed.sort_values("relevancy_in_box", ascending=not best, kind="stable").head(CASES)
    by_id = {item.id: item for item in items}
    panels = []
    for row in chosen.to_dict("records"):
        item = by_id[row["id"]]
        shares = f"{row['relevancy_in_box']:.2f} in the box, area {row['area']:.2f}"
        mark = "right" if row["correct"] else f"wrong, it is {row['truth']}"
        panels.append(
            {
                "image": open_image(item.picture(looking.render_size)),
                "map": looking.maps[row["id"]],
                "boxes": item.boxes,
                "text": f"{row['question']}\n{row['answer'] or '(nothing)'} ({mark})\n{shares}",
            }
        )
    title = f"{name}: relevancy {'most' if best else 'least'} inside the box"
    return Cases(name, "best" if best else "worst", title, panels)


def _sentence(name: str, looking: Looking, accuracy: pd.DataFrame) -> str:
    overall = accuracy.query("model == @name and kind == 'all'").iloc[0]
    pointing = looking.pointing().set_index("measure")
    hit, shuffled = pointing.loc["points"], pointing.loc["points_shuffled"]
    return (
        f"{name} answers {overall['accuracy']:.1%} of {overall['n']} questions right "
        f"[{overall['low']:.1%}, {overall['high']:.1%}]; its most relevant patch is in the right box for "
        f"{hit['mean']:.1%} [{hit['low']:.1%}, {hit['high']:.1%}] of {int(hit['n'])} items with one, in a box "
        f"of another item for {shuffled['mean']:.1%}. A guess that never sees the image is right for "
        f"{overall['blind']:.1%}."
    )


def results(measured: Mapping[str, Looking], items: Sequence[Item]) -> Results:
    """What S1 has to say: tables accuracy, layers, pointing, verdicts and items; best and worst cases."""

    def joined(of: Callable[[Looking], pd.DataFrame]) -> pd.DataFrame:
        return pd.concat([of(looking) for looking in measured.values()], ignore_index=True)

    scores = [accuracy_table(looking.items).assign(model=name) for name, looking in measured.items()]
    accuracy = pd.concat(scores, ignore_index=True)
    accuracy.insert(0, "model", accuracy.pop("model"))
    return Results(
        summary=[_sentence(name, looking, accuracy) for name, looking in measured.items()],
        tables={
            "accuracy": accuracy,
            "layers": joined(Looking.layer_means),
            "pointing": joined(Looking.pointing),
            "verdicts": joined(Looking.verdicts),
            "items": joined(lambda looking: looking.items),
        },
        cases=[_cases(name, looking, items, best=best) for name, looking in measured.items() for best in (True, False)],
    )


FINDING = Finding(
    id="S1",
    title="Where does it look?",
    measure=where_it_looks,
    steps_per_item=2,
    results=results,
    note=(
        "Differences are paired over items, with 95 % intervals by Student's t over images; the control is the same "
        "measure with the boxes of other items."
    ),
    sections=(
        Section(
            "What it gets right",
            (
                FigureOf(
                    "accuracy",
                    "accuracy_by_type",
                    "accuracy",
                    "Accuracy by question type. Dotted: one over the number of possible answers. Solid grey: the most "
                    "frequent answer to the question, image unseen.",
                    "accuracy by question type",
                ),
                TableOf("accuracy"),
            ),
        ),
        Section(
            "Where the answer position looks, layer by layer",
            (
                FigureOf(
                    "box_share",
                    "box_share_by_layer",
                    "layers",
                    "Attention of the last prompt position, mean over heads: of what goes to the image, the share that "
                    "falls inside the box of the object asked about. A map that is even over the image would give the "
                    "box's share of the area.",
                    "share of image attention inside the box by layer",
                ),
                FigureOf(
                    "image_mass",
                    "image_mass_by_layer",
                    "layers",
                    "How much attention goes to the image at all, and how much to attention sinks: positions that "
                    "collect it whatever is asked, named per layer by the attention they receive.",
                    "attention on the image by layer",
                ),
            ),
        ),
        Section(
            "Does relevancy point at the object?",
            (
                FigureOf(
                    "pointing",
                    "pointing_game",
                    "pointing",
                    "Share of items whose most relevant patch touches the box asked about, another object of the same "
                    "scene, or a box of another item.",
                    "pointing game",
                ),
                TableOf("pointing"),
            ),
        ),
        Section(
            "Best and worst cases",
            (
                CasesOf(
                    "best",
                    "Highest share of relevancy inside the box. Outline: the box; colour: relevancy for the given "
                    "answer.",
                    "best cases",
                ),
                CasesOf("worst", "Lowest share of relevancy inside the box.", "worst cases"),
            ),
        ),
    ),
    methods=(
        "Items: {n} generated scenes, split “heldout”, seed {seed}; one question each, types in turn; greedy decoding, "
        "exact match after lower-casing. Every scene shows two coloured shapes together that never stand together in "
        "an image the replicas were trained on; each was seen with others, and text named them all.",
        "Accuracy: 95 % Wilson intervals. Differences: Student's t over images. Other intervals: percentile bootstrap "
        "over items, 2,000 draws. Best blind guess: the most frequent answer to the same question text over 6,000 "
        "training items.",
        "Attention: exact softmax rows of the last prompt position, mean over heads. Sinks: positions that receive "
        "more than five times an even share from all later positions (Xiao et al. 2024, arXiv:2309.17453; deviation: "
        "found by the attention they receive, not assumed to come first).",
        "Relevancy: Chefer et al. 2021, arXiv:2103.15679, equations 5 and 6, for the most probable first token (the "
        "model's own answer under greedy decoding), over the image rows the language model received.",
        "Pointing game: Zhang et al. 2018, arXiv:1608.00507, at patch resolution: the most relevant patch touches the "
        "box.",
        f"Controls: the box's share of the area; the boxes of {SHUFFLES} other items with as many boxes; for the "
        "pointing game also the scene's other objects, which tells looking at the object asked about from looking at "
        "any object.",
        "Items without an object to look at (an absent object, a count of zero) count for accuracy and for attention "
        "on the image only.",
    ),
)
