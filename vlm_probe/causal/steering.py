"""Steering along a direction, and giving a later layer's state to an earlier one.

`direction_between` is the difference of two groups of items' mean activations; `steer_sweep` adds it, in several
strengths, beside random directions of the same length (Turner et al. 2023, arXiv:2308.10248; Marks and Tegmark 2023,
arXiv:2310.06824). `back_patch` asks whether an answer comes too late: what a later layer has at the answer position is
given to an earlier layer, from where the layers between see it once more (Biran et al. 2024, arXiv:2406.12775).

>>> direction = direction_between(model, red, blue, "language.blocks.2.hook_resid_post")    # doctest: +SKIP
>>> steer_sweep(model, blue, direction, "language.blocks.2.hook_resid_post", target="red")  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from vlm_probe.causal.branching import Branches
from vlm_probe.causal.interventions import Replace, Steer
from vlm_probe.causal.mean_rows import kinds_of
from vlm_probe.causal.outcomes import Sought
from vlm_probe.causal.planning import Row
from vlm_probe.causal.positions import Places
from vlm_probe.causal.sweeping import Able, beside, check_item, prepared
from vlm_probe.errors import VlmProbeError
from vlm_probe.hooked import HookedVLM
from vlm_probe.hooked.targets import target_token
from vlm_probe.items import Item
from vlm_probe.layout.groups import Where
from vlm_probe.names import dimensions, layer_of
from vlm_probe.settings import SEED

STRENGTHS = (-2.0, -1.0, 1.0, 2.0)
DRAWS = 3
"""Random directions beside one."""


@torch.no_grad()
def direction_between(
    model: HookedVLM,
    items_a: Sequence[Item],
    items_b: Sequence[Item],
    point: str,
    positions: Where = "answer",
    *,
    unit: bool = False,
    batch_size: int = 8,
    suffix: str = "",
    progress: Callable[[int], None] | None = None,
) -> Float[Tensor, " feature"]:
    """The mean activation over `items_a` less that over `items_b`: what, added, leads from b to a.

    Parameters
    ----------
    point: one hook point with rows of features: of the residual stream, of what attention or MLP adds, the connector.
    positions: whose rows; an item counts once, with their mean.
    unit: of length one; else as long as the difference is, in activation units.
    suffix: appended to every question.
    progress: called with the number of items just done.

    Raises VlmProbeError for another sort of point, a group without items, an item that has no such positions, and
    where the two means are the same.
    """
    name = _point(model, point)
    means = []
    for items in (items_a, items_b):
        able, total = Able(items, partial(check_item, model, suffix), batch_size), None
        for batch, _ in able.each(progress):
            inputs = prepared(model, batch, suffix)
            places = Places.of(inputs.layouts, [item.boxes for item in batch], (), model.device)
            rows = model.run_with_cache(inputs, names_filter=[name], logits_to_keep=1)[1][name].float()
            for i, row in enumerate(rows):
                mean = row[places.at(positions, name, i, layer_of(name))].mean(0)
                total = mean if total is None else total + mean
        assert total is not None  # `each` gives one item at least
        means.append(total / len(able))
    direction = means[0] - means[1]
    if not direction.any():
        raise VlmProbeError(f"there is no direction at {name}: both groups have the same mean")
    return direction / direction.norm() if unit else direction


def steer_sweep(
    model: HookedVLM,
    items: Sequence[Item],
    direction: Float[Tensor, " feature"],
    point: str,
    strengths: Sequence[float | int] = STRENGTHS,
    *,
    positions: Where = "answer",
    norm_matched: bool = False,
    target: str | None = None,
    draws: int = DRAWS,
    batch_size: int = 8,
    seed: int = SEED,
    suffix: str = "",
    progress: Callable[[int], None] | None = None,
) -> pd.DataFrame:
    """Add a direction in several strengths, and random directions of its length.

    Parameters
    ----------
    items: with pictures; best others than those that the direction is of.
    strengths, norm_matched: as `Steer` takes them: times the direction, or times the length of the row it is added to.
    target: the answer that is looked at in place of each item's right one.
    draws: random directions, the same for all items.
    suffix: appended to every question.
    progress: called with the number of items just done.

    Returns
    -------
    One row an item, strength and direction. Columns: id, image, strength, control (whether the direction is random),
    draw (-1 for the given one), probability (of the right answer's first token, or the target's), probability_before,
    change, logit_difference (its lead over the distractors; of a target over any other token), logit_difference_before,
    change_logit, flipped, right, right_before (`sweeping.beside`). `attrs["left_out"]`: items that could not be used,
    with the reason.

    Raises VlmProbeError for a point without rows of features, a direction of another width, no strength, and where no
    item is left.
    """
    name = _point(model, point)
    if not len(strengths):
        raise VlmProbeError("there is no strength to steer with")
    generator = torch.Generator().manual_seed(seed)
    random = [torch.randn(len(direction), generator=generator).to(direction) for _ in range(draws)]
    each = [(-1, direction), *((i, one / one.norm() * direction.norm()) for i, one in enumerate(random))]
    able, tables = Able(items, partial(_check_positions, model, name, positions, suffix), batch_size), []
    token = None if target is None else target_token(model, target, torch.empty(0))
    for batch, _ in able.each(progress):
        branches = Branches(model, prepared(model, batch, suffix), boxes=[item.boxes for item in batch])
        rows: list[Row] = []
        about = []
        for number, item in enumerate(batch):
            for strength in strengths:
                for draw, one in each:
                    about.append((item.id, item.image, float(strength), draw >= 0, draw, number))
                    rows.append((number, [Steer(name, one, strength, norm_matched, positions)]))
        table = pd.DataFrame(about, columns=["id", "image", "strength", "control", "draw", "example"])
        sought = [Sought.of(model, item) if token is None else Sought(token) for item in batch]
        tables.append(beside(table, branches.run(rows), branches.logits, sought))
    table = pd.concat(tables, ignore_index=True)
    citation = "Turner et al. 2023, arXiv:2308.10248"
    able.describe(table, model, title=f"steering at {name}", units="logits", citation=citation, seed=seed)
    return table


def back_patch(
    model: HookedVLM,
    items: Sequence[Item],
    *,
    layers: Sequence[tuple[int, int]] | None = None,
    control: bool = True,
    batch_size: int = 8,
    seed: int = SEED,
    suffix: str = "",
    progress: Callable[[int], None] | None = None,
) -> pd.DataFrame:
    """Give the residual stream behind a layer, at the answer position, to an earlier layer of the same run's repeat.

    Parameters
    ----------
    items: with pictures, some of which the model answers wrongly.
    layers: (source, target): what stands behind the source layer replaces what stands behind the target layer, from
        where the layers above run again; every pair with the source above the target if None.
    control: also give what the source layer has at a random other position of the prompt, one for each item.
    suffix: appended to every question.
    progress: called with the number of items just done.

    Returns
    -------
    One row an item, pair and control. Columns: id, image, source, target, control, probability,
    probability_before, change, logit_difference, logit_difference_before, change_logit, flipped, right, right_before
    (`sweeping.beside`). `restored` has the shares. `attrs["left_out"]`: items that could not be used.

    Deviations: Biran et al. patch at the last subject token and the last token of two-hop queries, and generate; here
    the answer position of a question about an image alone, and the answer's first token.

    Raises VlmProbeError for layers that are not there, a source below its target, and where no item is left.
    """
    depth = model.layers["language"]
    pairs = [(s, t) for s in range(depth) for t in range(s)] if layers is None else [(s, t) for s, t in layers]
    for source, target in pairs:
        if not 0 <= target <= source < depth:
            raise VlmProbeError(f"layers are 0 to {depth - 1}, the source not below the target, got {source}, {target}")
    names = {layer: f"language.blocks.{layer}.hook_resid_post" for layer in sorted({s for s, _ in pairs})}
    able, tables = Able(items, partial(check_item, model, suffix), batch_size), []
    for batch, _ in able.each(progress):
        branches = Branches(model, prepared(model, batch, suffix))
        own, elsewhere = _states(model, branches, batch, list(names.values()), seed)
        rows: list[Row] = []
        about = []
        for number, item in enumerate(batch):
            for source, target in pairs:
                for random in (False, True) if control else (False,):
                    about.append((item.id, item.image, source, target, random, number))
                    state = elsewhere if random else own
                    point = f"language.blocks.{target}.hook_resid_post"
                    rows.append((number, [Replace(point, "answer", state, source_point=names[source])]))
        table = pd.DataFrame(about, columns=["id", "image", "source", "target", "control", "example"])
        sought = [Sought.of(model, item) for item in batch]
        tables.append(beside(table, branches.run(rows), branches.logits, sought))
    table = pd.concat(tables, ignore_index=True)
    citation = "Biran et al. 2024, arXiv:2406.12775"
    able.describe(table, model, title="back-patching", units="logits", citation=citation, seed=seed)
    return table


def restored(table: pd.DataFrame) -> pd.DataFrame:
    """Shares of what `back_patch` found, a row a source, target and control: wrong (items answered wrongly without it),
    restored (the share of those that are answered right with it; NaN without one), right (items answered rightly), kept
    (the share of those that still are)."""
    before, after = table["right_before"], table["right"].astype(float)
    marked = table.assign(wrong=~before, restored=after.where(~before), kept=after.where(before))
    found = marked.groupby(["source", "target", "control"], as_index=False).agg(
        wrong=("wrong", "sum"), restored=("restored", "mean"), right=("right_before", "sum"), kept=("kept", "mean")
    )
    found.attrs.update(table.attrs | {"units": "share of items"})
    return found


def _point(model: HookedVLM, point: str) -> str:
    names = model.match(point)
    if len(names) != 1:
        raise VlmProbeError(f"a direction is of one point, {point!r} names {len(names)}")
    dims = dimensions(names[0])
    if len(dims) != 3 or dims[1] not in ("position", "patch"):
        raise VlmProbeError(f"a direction is of rows of features, {names[0]} has {', '.join(dims)}")
    return names[0]


def _check_positions(model: HookedVLM, name: str, positions: Where, suffix: str, item: Item) -> None:
    layout = check_item(model, suffix, item)
    Places.of([layout], [item.boxes], (), model.device).at(positions, name, 0, layer_of(name))


@torch.no_grad()
def _states(
    model: HookedVLM, branches: Branches, items: Sequence[Item], names: list[str], seed: int
) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
    """What stands behind layers, and the same with a random position's row at the answer position."""
    inputs = branches.inputs
    cache = model.run_with_cache(inputs, names_filter=names, logits_to_keep=1)[1]
    drawn, answers = [], [layout.answer_position for layout in inputs.layouts]
    for item, layout in zip(items, inputs.layouts, strict=True):
        rng = np.random.default_rng([seed, *item.id.encode()])
        drawn.append(int(rng.choice(np.setdiff1d(np.flatnonzero(kinds_of(layout) >= 0), [layout.answer_position]))))
    own = {name: cache[name] for name in names}
    elsewhere = {name: state.clone() for name, state in own.items()}
    example = range(len(items))
    for name, state in own.items():
        elsewhere[name][example, answers] = state[example, drawn]
    return own, elsewhere
