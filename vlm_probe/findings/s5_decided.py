"""S5: where is the answer decided?

Of twins, whose images differ in what is asked, one's activations are patched into the other's run. At the answer
position that hands over the answer once it is there; at the patches of the boxes, as long as the image is still needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd

from vlm_probe.causal.patching import RESIDUAL, patch_sweep
from vlm_probe.errors import VlmProbeError
from vlm_probe.evidence import Claim, Described, PairedMean, Tables, summarize
from vlm_probe.evidence.estimate import Estimate
from vlm_probe.findings.finding import SHARES, FigureOf, Finding, Section, Shown, TableOf
from vlm_probe.findings.shared import Shared, about, clusters_of
from vlm_probe.hooked import HookedVLM
from vlm_probe.items import Item, twins_among

LEAST = 20
"""Pairs of twins that decide at least."""
DEPTH = 0.05
"""Of a model's layers: a twentieth."""
EFFECT = 0.1
"""Of the other twin's answer: a tenth."""
HALF = 0.5
QUESTION = "(question | tail) & ~answer"
EMBED = "language.hook_embed"


def _picked(items: Sequence[Item]) -> list[Item]:
    kept = {item.id for pair in twins_among(items) for item in pair if all(one.boxes for one in pair)}
    return [item for item in items if item.id in kept]


def crossing(effects: np.ndarray, *, upward: bool) -> float:
    """Behind which share of the layers effects are beyond a half, and stay so: whole layers, nothing between them.

    effects: behind no layer, behind the first, ..., behind the last. Upward: the first behind which they are above a
    half from there on (1: behind the last alone, where there is nothing but the answer). Else the last behind which
    they are still a half or more (0: at what enters the first); NaN where they are below from the start.

    >>> crossing(np.array([0.0, 0.25, 0.75, 1.0, 1.0]), upward=True)
    0.5
    >>> crossing(np.array([1.0, 0.75, 0.5, 0.25, 0.0]), upward=False)
    0.5
    """
    values, depth = np.asarray(effects, dtype=float), len(effects) - 1
    if upward:
        below = np.flatnonzero(values < HALF)
        return min(float(below[-1] + 1), depth) / depth if len(below) else 0.0
    above = np.flatnonzero(values >= HALF)
    return float(above[-1]) / depth if values[0] >= HALF else float("nan")


@dataclass(frozen=True)
class Later:
    """By how much the second model's depth is beyond the first's, whatever the steps in which depth comes.

    Of a model of few layers a depth is known to a layer: as sure as the less sure of two differences, in which one
    model's depth is taken a layer earlier (an intersection-union test, Berger 1982).
    """

    column: str

    def __call__(self, tables: Sequence[Tables]) -> Estimate:
        first, second = (table["decided"] for table in tables)
        both = [self._of(first, second.assign(**{self.column: second[self.column] - second["step"]}))]
        both.append(self._of(first.assign(**{self.column: first[self.column] - first["step"]}), second))
        plain, (low, high) = self._of(first, second), both
        p = max(low.p, high.p)
        return replace(plain, low=min(low.low, high.low), high=max(low.high, high.high), p=p)

    def _of(self, first: pd.DataFrame, second: pd.DataFrame) -> Estimate:
        return PairedMean("decided", self.column)([{"decided": first}, {"decided": second}])


def where_decided(
    model: HookedVLM, items: Sequence[Item], *, shared: Shared | None = None, seed: int = 0
) -> dict[str, pd.DataFrame]:
    """At which depth the answer stands at the answer position, and from which on the image is no longer needed.

    Returns two tables. decided, a row a pair both of whose twins are answered right: `shared.about` of the first twin
    (id: its group; cluster: of both twins), answer (share of the layers behind which patching the answer position gives
    half of the other twin's answer, and from there on), image (the last share behind which patching the boxes still
    does; NaN where it never does), random_image (the same of as many random patches, 0 where it never does), step (one
    layer, as a share), before_last (the effect at the answer position behind the layer before the last), question (the
    largest effect behind any layer of patching the question's positions, the template's behind them among them) and
    random_question. layers: id, positions, control, layer (0: what enters the first), depth, effect.

    Raises VlmProbeError for a model without an encoder, items without twins, and where no pair is answered right.
    """
    if model.vision_config is None:
        raise VlmProbeError(f"{model.name} is a language model without an encoder: it sees no twins apart")
    pairs = twins_among(_picked(items))
    if not pairs:
        raise VlmProbeError(f"it needs {FINDING.wants}; there is none among the {len(items)} given")
    ask = (shared or Shared(model, items)).question
    worded = [tuple(replace(item, question=ask(item)) for item in pair) for pair in pairs]
    groups = ["answer", "box", QUESTION]
    table = patch_sweep(
        model, [(one, two) for one, two in worded], points=[EMBED, RESIDUAL], positions=groups, seed=seed
    )
    depth = model.layers["language"]
    table["layer"] = table["layer"] + 1  # -1 is what enters the first
    table["depth"] = table["layer"] / depth
    kept = ("id", "positions", "control", "layer", "depth", "effect")
    layers = table.drop(columns=[name for name in table if name not in kept])
    courses = {
        key: rows.sort_values("layer")["effect"].to_numpy(dtype=float)
        for key, rows in layers.groupby(["id", "positions", "control"])
    }
    flat = [item for pair in pairs for item in pair]
    cluster = dict(zip((item.id for item in flat), clusters_of(flat), strict=True))
    first = {pair[0].group: pair[0] for pair in pairs}
    names = list(dict.fromkeys(layers["id"]))
    decided = about([first[name] for name in names]).assign(
        id=names, cluster=[cluster[first[name].id] for name in names], step=1 / depth
    )

    def each(positions: str, control: bool, take: Callable[[np.ndarray], float]) -> list[float]:
        found = (courses.get((name, positions, control)) for name in names)
        return [float("nan") if course is None else take(course) for course in found]

    decided["answer"] = each("answer", False, partial(crossing, upward=True))
    decided["image"] = each("box", False, partial(crossing, upward=False))
    random = pd.Series(each("box", True, partial(crossing, upward=False)))
    decided["random_image"] = random.fillna(0.0)
    decided["before_last"] = each("answer", False, lambda course: float(course[-2]))
    decided["question"], decided["random_question"] = (each(QUESTION, control, np.max) for control in (False, True))
    return {"decided": decided, "layers": layers.reset_index(drop=True)}


CLAIMS = (
    Claim(
        "before_last",
        "{model}: its answer stands at the answer position before the last layer: patching it there hands over more "
        "than half of the other twin's",
        PairedMean("decided", "before_last", HALF),
        control="one half",
        unit="pairs of twins",
        margin=EFFECT,
        least=LEAST,
        untrained=False,
    ),
    Claim(
        "image",
        "{model}: what differs in the image is needed from the patches that show it behind the first layers, not where "
        "it enters alone (a share of the layers)",
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
        Later("answer"),
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
        Later("image"),
        control="the depth in {first}",
        unit="pairs of twins",
        of="pair",
        margin=DEPTH,
        least=LEAST,
        untrained=False,
    ),
    Claim(
        "question",
        "{model}: most that the question's positions ever hold of what differs in the image (largest effect of "
        "patching them behind any layer)",
        Described("decided", "question", "random_question"),
        control="as many random positions",
        unit="pairs of twins",
        descriptive=True,
    ),
)

_MEASURES = {
    "answer": "answer stands at the answer position",
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
    explains="size",
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
        "Depth: behind how many layers the effect is beyond a half and stays so, whole layers, as a share of all. Of "
        "models of few layers that is known to a layer only: a pair is decided where it is with either's depth taken a "
        "layer earlier. Control: as many random patches, seed {seed}. Differences: Student's t and sign flips over "
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
                    says="The fact is needed from its patches behind the first layers",
                    claims=("image",),
                ),
                FigureOf(
                    "depths",
                    "measures_by_model",
                    "depths",
                    "Depths at which the effect crosses a half; 95 % bootstrap intervals over pairs.",
                    "depths at which the answer is decided",
                    {"title": "Where is the answer decided?", "label": "depth (share of the layers)"},
                    says="The answer stands before the last layer",
                    claims=("before_last",),
                ),
                TableOf("depths", {**SHARES, "mean": "depth"}),
            ),
        ),
    ),
)
