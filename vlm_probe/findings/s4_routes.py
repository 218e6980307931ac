"""S4: by which route does the image reach the answer?

Attention is cut from the question to the image, from the answer position to the image, and from the answer position to
the question, in windows of layers and in all of them; beside each as many edges that were drawn at random. Random edges
of so many lie between patches for the most part, and are needed themselves: so the two routes from the image are also
cut at the patches of the object asked about, and beside it at those of another object. What is looked at is the token
the model itself says, right or not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from vlm_probe.causal.knockout import ROUTES, knockout_sweep
from vlm_probe.errors import VlmProbeError
from vlm_probe.evidence import Claim, PairedMean, Tables, summarize
from vlm_probe.findings.finding import SHARES, FigureOf, Finding, Section, Shown, TableOf
from vlm_probe.findings.shared import Shared, about
from vlm_probe.hooked import HookedVLM
from vlm_probe.items import Item

LEAST = 30
"""Images that decide at least: most answers lose next to nothing, a few nearly all."""
COST = 0.05
"""Of a probability: a twentieth."""
DEPTH = 0.05
"""Of a model's layers: a twentieth."""
THROUGH, DIRECT, ON = "image to question", "image to answer", "question to answer"


def _pictured(items: Sequence[Item]) -> list[Item]:
    return [item for item in items if item.source is not None]


def routes_of(
    model: HookedVLM, items: Sequence[Item], *, shared: Shared | None = None, seed: int = 0
) -> dict[str, pd.DataFrame]:
    """What each route costs the answer when it is cut, item by item.

    Cost: how much of its probability the token loses that the model says without a knockout.

    Returns four tables. routes: `shared.about`, route, cost and random (of as many random edges), all layers cut.
    objects: the same for the routes from the image, of items with boxes and another object: asked (cut at the patches
    of the object asked about) and other (at those of another). windows: as routes, by window, with first, last and
    depth (its middle, a share of the layers). flow: `shared.about`, through and on: the mean depth of image-to-question
    and question-to-answer, weighted by what their windows cost (NaN where none costs anything).

    Raises VlmProbeError for a model without an encoder, and items without pictures.
    """
    if model.vision_config is None:
        raise VlmProbeError(f"{model.name} is a language model without an encoder: no image reaches its answer")
    asked = _pictured(items)
    if not asked:
        raise VlmProbeError(f"it needs {FINDING.wants}; there is none among the {len(items)} given")
    ask = (shared or Shared(model, items)).question
    worded = [replace(item, question=ask(item)) for item in asked]
    swept = knockout_sweep(model, worded, own=True, seed=seed)
    if swept.attrs["left_out"]:
        raise VlmProbeError(swept.attrs["left_out"][0])
    keys = ["id", "route", "first", "last"]
    cost = -swept.pivot(index=keys, columns="control", values="change")
    table = cost.rename(columns={False: "cost", True: "random"}).reset_index()
    table.columns.name = None
    depth = model.layers["language"]
    table["depth"] = (table["first"] + table["last"] + 1) / (2 * depth)
    whole = table["last"] - table["first"] + 1 == depth
    known = about(asked)
    windows = known.merge(table.loc[~whole], on="id")
    flow = known.assign(through=_depths(windows, known, THROUGH), on=_depths(windows, known, ON))
    routes = known.merge(table.loc[whole].drop(columns=["first", "last", "depth"]), on="id")
    return {"routes": routes, "objects": _at_objects(model, worded, known, seed), "windows": windows, "flow": flow}


def _at_objects(model: HookedVLM, items: Sequence[Item], known: pd.DataFrame, seed: int) -> pd.DataFrame:
    """What the routes from the image cost when they are cut at one object's patches: the asked one's, and another's."""
    both = [item for item in items if 0 < len(item.boxes) <= len(item.others)]
    costs = []
    for column, of in (
        ("asked", both),
        ("other", [replace(item, boxes=item.others[: len(item.boxes)]) for item in both]),
    ):
        if of:
            depth = model.layers["language"]
            swept = knockout_sweep(model, of, routes=AT_OBJECTS, window=depth, control=False, own=True, seed=seed)
            costs.append(pd.DataFrame({"id": swept["id"], "route": swept["route"], column: -swept["change"]}))
    if not costs:
        return known.iloc[:0].assign(route="", asked=0.0, other=0.0)
    return known.merge(costs[0].merge(costs[1], on=["id", "route"]), on="id")


def _depths(windows: pd.DataFrame, known: pd.DataFrame, route: str) -> np.ndarray:
    """By item, the mean depth of a route's windows, weighted by what they cost."""
    found = {}
    for name, rows in windows.loc[windows["route"] == route].groupby("id"):
        weight, depth = rows["cost"].to_numpy(dtype=float).clip(min=0), rows["depth"].to_numpy(dtype=float)
        # A cost of rounding alone has no place.
        found[name] = float((weight * depth).sum() / weight.sum()) if weight.sum() > 1e-3 else float("nan")
    return np.asarray([found.get(name, float("nan")) for name in known["id"]])


AT_OBJECTS = {THROUGH: (ROUTES[THROUGH][0], "box"), DIRECT: (ROUTES[DIRECT][0], "box")}

_WORDS = {
    THROUGH: "from the image to the question",
    DIRECT: "from the image straight to the answer position",
    ON: "from the question to the answer position",
}


def _claims() -> tuple[Claim, ...]:
    found = []
    for route, words in _WORDS.items():
        name, of = route.replace(" ", "_"), f"route == '{route}'"
        if route in AT_OBJECTS:
            # Losses are next to nothing or nearly all, so that an interval of few that differ must not close.
            statistic = PairedMean("objects", "asked", "other", of, right_or_wrong=True)
            control = "another object's patches"
            words = words.replace("the image", "the patches of the object asked about")
        else:
            statistic = PairedMean("routes", "cost", "random", of, right_or_wrong=True)
            control = "as many random edges"
        found.append(
            Claim(
                name,
                f"{{model}}: attention {words} carries its answer (probability lost when it is cut in all layers)",
                statistic,
                control=control,
                unit="images",
                margin=COST,
                least=LEAST,
            )
        )
        found.append(
            Claim(
                f"{name}_more",
                f"attention {words} carries {{second}}'s answers more than {{first}}'s (beyond {control})",
                statistic,
                control="the same in {first}",
                unit="images",
                of="pair",
                margin=COST,
                least=LEAST,
            )
        )
    found.append(
        Claim(
            "early_then_late",
            "{model}: the image reaches the question in earlier layers than the question reaches the answer (mean "
            "depth, a share of the layers)",
            PairedMean("flow", "on", "through"),
            control="the depth of image to question",
            unit="images",
            margin=DEPTH,
            least=LEAST,
            requires=(THROUGH.replace(" ", "_"), ON.replace(" ", "_")),
        )
    )
    return tuple(found)


def shown(measured: Mapping[str, Tables], items: Sequence[Item]) -> Shown:
    """Tables routes (means with intervals) and windows (by depth); a sentence a model."""
    parts, along, said = [], [], []
    for model, tables in measured.items():
        whole, sliding = tables["routes"], tables["windows"]
        for route in AT_OBJECTS:
            own = tables["objects"].query("route == @route").assign(model=model)
            for column, words in (("asked", "the asked object's patches"), ("other", "another object's")):
                parts.append(summarize(own, [column], ["model"]).assign(measure=f"{route}: {words}"))
        for route in ROUTES:
            own = whole.loc[whole["route"] == route]
            for column, words in (("cost", route), ("random", f"{route}: random edges")):
                parts.append(summarize(own.assign(model=model), [column], ["model"]).assign(measure=words))
            for (first, last), rows in sliding.loc[sliding["route"] == route].groupby(["first", "last"]):
                for column, control in (("cost", False), ("random", True)):
                    mean = summarize(rows.assign(model=model), [column], ["model"])
                    along.append(mean.assign(route=route, control=control, first=first, last=last))
        cost = {route: float(whole.loc[whole["route"] == route, "cost"].mean()) for route in ROUTES}
        said.append(
            f"{model} loses {cost[THROUGH]:.2f} of its answer's probability without attention {_WORDS[THROUGH]}, "
            f"{cost[DIRECT]:.2f} without that {_WORDS[DIRECT]}, {cost[ON]:.2f} without that {_WORDS[ON]}; of what the "
            f"image gives by either way {cost['image to both']:.2f}."
        )
    routes, windows = pd.concat(parts, ignore_index=True), pd.concat(along, ignore_index=True)
    windows["layer"] = (windows["first"] + windows["last"]) / 2
    windows["measure"] = windows["route"].where(~windows["control"], "random edges, " + windows["route"])
    return Shown(tables={"routes": routes, "windows": windows}, summary=said)


FINDING = Finding(
    id="S4",
    question="By which route does the image reach the answer?",
    claims=_claims(),
    measure=routes_of,
    picks=_pictured,
    wants="items with pictures",
    shown=shown,
    methods=(
        "Attention knockout (Geva et al. 2023, arXiv:2304.14767; on vision-language models Zhang et al. 2024, "
        "arXiv:2411.18620): scores of the cut edges are masked before the softmax, in windows of a quarter of the "
        "layers and in all layers together. Cost: how much of its probability the first token loses that the model "
        "says without a knockout. Question: its tokens and the template's behind it, without the last position. {n} "
        "items.",
        "Control: for every item and route as many edges, drawn at random (seed {seed}) among those that positions of "
        "the same prompt look along and the route does not hold, cut in the same layers. Of the two routes from the "
        "image the claims rest on the harder one: cut at the patches of the object asked about, beside those of as "
        "many other objects of the scene. Differences: Student's t and "
        "sign flips over images, Holm over the claims.",
        "Depth: the middle of a window as a share of the layers, its mean weighted by what the windows cost, by item.",
    ),
    caveats=(
        "A route that costs nothing when it is cut alone may still be taken: what one does not bring another may.",
        "Random edges of so large a set as image to question lie between patches for the most part, and cost something "
        "themselves: that a whole route costs less than they do does not say that nothing takes it.",
        "Boxes cover patches of the background, and may share some.",
        "Cutting every edge to a set of positions also shifts all attention to the others.",
    ),
    sections=(
        Section(
            "What the answer loses when a route is cut",
            (
                FigureOf(
                    "routes",
                    "measures_by_model",
                    "routes",
                    "Probability that the answer loses when attention along a route is cut in all layers, and when as "
                    "many random edges are; 95 % bootstrap intervals over items.",
                    "cost of cutting routes",
                    {
                        "title": "What does the answer lose when attention is cut?",
                        "label": "loss of the answer's probability",
                        "shares": False,
                    },
                ),
                FigureOf(
                    "windows",
                    "cost_by_window",
                    "windows",
                    "The same by windows of layers, each drawn at its middle.",
                    "cost of cutting routes by layer",
                ),
                TableOf("routes", {**SHARES, "mean": "loss"}),
            ),
        ),
    ),
)
