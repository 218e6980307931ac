"""What attention sinks are good for: what the answer loses without them.

Xiao et al. 2024 (arXiv:2309.17453) found that language models break without the first tokens' keys, Kang et al. 2025
(arXiv:2503.03321) that image patches which are sinks can be done without. `ablate_sinks` asks a model, in two ways, and
takes as many random positions of the same kind away beside.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd
from jaxtyping import Int

from vlm_probe.causal.branching import Branches
from vlm_probe.causal.interventions import Intervention, Knockout, Replace
from vlm_probe.causal.mean_rows import kinds_of, mean_rows, spread
from vlm_probe.causal.outcomes import Sought
from vlm_probe.causal.planning import Row
from vlm_probe.causal.sweeping import Able, beside, check_item, prepared
from vlm_probe.errors import VlmProbeError
from vlm_probe.hooked import HookedVLM
from vlm_probe.items import Item
from vlm_probe.layout import TokenLayout
from vlm_probe.settings import SEED

SinksGiven = pd.DataFrame | Mapping[int, Sequence[int]] | Sequence[int]
"""Sinks: what `attention.find_sinks` gives, or positions in a prompt without padding, by layer or of all alike."""


def ablate_sinks(
    model: HookedVLM,
    items: Sequence[Item],
    sinks: SinksGiven,
    *,
    control: bool = True,
    batch_size: int = 8,
    seed: int = SEED,
    suffix: str = "",
    progress: Callable[[int], None] | None = None,
) -> pd.DataFrame:
    """Take attention sinks away, and see what the answer loses.

    Parameters
    ----------
    items: with pictures.
    sinks: what `attention.find_sinks` found, or positions in a prompt without padding, by layer or for all layers.
    control: also take as many random positions of the same kind (patches, registers, text before the answer) that are
        no sinks; an item that has not as many goes without.
    suffix: appended to every question.
    progress: called with the number of items just done.

    Returns
    -------
    One row an item, way and control. Columns: id, image, way ("knockout": in the layers where they are sinks no other
    position looks at them; "mean": the residual stream that enters these layers is there the mean, over all items, of
    positions of that kind that are no sinks), control, positions (how many), probability, probability_before,
    change, logit_difference, logit_difference_before, change_logit, flipped, right, right_before (`sweeping.beside`).
    `attrs["left_out"]`: items that could not be used, with the reason.

    Raises VlmProbeError without a sink, for sinks of several images, and where no item is left.
    """
    depth = model.layers["language"]
    able, tables = Able(items, partial(_check_sinks, model, sinks, suffix), batch_size), []

    def labels(layout: TokenLayout, layer: int) -> np.ndarray:
        own = rough_kinds(layout)
        own[sorted({position for some in sinks_in(sinks, layout, depth).values() for position in some})] = -1
        return own

    first = prepared(model, next(able.each())[0][:1], suffix).layout
    names = {layer: f"language.blocks.{layer}.hook_resid_pre" for layer in sinks_in(sinks, first, depth)}
    batches = (prepared(model, batch, suffix) for batch, _ in able.each())
    means = mean_rows(model, batches, list(names.values()), labels, 3)
    for batch, _ in able.each(progress):
        branches = Branches(model, prepared(model, batch, suffix))
        layouts = branches.inputs.layouts
        sources = {layer: spread(means[name], layouts, rough_kinds, name) for layer, name in names.items()}
        rows: list[Row] = []
        about = []
        for number, item in enumerate(batch):
            own = sinks_in(sinks, layouts[number], depth)
            rng = np.random.default_rng([seed, *item.id.encode()])
            for random, places in (
                (False, own),
                (True, random_instead(own, layouts[number], rng) if control else None),
            ):
                if places is None:
                    continue
                count = len({position for some in places.values() for position in some})
                for way, done in (
                    ("knockout", _unseen(places, layouts[number])),
                    ("mean", [Replace(names[layer], some, sources[layer]) for layer, some in places.items()]),
                ):
                    about.append((item.id, item.image, way, random, count, number))
                    rows.append((number, done))
        table = pd.DataFrame(about, columns=["id", "image", "way", "control", "positions", "example"])
        tables.append(beside(table, branches.run(rows), branches.logits, [Sought.of(model, item) for item in batch]))
    table = pd.concat(tables, ignore_index=True)
    citation = "Kang et al. 2025, arXiv:2503.03321"
    able.describe(table, model, title="attention sinks removed", units="logits", citation=citation, seed=seed)
    return table


def sinks_in(sinks: SinksGiven, layout: TokenLayout, depth: int) -> dict[int, list[int]]:
    """Where sinks stand in a prompt, by layer; layers without one are left out.

    depth: layers of the language model.

    Raises VlmProbeError for sinks of several images, layers that are not there, and where they are not before the
    answer position or another token stands there: prompts of another form.
    """
    start = int(
        min(layout.text_positions.min(initial=layout.length), layout.image_positions.min(initial=layout.length))
    )
    tokens: list[str] = []
    if isinstance(sinks, pd.DataFrame):
        images = set(sinks["image"]) if "image" in sinks.columns else set()
        if len(images) > 1:
            raise VlmProbeError(f"these sinks are of {len(images)} images: take those of one of them")
        pairs = list(zip(sinks["layer"].tolist(), sinks["position"].tolist(), strict=True))
        tokens = sinks["token"].tolist() if "token" in sinks.columns and layout.tokens else []
    elif isinstance(sinks, Mapping):
        pairs = [(layer, position) for layer, own in sinks.items() for position in own]
    else:
        pairs = [(layer, position) for layer in range(depth) for position in sinks]
    found: dict[int, set[int]] = {}
    for i, (layer, position) in enumerate(pairs):
        at = start + int(position)
        if not 0 <= layer < depth:
            raise VlmProbeError(f"layers are 0 to {depth - 1}, a sink is of layer {layer}")
        if not start <= at < layout.answer_position:
            raise VlmProbeError(
                f"sinks stand before the answer, at 0 to {layout.answer_position - start - 1}, got {position}"
            )
        if tokens and layout.tokens[at] != tokens[i]:
            raise VlmProbeError(
                f"these sinks were found in prompts of another form: at {position} stands {layout.tokens[at]!r}, not "
                f"{tokens[i]!r}"
            )
        found.setdefault(int(layer), set()).add(at)
    return {layer: sorted(own) for layer, own in sorted(found.items())}


def random_instead(
    sinks: Mapping[int, Sequence[int]], layout: TokenLayout, rng: np.random.Generator
) -> dict[int, list[int]] | None:
    """Other positions in the place of sinks, one for each in all its layers: of the same kind (patch, register, text
    before the answer), and no sink in any layer; None where there are not as many."""
    groups, every = rough_kinds(layout), sorted({position for own in sinks.values() for position in own})
    instead: dict[int, int] = {}
    for group in sorted({int(groups[position]) for position in every}):
        own = [position for position in every if groups[position] == group]
        free = np.setdiff1d(np.flatnonzero(groups == group), every)
        if len(free) < len(own):
            return None
        instead |= dict(zip(own, rng.choice(free, len(own), replace=False).tolist(), strict=True))
    return {layer: sorted(instead[position] for position in own) for layer, own in sinks.items()}


def rough_kinds(layout: TokenLayout, layer: int = 0) -> Int[np.ndarray, " position"]:
    """0 for patches, 1 for registers, 2 for text before the answer position, -1 elsewhere."""
    return np.asarray([0, 1, 2, 2, -1, -1])[kinds_of(layout)]


def _check_sinks(model: HookedVLM, sinks: SinksGiven, suffix: str, item: Item) -> None:
    if not sinks_in(sinks, check_item(model, suffix, item), model.layers["language"]):
        raise VlmProbeError("there is no sink")


def _unseen(sinks: Mapping[int, Sequence[int]], layout: TokenLayout) -> list[Intervention]:
    """Nobody but they looks at these positions, in their layers; layers with the same ones are one knockout."""
    by_positions: dict[tuple[int, ...], list[int]] = {}
    for layer, positions in sinks.items():
        by_positions.setdefault(tuple(positions), []).append(layer)
    live = np.flatnonzero(kinds_of(layout) >= 0)
    return [
        Knockout(np.setdiff1d(live, positions).tolist(), positions, layers)
        for positions, layers in by_positions.items()
    ]
