"""S1, for one model at a time: does the language model look at the right place?

On items whose boxes are known: the share of the answer position's image attention inside the box,
per layer, and whether relevancy peaks there. Controls: the box's share of the area, and boxes of
other items ("shuffled"), which share the dataset's habits (objects are rarely at the border) but
not the scene. Attention sinks are reported apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from vlm_probe.evidence.intervals import bootstrap_mean, summarize, verdict
from vlm_probe.hooked import HookedVLM
from vlm_probe.hooked.targets import target_token
from vlm_probe.items import Item
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
        by_item = self.layers.pivot_table(index="id", values=["in_box", "in_shuffled_box"]).reindex(
            boxed["id"].tolist()
        )
        pairs = [
            ("relevancy peaks inside the box", boxed["points"], boxed["points_shuffled"]),
            ("relevancy lies inside the box", boxed["relevancy_in_box"], boxed["relevancy_in_shuffled_box"]),
            (
                "attention (mean over layers and heads) lies inside the box",
                by_item["in_box"],
                by_item["in_shuffled_box"],
            ),
        ]
        rows = []
        for claim, value, control in pairs:
            values, controls = value.to_numpy(dtype=float), control.to_numpy(dtype=float)
            both = ~np.isnan(values - controls)
            values, controls, n = values[both], controls[both], int(both.sum())
            mean, low, high = bootstrap_mean(values - controls)
            name = self.items["model"].iloc[0]
            rows.append((name, claim, n, _mean(values), _mean(controls), mean, low, high, verdict(mean, low, high)))
        columns = ["model", "claim", "n", "value", "control", "difference", "low", "high", "verdict"]
        return pd.DataFrame(rows, columns=columns)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")


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
                "id": item.id, "layer": int(layer), "image_mass": float(summary["image_mass"][i]),
                "sink_mass": float(summary["sink_mass"][i]), "in_box": in_box[i], "in_box_without_sinks": clear[i],
            }
            for i, layer in enumerate(attention.layer)
        ]  # fmt: skip
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
