"""S5: where is the answer decided?

Of twins, whose images differ in what is asked, one's activations are patched into the other's run. At the answer
position that hands over the answer once it is there; at the patches of the boxes, as long as the image is still needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from vlm_probe.causal.patching import RESIDUAL, patch_sweep
from vlm_probe.errors import VlmProbeError
from vlm_probe.evidence import Claim, PairedMean, Tables, summarize
from vlm_probe.findings.finding import SHARES, FigureOf, Finding, Section, Shown, TableOf
from vlm_probe.findings.shared import Shared, about
from vlm_probe.hooked import HookedVLM
from vlm_probe.items import Item, twins_among

LEAST = 20
"""Pairs of twins that decide at least."""
DEPTH = 0.05
"""Of a model's layers: a twentieth."""
HALF = 0.5
EMBED = "language.hook_embed"


def _picked(items: Sequence[Item]) -> list[Item]:
    kept = {item.id for pair in twins_among(items) for item in pair if all(one.boxes for one in pair)}
    return [item for item in items if item.id in kept]


def crossing(effects: np.ndarray, *, upward: bool) -> float:
    """At which depth effects reach a half, and stay: between 0 (what enters the first layer) and 1 (behind the last).

    effects: behind no layer, behind the first, ..., behind the last. Between layers a straight line is taken. Upward:
    the last crossing from below; else the last from above (0 where a half is never reached).

    >>> crossing(np.array([0.0, 0.25, 0.75, 1.0, 1.0]), upward=True)
    0.375
    """
    values = np.asarray(effects, dtype=float)
    values = values if upward else 1 - values
    below = np.flatnonzero(values < HALF)
    if len(below) == 0:
        return 0.0
    last = int(below[-1])
    if last == len(values) - 1:
        return 1.0
    low, high = values[last], values[last + 1]
    return float((last + (HALF - low) / (high - low)) / (len(values) - 1))


def where_decided(
    model: HookedVLM, items: Sequence[Item], *, shared: Shared | None = None, seed: int = 0
) -> dict[str, pd.DataFrame]:
    """At which depth the answer stands at the answer position, and from which on the image is no longer needed.

    Returns two tables. decided, a row a pair both of whose twins are answered right: `shared.about` of the first twin
    (id: its group), answer (depth from which patching the answer position gives more than half of the other twin's
    answer), image (depth from which patching the boxes gives less than half), random_answer and random_image (the same
    of as many random positions; 1 and 0 where a half is never reached). layers: id, positions, control, layer (0: what
    enters the first), depth, effect.

    Raises VlmProbeError for a model without an encoder, items without twins, and where no pair is answered right.
    """
    if model.vision_config is None:
        raise VlmProbeError(f"{model.name} is a language model without an encoder: it sees no twins apart")
    pairs = twins_among(_picked(items))
    if not pairs:
        raise VlmProbeError(f"it needs {FINDING.wants}; there is none among the {len(items)} given")
    ask = (shared or Shared(model, items)).question
    worded = [tuple(replace(item, question=ask(item)) for item in pair) for pair in pairs]
    table = patch_sweep(
        model, [(one, two) for one, two in worded], points=[EMBED, RESIDUAL], positions=["answer", "box"], seed=seed
    )
    table["layer"] = table["layer"] + 1  # -1 is what enters the first
    table["depth"] = table["layer"] / model.layers["language"]
    kept = ("id", "positions", "control", "layer", "depth", "effect")
    layers = table.drop(columns=[name for name in table if name not in kept])
    first = {pair[0].group: pair[0] for pair in pairs}
    names = list(dict.fromkeys(layers["id"]))
    decided = about([first[name] for name in names]).assign(id=names)
    for column, positions, control in (
        ("answer", "answer", False),
        ("random_answer", "answer", True),
        ("image", "box", False),
        ("random_image", "box", True),
    ):
        own = layers.loc[(layers["positions"] == positions) & (layers["control"] == control)]
        depths = {
            name: crossing(rows.sort_values("layer")["effect"].to_numpy(), upward=positions == "answer")
            for name, rows in own.groupby("id")
        }
        decided[column] = [depths.get(name, float("nan")) for name in names]
    return {"decided": decided, "layers": layers.reset_index(drop=True)}


CLAIMS = (
    Claim(
        "answer",
        "{model}: its answer stands at the answer position before the last layer has run, at lesser depth than as many "
        "random positions would hand it over (a share of the layers)",
        PairedMean("decided", "answer", "random_answer"),
        control="a random position",
        unit="pairs of twins",
        margin=DEPTH,
        least=LEAST,
        more=False,
        untrained=False,
    ),
    Claim(
        "image",
        "{model}: what differs in the image is needed from the patches that show it, and to greater depth than from as "
        "many random patches (a share of the layers)",
        PairedMean("decided", "image", "random_image"),
        control="as many random patches",
        unit="pairs of twins",
        margin=DEPTH,
        least=LEAST,
        untrained=False,
    ),
    Claim(
        "answer_later",
        "{second}'s answer stands at the answer position at greater depth than {first}'s (a share of the layers)",
        PairedMean("decided", "answer"),
        control="the depth in {first}",
        unit="pairs of twins",
        of="pair",
        margin=DEPTH,
        least=LEAST,
        untrained=False,
    ),
    Claim(
        "image_longer",
        "{second} needs the image's patches to greater depth than {first} (a share of the layers)",
        PairedMean("decided", "image"),
        control="the depth in {first}",
        unit="pairs of twins",
        of="pair",
        margin=DEPTH,
        least=LEAST,
        untrained=False,
    ),
)

_MEASURES = {
    "answer": "answer stands at the answer position",
    "random_answer": "at a random position",
    "image": "patches of the boxes needed until",
    "random_image": "random patches needed until",
}


def shown(measured: Mapping[str, Tables], items: Sequence[Item]) -> Shown:
    """Tables depths (means with intervals) and layers (mean effect by layer); a sentence a model."""
    whole = pd.concat([tables["decided"].assign(model=model) for model, tables in measured.items()], ignore_index=True)
    depths = summarize(whole, list(_MEASURES), ["model"])
    said, along = [], []
    for model, tables in measured.items():
        own = depths.query("model == @model").set_index("measure")
        said.append(
            f"{model}: of {int(own.loc['answer', 'n'])} pairs that it answers right, the answer stands at the answer "
            f"position from {own.loc['answer', 'mean']:.0%} of its layers on, and the patches of the boxes are needed "
            f"until {own.loc['image', 'mean']:.0%}."
        )
        rows = tables["layers"].assign(model=model)
        along.append(summarize(rows, ["effect"], ["model", "positions", "control", "layer", "depth"]))
    layers = pd.concat(along, ignore_index=True)
    layers["measure"] = layers["positions"].where(~layers["control"], "as many random, for " + layers["positions"])
    words = [_MEASURES[measure] for measure in depths["measure"].tolist()]
    return Shown(tables={"depths": depths.assign(measure=words), "layers": layers}, summary=said)


FINDING = Finding(
    id="S5",
    question="Where is the answer decided?",
    claims=CLAIMS,
    measure=where_decided,
    picks=_picked,
    wants="twins with boxes (pairs of the family mmvp: two images a group)",
    untrained=False,
    shown=shown,
    methods=(
        "Activation patching between twins, towards the first: the residual stream behind every layer, at the answer "
        "position and at the patches of both twins' boxes, is that of the other twin's run. Effect: the normalised "
        "indirect effect on the logit difference of the two answers (Wang et al. 2022, arXiv:2211.00593; Zhang and "
        "Nanda 2023, arXiv:2309.16042). Pairs of which a twin is not answered right are left out.",
        "Depth: where the effect reaches a half for the last time, layers as steps of a straight line, as a share of "
        "the layers. Control: as many random positions, seed {seed}. Differences: Student's t and sign flips over "
        "pairs, Holm over the claims.",
    ),
    caveats=(
        "Of twins that a model does not tell apart nothing is said: models are compared on pairs both answer right.",
        "Half is a convention; the figure has the whole course.",
        "An untrained copy answers no twins right, so that none is measured beside.",
    ),
    sections=(
        Section(
            "From the image to the answer",
            (
                FigureOf(
                    "layers",
                    "effect_by_layer",
                    "layers",
                    "Effect of patching one twin's residual stream into the other's run: 1 gives the other's answer "
                    "whole. 95 % bootstrap intervals over pairs.",
                    "patching effect by layer",
                ),
                FigureOf(
                    "depths",
                    "measures_by_model",
                    "depths",
                    "Depths at which the effect crosses a half; 95 % bootstrap intervals over pairs.",
                    "depths at which the answer is decided",
                    {"title": "Where is the answer decided?", "label": "depth (share of the layers)"},
                ),
                TableOf("depths", {**SHARES, "mean": "depth"}),
            ),
        ),
    ),
)
