"""By which route the image reaches the answer: attention knockout by windows of layers.

Edges from some positions to others are cut in a window of layers, and the answer's probability is taken again (Geva et
al. 2023, arXiv:2304.14767; on vision-language models: Zhang et al. 2024, arXiv:2411.18620). Beside every window as many
edges are cut that were drawn at random among all others, from the same queries as far as those look at as much else: a
window that hurts no more than they do carries nothing.

Deviation: what Zhang et al. call the question is all text behind the image; here the question and the template's text
behind it (`question | tail`) without the last position, which predicts the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch

from vlm_probe.causal.applying import applied
from vlm_probe.causal.branching import Branches
from vlm_probe.causal.interventions import Knockout
from vlm_probe.causal.outcomes import Sought
from vlm_probe.causal.planning import Row, slides, visible
from vlm_probe.causal.positions import Places
from vlm_probe.causal.sweeping import Able, beside, prepared
from vlm_probe.errors import VlmProbeError
from vlm_probe.hooked import HookedVLM
from vlm_probe.inputs.model_inputs import ModelInputs
from vlm_probe.items import Item
from vlm_probe.items.item import check_ids
from vlm_probe.layout.groups import Where
from vlm_probe.settings import SEED

ROUTES: dict[str, tuple[Where, Where]] = {
    "image to question": ("(question | tail) & ~answer", "image"),
    "image to answer": ("answer", "image"),
    "question to answer": ("answer", "(question | tail) & ~answer"),
    "image to both": ("question | tail | answer", "image"),
}
"""What information may take, from the keys to the queries: name -> (queries, keys)."""
RANDOM = "random edges"


def default_window(depth: int) -> int:
    """Layers of a window: a quarter of the model, as nearly (Zhang et al.: 9 of 32 or 40)."""
    return max(1, round(depth / 4))


def windows(depth: int, size: int | None = None, most: int | None = None) -> list[range]:
    """Windows of so many layers, and all layers together.

    most: windows, spread evenly from the first to the last; every one if None.

    >>> windows(8, 4, most=3)
    [range(0, 4), range(2, 6), range(4, 8), range(0, 8)]

    Raises VlmProbeError for a window that the model has no room for, and less than one window.
    """
    own = default_window(depth) if size is None else size
    if not 1 <= own <= depth:
        raise VlmProbeError(f"a window takes 1 to {depth} layers, got {own}")
    if most is not None and most < 1:
        raise VlmProbeError(f"there is 1 window at least, got {most}")
    last = depth - own
    count = last + 1 if most is None else min(most, last + 1)
    firsts = np.linspace(0, last, count).round().astype(int).tolist()
    each = [range(first, first + own) for first in firsts]
    return each if own == depth else [*each, range(depth)]


def knockout_sweep(
    model: HookedVLM,
    items: Sequence[Item],
    *,
    routes: Mapping[str, tuple[Where, Where]] = ROUTES,
    window: int | None = None,
    most: int | None = None,
    control: bool = True,
    draws: int = 1,
    own: bool = False,
    batch_size: int = 8,
    seed: int = SEED,
    suffix: str = "",
    progress: Callable[[int], None] | None = None,
) -> pd.DataFrame:
    """Cut routes window by window, for many items.

    Parameters
    ----------
    items: with pictures; of each the right answer's first token is looked at, and its lead over the distractors'.
    routes: name -> (queries, keys), as `Knockout` takes them; "box" is what the item asks about.
    window: layers that are cut together; a quarter of the model if None. All layers together are always cut too.
    most: windows, spread evenly over the layers; every one if None.
    control: also cut as many edges at random, among those that a layer's queries look along and the route does not
        hold (a position keeps itself), once for every item and route (and for layers whose window slides): of every
        query of the route as many as it has there, or, where it looks at less else, of any.
    draws: so many controls, drawn by `seed` and the numbers that follow it; of several the column draw (from 0) says
        which, and a run without a control that they have in common is there once.
    own: look at the token that the model itself says without a knockout, and its lead over any other.
    suffix: appended to every question.
    progress: called with the number of items just done.

    Returns
    -------
    One row an item, route, control (whether random edges were cut in place of the route) and window. Columns: id,
    image, route, control, first, last (layers, counted from 0), edges (how many in all of these layers; none where
    windows slide past what the route joins: then nothing changes), probability, probability_before, change,
    logit_difference, logit_difference_before, change_logit, flipped, right, right_before (`sweeping.beside`).
    `attrs["left_out"]`: items that could not be asked or have no such positions, with the reason.

    Raises VlmProbeError for a window out of range, less than one window or draw, and where no item is left.
    """
    check_ids(items)
    if draws < 1:
        raise VlmProbeError(f"draws must be at least 1, got {draws}; control=False takes none")
    spans = windows(model.layers["language"], window, most)
    able = Able(items, partial(_check, model, routes, suffix, own), batch_size)
    tables = [
        _sweep(model, batch, sought, routes, spans, draws if control else 0, seed, suffix)
        for batch, sought in able.each(progress)
    ]
    table = pd.concat(tables, ignore_index=True)
    if draws == 1:
        table = table.drop(columns="draw")
    citation = "Geva et al. 2023, arXiv:2304.14767"
    able.describe(table, model, title="attention knockout", units="logits", citation=citation, seed=seed)
    table.attrs["window"] = len(spans[0])
    return table


def _check(
    model: HookedVLM, routes: Mapping[str, tuple[Where, Where]], suffix: str, own: bool, item: Item
) -> Sought | None:
    """What an item's answer begins with, None for the model's own; VlmProbeError where it has no such positions."""
    places = Places.of(prepared(model, [item], suffix).layouts, [item.boxes], (), model.device)
    for queries, keys in routes.values():
        for where in (queries, keys):
            places.at(where, "language", 0)
    return None if own else Sought.of(model, item)


def _sweep(
    model: HookedVLM,
    items: Sequence[Item],
    sought: Sequence[Sought | None],
    routes: Mapping[str, tuple[Where, Where]],
    spans: Sequence[range],
    draws: int,
    seed: int,
    suffix: str,
) -> pd.DataFrame:
    inputs = prepared(model, items, suffix)
    branches = Branches(model, inputs, boxes=[item.boxes for item in items])
    said = branches.logits.argmax(-1).tolist()
    wanted = [Sought(own) if one is None else one for own, one in zip(said, sought, strict=True)]
    rows: list[Row] = []
    about = []
    kinds = {slides(model, layer): layer for layer in range(model.layers["language"])}
    for number, item in enumerate(items):
        rngs = [np.random.default_rng([seed + draw, *item.id.encode()]) for draw in range(draws)]
        for route, (queries, keys) in routes.items():
            q, k = (branches.places.at(where, "language", number).cpu().numpy() for where in (queries, keys))
            count, drawn = dict[bool, int](), dict[bool, list[tuple[list[int], list[int]]]]()
            for kind, layer in kinds.items():
                seen = visible(model, inputs, layer, number).cpu().numpy()
                count[kind] = int((seen & q[:, None] & k[None, :]).sum())
                drawn[kind] = [_random_edges(seen, q, k, rng) for rng in rngs]
            for span in spans:
                by_kind = {kind: [layer for layer in span if slides(model, layer) == kind] for kind in kinds}
                cut = [layer for kind, own in by_kind.items() if count[kind] for layer in own]
                edges = sum(count[kind] * len(own) for kind, own in by_kind.items())
                about.append((item.id, item.image, route, False, 0, span[0], span[-1], edges, number))
                rows.append((number, [Knockout(queries, keys, cut)] if cut else []))
                for draw in range(draws):
                    own = [(drawn[kind][draw], own) for kind, own in by_kind.items() if own and drawn[kind][draw][0]]
                    edges = sum(len(pairs[0]) * len(layers) for pairs, layers in own)
                    about.append((item.id, item.image, route, True, draw, span[0], span[-1], edges, number))
                    rows.append((number, [Knockout(*pairs, layers, paired=True) for pairs, layers in own]))
    names = ["id", "image", "route", "control", "draw", "first", "last", "edges", "example"]
    table = pd.DataFrame(about, columns=names)
    return beside(table, branches.run(rows), branches.logits, wanted)


def _random_edges(
    seen: np.ndarray, queries: np.ndarray, keys: np.ndarray, rng: np.random.Generator
) -> tuple[list[int], list[int]]:
    """As many edges as a route has, that are looked along, none of the route's, and none from a position to itself.

    Of every query as many as of the route's own, where it looks at so much else; what is missing is drawn from all.
    """
    route = seen & queries[:, None] & keys[None, :]
    free = seen & ~route & ~np.eye(len(seen), dtype=bool)
    chosen = np.zeros_like(free)
    for q in np.flatnonzero(route.any(1)):
        others = np.flatnonzero(free[q])
        if len(others) >= route[q].sum():
            chosen[q, rng.choice(others, int(route[q].sum()), replace=False)] = True
    left = np.flatnonzero(free & ~chosen)
    missing = min(int(route.sum() - chosen.sum()), len(left))
    chosen.flat[rng.choice(left, missing, replace=False)] = True
    q, k = np.nonzero(chosen)
    return q.tolist(), k.tolist()


def proven(model: HookedVLM, inputs: ModelInputs, knockouts: Sequence[Knockout], **given: Any) -> pd.DataFrame:
    """Proof that knockouts cut what they say: the attention left on the edges, and what rows sum to, layer by layer.

    inputs and further arguments: as `causal.applied` takes them.

    Returns a row a layer of each part: part, layer, edges (cut, over all examples and heads), left (largest attention
    on any of them), off (how far the sum of any row that may look somewhere is from one).

    Raises VlmProbeError where any attention is left, or a row does not sum to one to 1e-3 (half precision rounds).
    """
    rows = []
    with torch.no_grad(), applied(model, inputs, knockouts, **given) as made:
        names = [f"{part}.blocks.{layer}.attn.hook_pattern" for part, layer in made.cuts]
        _, cache = model.run_with_cache(inputs, names_filter=names, logits_to_keep=1)
    for ((part, layer), cut), name in zip(made.cuts.items(), names, strict=True):
        pattern = cache[name].float()
        edges = cut.edges.expand_as(pattern)
        sums = pattern.sum(-1)
        off = (sums[sums > 0] - 1).abs().max()
        rows.append((part, layer, int(edges.sum()), float(pattern[edges].max()), float(off)))
    table = pd.DataFrame(rows, columns=["part", "layer", "edges", "left", "off"])
    bad = table.loc[(table["left"] > 0) | (table["off"] > 1e-3)]
    if len(bad):
        raise VlmProbeError(f"a knockout did not hold: {bad.to_dict('records')[0]}")
    return table
