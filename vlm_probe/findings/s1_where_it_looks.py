"""S1: does the language model look at the right place?

On items whose boxes are known: how much of relevancy, and of the answer position's attention, lies on the object asked
about, against another object of the same scene. Against the background, or boxes of other items, a map that lights up
every object alike would pass, and an untrained model does. Attention sinks are reported apart.
"""

from __future__ import annotations

import random
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from vlm_probe.attention import (
    head_summary,
    image_attention,
    points_at_box,
    relevancy,
    share_in_box,
    sink_positions,
    union_coverage,
)
from vlm_probe.evidence import Claim, PairedMean, Tables, summarize
from vlm_probe.findings.finding import Cases, CasesOf, FigureOf, Finding, Section, Shown, TableOf
from vlm_probe.findings.shared import Shared, about
from vlm_probe.hooked import HookedVLM
from vlm_probe.hooked.targets import target_token
from vlm_probe.inputs.images import open_image
from vlm_probe.inputs.model_inputs import ModelInputs
from vlm_probe.items import Item, accuracy_table
from vlm_probe.layout import TokenLayout, UnitBox
from vlm_probe.running.answer_token import answer_token
from vlm_probe.scenes import with_baselines
from vlm_probe.scenes.items import FAMILY
from vlm_probe.trace import Trace

EDGES = ("left", "right", "top", "bottom")


def _coverages(boxes: Sequence[UnitBox], layout: TokenLayout) -> list[np.ndarray]:
    """Share of every patch that each box covers; boxes outside what the model sees are left out."""
    found = [layout.box_coverage(box) for box in boxes]
    return [coverage for coverage in found if coverage.any()]


def _on(map_: xr.DataArray, coverages: Sequence[np.ndarray]) -> np.ndarray:
    """The share of a map on one object, the mean over several, along what other axes the map has; NaN without one."""
    if not coverages:
        return np.full(map_.isel(row=0, col=0).shape, np.nan)
    # The mean of the shares is the share under the mean coverage.
    return share_in_box(map_, np.mean(coverages, axis=0)).values


def where_it_looks(
    model: HookedVLM, items: Sequence[Item], *, shared: Shared | None = None, seed: int = 0
) -> dict[str, pd.DataFrame]:
    """Where a model looks, item by item.

    Returns three tables. items: the columns of `shared.about` and of answers (question, truth, answer, correct),
    chance and blind (of generated scenes: see `with_baselines`), p_answer (probability of the right answer's first
    token), boxes (how many), area (share of the image they cover), points (whether the most relevant patch is in
    one), and, as means over the objects asked about ("asked") and over those of the scene that are not ("other"):
    points_, relevancy_, attention_ and clear_ (attention without sinks; both means over layers and heads). NaN
    without such a box. And what the claims compare: points_, relevancy_ and attention_ of "asked_more" and
    "rival_more", less what a map that says nothing would give, of the objects asked about and of one of the others,
    drawn by the item's id. Without the first a larger box holds more of any map; and the mean of several others is
    not exchangeable with one object, so that "nothing there" would be skewed. layers: id and layer with image_mass,
    sink_mass, in_box, in_box_without_sinks, in_other_box. maps: id, values (relevancy of every patch, row by row),
    and where the patches' edges are on the picture drawn at `size` pixels (see `ImageSpan.edges`).
    """
    own = shared or Shared(model, items)
    answers = own.answers(items)
    records, layers, maps = [], [], []
    for item, answer in zip(items, answers.to_dict("records"), strict=True):
        inputs = model.prepare(model.picture(item), own.question(item))
        trace = model.trace(inputs, capture=["language.blocks.*.attn.hook_pattern"])
        record, rows, map_ = _one(model, item, inputs, trace, answer, own.sinks)
        records.append(record)
        layers += rows
        if map_ is not None:
            edges = {name: map_.coords[name].values.astype(float).tolist() for name in EDGES}
            maps.append({"id": item.id, "size": model.image_size, "values": map_.values.ravel().tolist(), **edges})
    table = about(items).merge(_scored(answers, items), on="id").merge(pd.DataFrame(records), on="id")
    return {
        "items": table,
        "layers": pd.DataFrame(layers),
        "maps": pd.DataFrame(maps, columns=["id", "size", "values", *EDGES]),
    }


def _one(
    model: HookedVLM, item: Item, inputs: ModelInputs, trace: Trace, answer: Mapping[Hashable, Any], found: pd.DataFrame
) -> tuple[dict[str, object], list[dict[str, object]], xr.DataArray | None]:
    """An item's record, its rows by layer, and the relevancy map where something is known to be looked at."""
    layout = inputs.layout
    asked, other = (_coverages(boxes, layout) for boxes in (item.boxes, item.others))
    logits = trace.logits[trace.layout.answer_position]
    right = target_token(model, item.answer, logits)
    summary = head_summary(trace, sinks=found).mean("head")
    attention = image_attention(trace).mean("head")
    clear = _without_sinks(trace, attention, found)
    whole = union_coverage(asked) if asked else None
    record: dict[str, object] = {
        "id": item.id,
        "p_answer": float(logits.float().softmax(-1)[right]),
        "boxes": len(asked),
        "area": 0.0 if whole is None else float(whole.mean()),
    }
    map_ = None
    if whole is not None:
        map_ = _relevancy(model, inputs, answer)
        record["points"] = points_at_box(map_, whole)
    rival = random.Random(f"S1/{item.id}").sample(other, min(1, len(other)))
    for name, coverages in (("asked_more", asked), ("rival_more", rival)):
        record |= {f"{measure}_{name}": value for measure, value in _beyond(map_, attention, coverages).items()}
    for name, coverages in (("asked", asked), ("other", other)):
        hits = [points_at_box(map_, coverage) for coverage in coverages] if map_ is not None else []
        record[f"points_{name}"] = float(np.mean(hits)) if hits else float("nan")
        record[f"relevancy_{name}"] = float("nan") if map_ is None else float(_on(map_, coverages))
        record[f"attention_{name}"] = float(np.mean(_on(attention, coverages)))
        record[f"clear_{name}"] = float(np.mean(_on(clear, coverages)))
    columns = {
        "image_mass": summary["image_mass"].values,
        "sink_mass": summary["sink_mass"].values,
        "in_box": _on(attention, asked),
        "in_other_box": _on(attention, other),
        "in_box_without_sinks": _on(clear, asked),
    }
    rows: list[dict[str, object]] = [
        {"id": item.id, "layer": int(layer), **{name: float(values[i]) for name, values in columns.items()}}
        for i, layer in enumerate(attention.layer.values)
    ]
    return record, rows, map_


def _beyond(map_: xr.DataArray | None, attention: xr.DataArray, coverages: Sequence[np.ndarray]) -> dict[str, float]:
    """What lies on objects beyond their share of the area, and of the patches that a pointing map can hit."""
    if map_ is None or not coverages:
        return dict.fromkeys(MEASURES, float("nan"))
    area = float(np.mean(coverages))
    hits = [points_at_box(map_, coverage) - float((coverage > 0).mean()) for coverage in coverages]
    on_map, on_attention = float(_on(map_, coverages)), float(np.mean(_on(attention, coverages)))
    return dict(zip(MEASURES, (float(np.mean(hits)), on_map - area, on_attention - area), strict=True))


def _relevancy(model: HookedVLM, inputs: ModelInputs, answer: Mapping[Hashable, Any]) -> xr.DataArray:
    """Relevancy for what the model itself answers, right or wrong: the question is where it looked for it.

    For the token that begins the word that is scored: of "The answer is blue." not "The".
    """
    ids = model.tokenizer(answer["answer"], add_special_tokens=False)["input_ids"]
    first = answer_token(model.tokenizer, ids, answer["normalized"]) if ids else 0
    if first == 0:
        return relevancy(model, inputs)
    return relevancy(model, inputs.with_answer(list(ids[:first])), target=int(ids[first]))


def _without_sinks(trace: Trace, attention: xr.DataArray, found: pd.DataFrame) -> xr.DataArray:
    """Attention with nothing left on patches that are sinks of their layer."""
    kept = attention.copy(deep=True)
    patches = {int(p): i for i, p in enumerate(trace.layout.image().positions)}
    for i, layer in enumerate(attention.layer.values.tolist()):
        for position in sink_positions(found, trace.layout, layer=layer):
            if position in patches:
                row, col = divmod(patches[position], trace.layout.grid[1])
                kept[i, row, col] = 0.0
    return kept


def _scored(answers: pd.DataFrame, items: Sequence[Item]) -> pd.DataFrame:
    """The answers, and for generated scenes what seeing has to beat."""
    plain = [item for item in items if item.family == FAMILY]
    kept = answers.filter(["id", "question", "truth", "answer", "correct"])
    own = answers.loc[answers["id"].isin([item.id for item in plain])]
    bare = with_baselines(pd.DataFrame(own), plain).filter(["id", "chance", "blind"])
    return kept.merge(bare.astype({"blind": float}), on="id", how="left")


def _seen(items: Sequence[Item]) -> list[Item]:
    """All items, if some have a box and another object beside it."""
    return list(items) if any(item.boxes and item.others for item in items) else []


CASES = 8
"""Best and worst cases shown of each model."""


def _cases(name: str, tables: Tables, items: Sequence[Item], *, best: bool) -> Cases:
    """The items whose relevancy lies most (or least) on the object asked about."""
    boxed = tables["items"].query("area > 0")
    chosen = boxed.sort_values("relevancy_asked", ascending=not best, kind="stable").head(CASES)
    by_id = {item.id: item for item in items}
    maps = tables["maps"].set_index("id")
    panels = []
    for row in chosen.to_dict("records"):
        item, map_ = by_id[row["id"]], maps.loc[row["id"]]
        shares = f"{row['relevancy_asked']:.2f} on the object, area {row['area']:.2f}"
        mark = "right" if row["correct"] else f"wrong, it is {row['truth']}"
        panels.append(
            {
                "image": open_image(item.picture(int(map_["size"]))),
                "map": _as_map(map_),
                "boxes": item.boxes,
                "text": f"{row['question']}\n{row['answer'] or '(nothing)'} ({mark})\n{shares}",
            }
        )
    title = f"{name}: relevancy {'most' if best else 'least'} on the object asked about"
    return Cases(name, "best" if best else "worst", title, panels)


def _as_map(row: pd.Series) -> xr.DataArray:
    """A row of the table of maps as the map that it was."""
    coords = {name: ("col" if name in ("left", "right") else "row", np.asarray(row[name])) for name in EDGES}
    return xr.DataArray(
        np.reshape(row["values"], (len(row["top"]), len(row["left"]))), dims=("row", "col"), coords=coords
    )


def _sentence(name: str, accuracy: pd.DataFrame, pointing: pd.DataFrame) -> str:
    overall = accuracy.query("model == @name and kind == 'all'").iloc[0]
    by_measure = pointing.query("model == @name").set_index("measure")
    hit, other = by_measure.loc["points_asked"], by_measure.loc["points_other"]
    return (
        f"{name} answers {overall['accuracy']:.1%} of {overall['n']} questions right [{overall['low']:.1%}, "
        f"{overall['high']:.1%}]; its most relevant patch is on an object asked about for {hit['mean']:.1%} "
        f"[{hit['low']:.1%}, {hit['high']:.1%}] of {int(hit['n'])} items with one, on another object of the same "
        f"scene for {other['mean']:.1%}."
    )


POINTING = ("points_asked", "points_other", "relevancy_asked", "relevancy_other", "attention_asked", "attention_other")
BY_LAYER = ("image_mass", "sink_mass", "in_box", "in_box_without_sinks", "in_other_box")


def shown(measured: Mapping[str, Tables], items: Sequence[Item]) -> Shown:
    """Tables accuracy, layers, pointing and items; a sentence a model; best and worst cases."""
    whole = {
        name: pd.concat([tables[name].assign(model=model) for model, tables in measured.items()], ignore_index=True)
        for name in ("items", "layers")
    }
    boxed = whole["items"].query("area > 0")
    area = summarize(boxed, ["area"], ["model"]).assign(layer=-1)
    layers = pd.concat([summarize(whole["layers"], list(BY_LAYER), ["model", "layer"]), area], ignore_index=True)
    pointing = summarize(boxed, [*POINTING, "area"], ["model"])
    scores = [accuracy_table(tables["items"]).assign(model=model) for model, tables in measured.items()]
    accuracy = pd.concat(scores, ignore_index=True)
    accuracy.insert(0, "model", accuracy.pop("model"))
    return Shown(
        tables={"accuracy": accuracy, "layers": layers, "pointing": pointing, "items": whole["items"]},
        summary=[_sentence(model, accuracy, pointing) for model in measured],
        cases=[_cases(name, tables, items, best=best) for name, tables in measured.items() for best in (True, False)],
    )


MEASURES = {
    "points": ("the most relevant patch is on", 0.05),
    "relevancy": ("relevancy lies on", 0.02),
    "attention": ("attention (mean over layers and heads) lies on", 0.02),
}
"""Column -> what it says, and the smallest difference that would matter: a share of items, or of a map's mass."""


def _claims() -> tuple[Claim, ...]:
    found = []
    for name, (words, margin) in MEASURES.items():
        # Hits are 0 or 1 less a little: where hardly any item differs, the interval must not close.
        statistic = PairedMean("items", f"{name}_asked_more", f"{name}_rival_more", right_or_wrong=name == "points")
        other = "another object of the same scene"
        found.append(
            Claim(
                name,
                f"{{model}}: {words} the object asked about, beyond its area, rather than {other}",
                statistic,
                control=other,
                unit="images",
                margin=margin,
            )
        )
        found.append(
            Claim(
                f"{name}_more",
                f"{{second}}: {words} the object asked about (beyond its area, less {other}) more than in {{first}}",
                statistic,
                control="the same difference in {first}",
                unit="images",
                of="pair",
                margin=margin,
            )
        )
    return tuple(found)


FINDING = Finding(
    id="S1",
    question="Does the language model look at the right place?",
    explains="size",
    claims=_claims(),
    measure=where_it_looks,
    picks=_seen,
    wants="items with boxes of what they ask about and of another object (generated scenes; `others` in an item file)",
    itemwise=True,
    shown=shown,
    caveats=(
        "A map says where a model looked, not whether it needed to: what changes when the object is taken away is "
        "asked elsewhere.",
        "Another object of the scene is as conspicuous as the one asked about; what neither is, such as a border, is "
        "not controlled.",
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
                    "Attention of the last prompt position, mean over heads: of what goes to the image, the share in "
                    "the box of the object asked about, and of another one. An even map has the box's share of area.",
                    "share of image attention inside the box by layer",
                    says="Attention lies on the object asked about",
                    claims=("attention",),
                ),
                FigureOf(
                    "image_mass",
                    "image_mass_by_layer",
                    "layers",
                    "Attention on the image at all, and on sinks: positions that collect it whatever is asked.",
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
                    "Share of objects, asked about or not, that the most relevant patch touches.",
                    "pointing game",
                    says="The most relevant patch is on the object asked about",
                    claims=("points",),
                ),
                TableOf("pointing"),
            ),
        ),
        Section(
            "Best and worst cases",
            (
                CasesOf(
                    "best",
                    "Highest share of relevancy on the object asked about. Outline: its box; colour: relevancy for the "
                    "given answer, every map on a scale of its own that ends at its highest patch (the number).",
                    "best cases",
                ),
                CasesOf("worst", "The same, of the lowest share of relevancy on the object.", "worst cases"),
            ),
        ),
    ),
    methods=(
        "Items: {n}, of generated scenes those of the split “heldout”, seed {seed}; greedy decoding. Every held-out "
        "scene shows two coloured shapes together that never stand together in an image the replicas were trained on; "
        "each was seen with others, and text named them all.",
        "Accuracy: 95 % Wilson intervals. Differences: Student's t and sign flips over images, Holm over the claims. "
        "Other intervals: percentile bootstrap over items, 2,000 draws. Best blind guess: the most frequent answer to "
        "the same question text over 6,000 training items.",
        "Attention: exact softmax rows of the last prompt position, mean over heads. Sinks: positions before the "
        "question that receive more than five times an even share of attention from the question on, in 90 % of "
        "prompts about different images (Xiao et al. 2024, arXiv:2309.17453; deviation: found by the attention they "
        "receive, not assumed to come first).",
        "Relevancy: Chefer et al. 2021, arXiv:2103.15679, equations 5 and 6, for the token that begins the word "
        "that is scored of the model's own answer, over the image rows the language model received.",
        "Pointing game: Zhang et al. 2018, arXiv:1608.00507, at patch resolution: the most relevant patch touches the "
        "box.",
        "Control: another object of the same scene, one that is drawn where there are several; of either the share of "
        "the map less the share of the area (of the pointing game: of the patches) that its box covers, which is what "
        "an even map would give. A map that lights up every object alike shows no difference, and neither does an "
        "untrained copy. The figures show shares as they are, and means over all other objects.",
        "Items without an object to look at (an absent object, a count of zero) count for accuracy and for attention "
        "on the image only.",
    ),
)
