"""S4: by which route does the image reach the answer?

Attention is cut from the question to the image, from the answer position to the image, and from the answer position to
the question, in windows of layers and in all of them; beside each as many edges that were drawn at random. Random edges
of so many lie between patches for the most part, and are needed themselves; and what the question hands on is its own
words above all, picture or none. So the claims are about the two routes from the image, cut at the patches of the
object asked about, and beside it at those of another object. What is looked at is whether another token is said than
without a knockout, right or not: probabilities would make a model that is unsure look as if nothing reached it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd

from vlm_probe.causal.knockout import ROUTES, knockout_sweep
from vlm_probe.errors import VlmProbeError
from vlm_probe.evidence import Claim, Described, PairedMean, Tables, summarize
from vlm_probe.findings.finding import SHARES, FigureOf, Finding, Section, Shown, TableOf
from vlm_probe.findings.shared import Shared, about
from vlm_probe.hooked import HookedVLM
from vlm_probe.items import Item

LEAST = 30
"""Images that decide at least: most answers do not change."""
WINDOWS = 7
"""Of layers at most: of a deep model every so-manieth."""
SHARE = 0.05
"""Of answers: one in twenty."""
THROUGH, DIRECT, BOTH, ON = "image to question", "image to answer", "image to both", "question to answer"


def _pictured(items: Sequence[Item]) -> list[Item]:
    return [item for item in items if item.source is not None]


def routes_of(
    model: HookedVLM, items: Sequence[Item], *, shared: Shared | None = None, seed: int = 0
) -> dict[str, pd.DataFrame]:
    """How often an answer changes when a route is cut, item by item.

    Changed: 1 where another first token is said than without a knockout.

    Returns three tables. routes: `shared.about`, route, changed and random (of as many random edges), all layers cut.
    objects: the same for the routes from the image, of items with boxes and another object: asked (cut at the patches
    of the object asked about) and other (at those of another). windows: as routes, by window, with first and last;
    empty of a model of one layer.

    Raises VlmProbeError for a model without an encoder, and items without pictures.
    """
    if model.vision_config is None:
        raise VlmProbeError(f"{model.name} is a language model without an encoder: no image reaches its answer")
    asked = _pictured(items)
    if not asked:
        raise VlmProbeError(f"it needs {FINDING.wants}; there is none among the {len(items)} given")
    ask = (shared or Shared(model, items)).question
    worded = [replace(item, question=ask(item)) for item in asked]
    swept = _swept(model, worded, seed, most=WINDOWS)
    keys = ["id", "route", "first", "last"]
    wide = swept.assign(flipped=swept["flipped"].astype(float)).pivot(index=keys, columns="control", values="flipped")
    table = wide.rename(columns={False: "changed", True: "random"}).reset_index()
    table.columns.name = None
    known = about(asked)
    whole = table["last"] - table["first"] + 1 == model.layers["language"]
    return {
        "routes": known.merge(table.loc[whole].drop(columns=["first", "last"]), on="id"),
        "objects": _at_objects(model, worded, known, seed),
        "windows": known.merge(table.loc[~whole], on="id"),
    }


def _swept(model: HookedVLM, items: Sequence[Item], seed: int, **given: object) -> pd.DataFrame:
    """Raises VlmProbeError for an item that cannot be asked: whoever measures names it, and goes on without."""
    swept = knockout_sweep(model, items, own=True, seed=seed, **given)  # pyright: ignore[reportArgumentType]
    if swept.attrs["left_out"]:
        raise VlmProbeError(swept.attrs["left_out"][0])
    return swept


AT_OBJECTS = {route: (ROUTES[route][0], "box") for route in (THROUGH, DIRECT, BOTH)}


def _at_objects(model: HookedVLM, items: Sequence[Item], known: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The routes from the image cut at one object's patches: the asked one's, and another's."""
    both = [item for item in items if 0 < len(item.boxes) <= len(item.others)]
    if not both:
        return known.iloc[:0].assign(route="", asked=0.0, other=0.0)
    parts = []
    others = [replace(item, boxes=item.others[: len(item.boxes)]) for item in both]
    for column, of in (("asked", both), ("other", others)):
        swept = _swept(model, of, seed, routes=AT_OBJECTS, window=model.layers["language"], control=False)
        parts.append(pd.DataFrame({"id": swept["id"], "route": swept["route"], column: swept["flipped"].astype(float)}))
    return known.merge(parts[0].merge(parts[1], on=["id", "route"]), on="id")


_WORDS = {
    THROUGH: "from the patches of the object asked about to the question",
    DIRECT: "from the patches of the object asked about straight to the answer position",
    BOTH: "from the patches of the object asked about to question and answer position",
}
_OTHER = "another object's patches"


def _claims() -> tuple[Claim, ...]:
    found = []
    for route, words in _WORDS.items():
        name = route.replace(" ", "_")
        statistic = PairedMean("objects", "asked", "other", f"route == '{route}'", right_or_wrong=True)
        found.append(
            Claim(
                name,
                f"{{model}}: attention {words} carries its answer (share of answers that change when it is cut)",
                statistic,
                control=_OTHER,
                unit="images",
                margin=SHARE,
                least=LEAST,
            )
        )
        found.append(
            Claim(
                f"{name}_more",
                f"attention {words} carries {{second}}'s answers more than {{first}}'s (beyond {_OTHER})",
                statistic,
                control="the same in {first}",
                unit="images",
                of="pair",
                margin=SHARE,
                least=LEAST,
            )
        )
    for route in ROUTES:
        found.append(
            Claim(
                f"{route.replace(' ', '_')}_whole",
                f"{{model}}: share of answers that change when all attention from {route} is cut",
                Described("routes", "changed", "random", f"route == '{route}'"),
                control="as many random edges",
                unit="items",
                descriptive=True,
            )
        )
    return tuple(found)


def shown(measured: Mapping[str, Tables], items: Sequence[Item]) -> Shown:
    """Tables routes (means with intervals) and windows (by layer); a sentence a model."""
    parts, along, said = [], [], []
    for model, tables in measured.items():
        named = {name: table.assign(model=model) for name, table in tables.items()}
        for route in AT_OBJECTS:
            own = named["objects"].query("route == @route")
            for column, words in (("asked", "the asked object's patches"), ("other", "another object's")):
                if len(own):
                    parts.append(summarize(own, [column], ["model"]).assign(measure=f"{route}: {words}"))
        for route in ROUTES:
            own = named["routes"].query("route == @route")
            for column, words in (("changed", route), ("random", f"{route}: random edges")):
                parts.append(summarize(own, [column], ["model"]).assign(measure=words))
        for column, control in (("changed", False), ("random", True)):
            mean = summarize(named["windows"], [column], ["model", "route", "first", "last"])
            along.append(mean.assign(control=control))
        whole = tables["routes"]
        share = {route: float(whole.loc[whole["route"] == route, "changed"].mean()) for route in ROUTES}
        said.append(
            f"{model} says something else for {share[THROUGH]:.0%} of items without attention from the image to the "
            f"question, {share[DIRECT]:.0%} without attention from the image to the answer position, "
            f"{share[BOTH]:.0%} without either, {share[ON]:.0%} without attention from the question to the "
            "answer position."
        )
    windows = pd.concat(along, ignore_index=True)
    windows["layer"] = (windows["first"] + windows["last"]) / 2
    return Shown(tables={"routes": pd.concat(parts, ignore_index=True), "windows": windows}, summary=said)


FINDING = Finding(
    id="S4",
    question="By which route does the image reach the answer?",
    explains="size",
    claims=_claims(),
    measure=routes_of,
    picks=_pictured,
    wants="items with pictures",
    shown=shown,
    methods=(
        "Attention knockout (Geva et al. 2023, arXiv:2304.14767; on vision-language models Zhang et al. 2024, "
        "arXiv:2411.18620): scores of the cut edges are masked before the softmax, in windows of a quarter of the "
        f"layers ({WINDOWS} at most, spread evenly) and in all layers together. Changed: whether another first token "
        "is said than without a knockout. Question: its tokens and the template's behind it, without the last "
        "position. {n} items.",
        "Claims: the two routes from the image cut at the patches of the object asked about, beside those of as many "
        "other objects of the scene. Differences: Student's t and sign flips over images, Holm over the claims.",
        "Beside whole routes, without a test: for every item as many edges, drawn at random (seed {seed}) among those "
        "that positions of the same prompt look along and the route does not hold, of the same queries as far as they "
        "look at as much else.",
    ),
    caveats=(
        "A route that changes nothing when it is cut alone may still be taken: what one does not bring another may.",
        "What the question hands to the answer position is its own words above all: cutting it changes answers to a "
        "blank picture as well. Where the image's part of it stands is told by patching twins (S5).",
        "Random edges of so large a set as image to question lie between patches for the most part, and are needed "
        "themselves: that they change more answers than a route does not say that nothing takes it.",
        "Boxes cover patches of the background, are not of one size, and may share some.",
    ),
    sections=(
        Section(
            "Answers that change when a route is cut",
            (
                FigureOf(
                    "routes",
                    "measures_by_model",
                    "routes",
                    "Share of items for which another token is said when attention along a route is cut in all layers: "
                    "at one object's patches, whole, and as many random edges; 95 % bootstrap intervals over items.",
                    "answers that change when routes are cut",
                    {"title": "Which attention does the answer rest on?", "label": "share of answers that change"},
                    says="Attention from the object's patches carries the answer",
                    claims=("image_to_both",),
                ),
                FigureOf(
                    "windows",
                    "changes_by_window",
                    "windows",
                    "The same by windows of layers, each drawn at its middle.",
                    "answers that change when routes are cut, by layer",
                ),
                TableOf("routes", SHARES),
            ),
        ),
    ),
)
