"""E1: do two encoders encode different things?

What a linear probe finds in what the connector reads, beside a random encoder and six numbers of the pixels; and how
alike two encoders are (CKA), beside two seeds of one encoder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from safetensors.torch import load_file

from vlm_probe.embedding.encoder import encoded
from vlm_probe.embedding.features import scene_labels
from vlm_probe.embedding.probe import STRENGTHS
from vlm_probe.errors import VlmProbeError
from vlm_probe.evidence import Claim, OfAllRows, PairedMean, Tables, summarize
from vlm_probe.findings.finding import FigureOf, Finding, Section, Shown, TableOf
from vlm_probe.findings.held_out import FOLDS, OfProbes, probed
from vlm_probe.findings.likeness import (
    between,
    between_others,
    between_random,
    expected,
    expected_of_others,
    likeness,
    vectors,
)
from vlm_probe.findings.probed import POOL_OF
from vlm_probe.findings.shared import Shared, about, clusters_of
from vlm_probe.hooked import HookedVLM
from vlm_probe.hooked.anatomy import one_encoder
from vlm_probe.hooked.untrained import MARK, with_encoder, with_random_encoder
from vlm_probe.items import Item
from vlm_probe.zoo.replicas import second_encoder

LABELS = tuple(POOL_OF)
HELD_OUT = {"color": "shape", "shape": "color", "position": "object"}
"""Label -> what is held out whole, so that a probe never saw the kind of object (colour and shape) it is asked about.
Count and existence are of whole scenes, which share kinds: there images are held out."""
ALONG = 12
"""Points along the encoder that are probed at most, for the figures."""
ONE_STRENGTH = (1.0,)
"""Inverse regularisation of the probes along the encoder."""
LEAST, LEAST_COMPARED = 60, 30
"""Images that decide at least: of probes, and of CKA."""


def another_seed(model: HookedVLM) -> HookedVLM | None:
    """The model with an encoder of the same recipe and another seed; None where none is at hand.

    Replicas have one that was trained; the recipe of an untrained copy's encoder is to draw it, so another is drawn.
    """
    name = str(model.name)
    if name.endswith(MARK):
        return with_random_encoder(model, seed=2)
    file = second_encoder(name.removeprefix("replica/")) if name.startswith("replica/") else None
    return None if file is None else with_encoder(model, load_file(file), words="second encoder")


def _picked(items: Sequence[Item]) -> list[Item]:
    """One item an image, of twins one, with a box where there is one: an encoder sees no question."""
    found: dict[str, Item] = {}
    pictured = [item for item in items if item.source is not None]
    for item, cluster in sorted(zip(pictured, clusters_of(pictured), strict=True), key=lambda one: not one[0].boxes):
        found.setdefault(cluster, item)
    once = {item.image: item for item in reversed(found.values())}
    kept = {item.id for item in once.values()}
    return [item for item in items if item.id in kept]


def _points(model: HookedVLM) -> list[str]:
    """The encoder's residual streams up to what the connector reads, evenly fewer where there are many."""
    every = ["vision.hook_embed", *(f"vision.blocks.{i}.hook_resid_post" for i in range(model.vision_layers_read))]
    at = np.unique(np.linspace(0, len(every) - 1, min(ALONG, len(every))).round().astype(int))
    return [every[i] for i in at]


def _labels(item: Item) -> dict[str, str]:
    """What is true of an item's image: of generated scenes all, of others what the answer to the question says."""
    if known := scene_labels(item):
        return known
    named = item.kind in ("color", "shape") and len(item.boxes) == 1
    return {item.kind: item.answer} if named else {}


def encodings(
    model: HookedVLM, items: Sequence[Item], *, shared: Shared | None = None, seed: int = 0
) -> dict[str, pd.DataFrame]:
    """What one model's encoder holds, and what it makes of each image; the language model does not run.

    Returns
    -------
    probes: a row an item; for every label L the columns L (whether a probe of what the connector reads has it right
        while the item is held out), L_random (of a random encoder), L_pixels (of `pixel_numbers`) and L_common (whether
        the most frequent label is right). NaN where an item has no such label.
    encoders: a row an item; features, random, random_again and seed: the mean over patches of what the connector
        reads, of two random encoders, and of another seed of the same recipe (empty where there is none).
    layers: a row an item and point of the encoder; features (mean over patches), and for every label whether a probe
        has it right.

    Raises VlmProbeError for a model without an encoder.
    """
    if model.vision_config is None:
        raise VlmProbeError(f"{model.name} is a language model without an encoder, and E1 is about encoders")
    one_encoder(model, "E1")
    shared = shared or Shared(model, items)
    points = _points(model)
    own, pixels = encoded(model, items, points)
    bare, _ = encoded(shared.random_encoder, items, points[-1:])
    other = another_seed(model)
    again = with_random_encoder(model, seed=1)
    more = {
        name: np.zeros((len(items), 0)) if one is None else encoded(one, items, points[-1:])[0]["mean"][0]
        for name, one in (("random_again", again), ("seed", other))
    }
    base = about(items)
    labels = pd.DataFrame([{**dict.fromkeys((*LABELS, "object"), ""), **_labels(item)} for item in items])
    columns, along = {}, {}
    images = base["image"].to_numpy(dtype=str)
    for label, pool in POOL_OF.items():
        held_out = labels[HELD_OUT[label]].to_numpy(dtype=str) if label in HELD_OUT else np.full(len(items), "")
        given = (labels[label].to_numpy(dtype=str), held_out, images)
        views = {"": own[pool][-1], "random": bare[pool][0], "pixels": pixels[pool]}
        columns |= {f"{label}_{name}".rstrip("_"): right for name, right in probed(views, *given, seed=seed).items()}
        right = probed({"": own[pool]}, *given, seed=seed, strengths=ONE_STRENGTH)[""]
        along[label] = right.ravel()
    features = {"features": own["mean"][-1], "random": bare["mean"][0], **more}
    layers = pd.concat([base.assign(point=point) for point in points], ignore_index=True)
    return {
        "probes": base.assign(**columns),
        "encoders": base.assign(**{name: _lists(rows) for name, rows in features.items()}),
        "layers": layers.assign(features=_lists(np.concatenate(own["mean"])), **along),
    }


def _lists(rows: np.ndarray) -> list[list[float]]:
    return rows.astype(float).tolist()


SENSE = {"color": "the color", "shape": "the shape", "position": "the position", "count": "how many objects there are"}
SENSE["existence"] = "whether anything is red"
"""Label -> what a probe is asked for, in words."""
SHARE = 0.05
"""One image in twenty: of fewer, no model would be chosen for what its encoder holds."""
CKA_MARGIN = 0.1
"""Twice what another seed moves the CKA of the two shipped recipes by."""


def _claims() -> tuple[Claim, ...]:
    found = []
    controls = {"random": "a random encoder", "pixels": "mean and spread of the same pixels' color channels"}
    for label, sense in SENSE.items():
        for name, words in controls.items():
            found.append(
                Claim(
                    f"{label}_{name}",
                    f"what {{model}}'s connector reads holds {sense}, for a linear probe, better than {words}",
                    OfProbes(PairedMean("probes", label, f"{label}_{name}", right_or_wrong=True)),
                    control=f"the same probe of {words}",
                    unit="images",
                    margin=SHARE,
                    least=LEAST,
                )
            )
        found.append(
            Claim(
                f"{label}_more",
                f"what {{second}}'s connector reads holds {sense}, for a linear probe, better than {{first}}'s",
                OfProbes(PairedMean("probes", label, right_or_wrong=True)),
                control="the same probe of {first}",
                unit="images",
                of="pair",
                margin=SHARE,
                least=LEAST,
            )
        )
    seeds: dict[str, Any] = {"unit": "images", "of": "pair", "margin": CKA_MARGIN, "least": LEAST_COMPARED}
    found.append(
        Claim(
            "recipes_again",
            "other seeds of {first}'s and {second}'s recipes are less alike than two seeds of {second}'s, by more "
            "than before training (CKA)",
            OfAllRows("encoders", between_others, expected_of_others),
            control="two seeds of {second}'s recipe, less what the architectures differ by untrained",
            more=False,
            **seeds,
        )
    )
    found.append(
        Claim(
            "recipes",
            "{first}'s and {second}'s encoders are less alike than two seeds of {first}'s recipe, by more than "
            "before training (CKA)",
            OfAllRows("encoders", between, expected),
            control="two seeds of {first}'s recipe, less what the architectures differ by untrained",
            more=False,
            requires=("recipes_again",),
            **seeds,
        )
    )
    found.append(
        Claim(
            "cka",
            "how alike {first}'s and {second}'s encoders are (CKA)",
            OfAllRows("encoders", between, between_random),
            control="random encoders of their architectures",
            unit="images",
            of="pair",
            descriptive=True,
        )
    )
    return tuple(found)


def _long(tables: Tables, name: str, columns: Mapping[str, str]) -> pd.DataFrame:
    """A label's columns below one another: a row an item (and point) and label. columns: ending -> new name."""
    table, parts = tables[name], []
    for label in LABELS:
        own = {new: table[f"{label}{ending}"] for ending, new in columns.items()}
        parts.append(table.filter(["point"]).assign(label=label, **own).dropna())
    return pd.concat(parts, ignore_index=True)


def _words(point: str) -> str:
    block = point.removeprefix("vision.blocks.").partition(".")[0]
    return f"layer {block}" if block.isdigit() else "embedding"


def shown(measured: Mapping[str, Tables], items: Sequence[Item]) -> Shown:
    """Tables probes and along (a probe's accuracy, at what the connector reads and along the encoder), encoders and
    layers (CKA); a sentence a model."""
    endings = {"": "right", "_random": "random", "_pixels": "pixels", "_common": "common"}
    long = {model: _long(tables, "probes", endings) for model, tables in measured.items()}
    every = pd.concat([rows.assign(model=model) for model, rows in long.items()], ignore_index=True)
    along = pd.concat(
        [_long(tables, "layers", {"": "right"}).assign(model=model) for model, tables in measured.items()],
        ignore_index=True,
    )
    others = every.groupby(["model", "label"], sort=False, as_index=False)
    controls = pd.DataFrame(others[["random", "pixels", "common"]].mean())
    probes = summarize(every, ["right"], ["model", "label"]).merge(controls, on=["model", "label"])
    by_point = summarize(along, ["right"], ["model", "label", "point"]).merge(controls, on=["model", "label"])
    encoders: dict[str, pd.Series] = {}
    layers: dict[str, dict[str, pd.Series]] = {}
    for model, tables in measured.items():
        whole = tables["encoders"]
        for column, words in (("features", ""), ("seed", ", another seed"), ("random", ", random")):
            if len(whole) and len(whole[column].iloc[0]):
                encoders[f"{model}{words}"] = vectors(whole, column)
        by = tables["layers"].groupby("point", sort=False)
        layers[model] = {f"{model} {_words(str(point))}": vectors(own) for point, own in by}
    first, *rest = layers.values()
    # One model's layers are compared with themselves.
    below = {name: own for one in rest or [first] for name, own in one.items()}
    tables = {
        "probes": probes,
        "along": by_point,
        "encoders": likeness(encoders, encoders),
        "layers": likeness(below, first),
    }
    return Shown(tables=tables, summary=[_sentence(model, probes, measured[model]["encoders"]) for model in measured])


def _sentence(model: str, probes: pd.DataFrame, encoders: pd.DataFrame) -> str:
    own = probes.query("model == @model").to_dict("records")
    found = [f"{SENSE[r['label']]} in {r['mean']:.1%} (random encoder {r['random']:.1%})" for r in own]
    said = (
        f"Of what {model}'s connector reads a linear probe finds {'; '.join(found)}."
        if found
        else (f"No label of these images is known, so nothing was probed in {model}'s encoder.")
    )
    if not len(encoders) or not len(encoders["seed"].iloc[0]):
        said += " No second encoder of its recipe is at hand, so how unlike another model's it is (CKA) is not judged."
    return said


FINDING = Finding(
    id="E1",
    question="Do two encoders encode different things?",
    explains="encoder",
    claims=_claims(),
    measure=encodings,
    picks=_picked,
    wants="items with images",
    shown=shown,
    methods=(
        "Probes (Alain and Bengio 2017, arXiv:1610.01644): logistic regression of a label on what the connector "
        "reads, which is the residual stream behind the last encoder layer that is read, without CLS and registers: "
        "averaged over the patches of the object asked about, by how much of each its box covers (color, shape, "
        "position), or over all patches (count, existence). Features are standardised; C is one of "
        f"{', '.join(f'{s:g}' for s in STRENGTHS)}, chosen inside the training part.",
        "Held out are whole shapes for the color, whole colors for the shape and kinds of object (color and shape) "
        "for the position, so that no kind stands on both sides of a split; for the rest, and where kinds are not "
        "known, "
        f"images in {FOLDS} parts. Holding out kinds for colors and shapes would not do: a probe that finds the color "
        "learns that it goes with every shape but one, and is wrong more often the better it finds it.",
        "Intervals of differences between two probes: Student's t over images, with the variance times 1 + k / (k - "
        "1) "
        f"for k = {FOLDS} parts (Nadeau and Bengio 2003), since what the probes of all parts were trained on is mostly "
        "the same; without it, two encodings that hold a label alike are told apart too often, with however many "
        "images.",
        "Controls of a probe: the same probe of the same architecture with random weights, and of six numbers, the "
        "mean and spread of the color channels over the same patches of the pixel tensor that the encoder was given.",
        "CKA, with K and L the Gram matrices of the images' mean patches: HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) "
        "(Kornblith et al. 2019, arXiv:1905.00414, equation 4), with the unbiased HSIC (Nguyen et al. 2021, "
        "arXiv:2010.15327, equation 3). Difference of two CKAs of the same images: delete-a-group jackknife (Tukey "
        "1958), Student's t; both are computed anew without each group, so that what they share cancels.",
        "Control of CKA: another seed of the same recipe, which no replica sees through, less what CKA loses "
        "between the two architectures with random weights: CKA(A, A') - CKA(RA, RA') + CKA(RA, RB), where A' is "
        "the other seed and R stands for random weights. It must hold against the two seeds of the first model's "
        "recipe, and again for the other seeds of both recipes against the two of the second's.",
        "Items: one an image, and of twins one. Seed {seed}.",
    ),
    caveats=(
        "What a linear probe finds need not be used, and what it misses may be there in another form.",
        "Two seeds of a recipe are one draw of how far apart its seeds are: the interval counts images, not seeds. "
        "A recipe whose encoders differ much from seed to seed could be told from itself by one pair of them, which "
        "is why other seeds must show the same.",
        "Where no second encoder of a recipe is at hand, as for all models but replicas, CKA is not judged.",
        "Position, of the mean over a box: a probe may read which patches were averaged from position embeddings, "
        "and a random encoder has those too.",
    ),
    sections=(
        Section(
            "What a linear probe finds",
            (
                FigureOf(
                    "probes",
                    "probes_with_controls",
                    "probes",
                    "Share of images of which a linear probe of what the connector reads has the label right while "
                    "its kind of object is held out. Upright, in the model's color: the same probe of a random "
                    "encoder. Grey: of six numbers of the pixels, and the most frequent label.",
                    "accuracy of linear probes by label",
                    says="A linear probe finds more than in a random encoder",
                    claims=("*_random",),
                ),
                TableOf(
                    "probes",
                    {
                        "model": "model",
                        "label": "label",
                        "mean": "share right",
                        "low": "95 % from",
                        "high": "to",
                        "random": "random encoder",
                        "pixels": "six numbers of the pixels",
                        "common": "most frequent label",
                        "n": "n",
                    },
                ),
                *(
                    FigureOf(
                        f"probe_{label}",
                        "probe_along_encoder",
                        "along",
                        f"Share of images of which a linear probe finds {SENSE[label]}, along the encoder (C is "
                        f"{ONE_STRENGTH[0]:g} throughout). Dotted: a random encoder, where the connector reads it.",
                        f"accuracy of probes of the {label} along the encoder",
                        given={"label": label, "title": f"Does a linear probe find {SENSE[label]}?"},
                        says=f"A linear probe finds {SENSE[label]} better than in a random encoder",
                        claims=(f"{label}_random",),
                    )
                    for label in LABELS
                ),
            ),
        ),
        Section(
            "How alike they are",
            (
                FigureOf(
                    "cka",
                    "likeness",
                    "encoders",
                    "CKA of what connectors read, between encoders, other seeds of their recipes and random encoders.",
                    "CKA between encoders",
                    {"title": "How alike are the encoders? CKA (linear, debiased)"},
                    says="Two recipes give less like encoders than two seeds of one",
                    claims=("recipes",),
                ),
                FigureOf(
                    "cka_layers",
                    "likeness",
                    "layers",
                    "CKA between the layers of the first model's encoder (columns) and the others'.",
                    "CKA between layers of encoders",
                    {"title": "How alike are their layers? CKA (linear, debiased)"},
                ),
            ),
        ),
    ),
)
