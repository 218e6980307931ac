"""What an answer rests on in the picture: the same question about other pictures.

Blanked, blurred and swapped pictures are what benchmarks are asked with to see how much language alone answers. Of a
generated scene an object can be taken out and the scene drawn again: a picture such as the model was trained on, which
one with blanked pixels is not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from vlm_probe.causal.outcomes import Sought, outcomes
from vlm_probe.causal.sweeping import Able
from vlm_probe.errors import VlmProbeError
from vlm_probe.hooked import HookedVLM
from vlm_probe.items import Item
from vlm_probe.items.item import check_ids
from vlm_probe.layout import UnitBox
from vlm_probe.scenes import Scene

Change = Callable[[HookedVLM, Item], Image.Image]
"""An item's picture, changed, as the model is shown it. Raises VlmProbeError where it cannot be had."""


def blanked(model: HookedVLM, item: Item) -> Image.Image:
    """The picture's mean colour alone."""
    picture = model.picture(item).convert("RGB")
    mean = np.asarray(picture, dtype=float).reshape(-1, 3).mean(0).round().astype(int)
    return Image.new("RGB", picture.size, tuple(mean.tolist()))


def blurred(model: HookedVLM, item: Item, *, share: float = 0.01) -> Image.Image:
    """The picture behind a Gaussian blur, whose radius is a share of its longer side."""
    picture = model.picture(item).convert("RGB")
    return picture.filter(ImageFilter.GaussianBlur(share * max(picture.size)))


def swapped(items: Sequence[Item]) -> Change:
    """For every item the picture of the next of the items that has another one, and is not of its group (a twin)."""
    next_of: dict[str, Item] = {}
    for number, item in enumerate(items):
        others = (items[(number + step) % len(items)] for step in range(1, len(items)))
        found = next((other for other in others if _apart(item, other)), None)
        if found is not None:
            next_of[item.id] = found

    def change(model: HookedVLM, item: Item) -> Image.Image:
        if item.id not in next_of:
            raise VlmProbeError(f"item {item.id} is among no items with another picture")
        return model.picture(next_of[item.id])

    return change


def _apart(one: Item, other: Item) -> bool:
    same = one.image == other.image or (one.source is not None and one.source == other.source)
    return not same and one.group != other.group


def without(boxes: Callable[[Item], Sequence[UnitBox]]) -> Change:
    """A generated scene drawn again without the objects that have these boxes."""

    def change(model: HookedVLM, item: Item) -> Image.Image:
        if not isinstance(item.source, Scene):
            raise VlmProbeError(f"item {item.id} is no generated scene, which alone can be drawn without an object")
        gone = set(boxes(item))
        left = tuple(o for o in item.source.objects if o.box not in gone)
        if len(left) + len(gone) != len(item.source.objects) or not gone:
            raise VlmProbeError(f"item {item.id} has no such objects to take out")
        return model.picture(replace(item, source=replace(item.source, objects=left)))

    return change


without_asked = without(lambda item: item.boxes)
"""Without what is asked about."""
without_other = without(lambda item: item.others[: len(item.boxes)])
"""Without as many others."""


@torch.no_grad()
def with_pictures(
    model: HookedVLM,
    items: Sequence[Item],
    changes: Mapping[str, Change],
    *,
    batch_size: int = 32,
    suffix: str = "",
    progress: Callable[[int], None] | None = None,
) -> pd.DataFrame:
    """Ask items with their pictures changed.

    changes: by name: `blanked`, `blurred`, `swapped(items)`, `without_asked`, `without_other`, or a function of one's
        own.
    suffix: appended to every question. progress: called with the number of items just done.

    Returns
    -------
    One row an item and change: id, image, picture (the change's name), probability, logit_difference, says and right as
    `outcomes` has them for the right answer, probability_before, changed (whether another token is said than with the
    item's own picture), kl (KL(own picture || changed picture) of the next token's distribution, nats).
    `attrs["left_out"]`: items without an answer or a change, with the reason; they are in no row.

    Raises VlmProbeError where no item is left.
    """
    check_ids(items)
    able, tables = Able(items, partial(_drawn, model, changes), batch_size), []
    for batch, found in able.each(progress):
        questions = [item.question + suffix for item in batch]
        logits = dict[str, Tensor]()
        for name in ("", *changes):
            inputs = model.prepare([drawn[name] for _, drawn in found], questions)
            logits[name] = model(inputs, logits_to_keep=1).logits[:, -1].float()
        tables += [_rows(batch, [sought for sought, _ in found], name, logits) for name in changes]
    table = pd.concat(tables, ignore_index=True)
    order = {item.id: number for number, item in enumerate(items)}
    table = table.sort_values("id", key=lambda ids: ids.map(order), kind="stable", ignore_index=True)
    able.describe(table, model, title="answers with other pictures", units="logits, nats")
    return table


def _drawn(model: HookedVLM, changes: Mapping[str, Change], item: Item) -> tuple[Sought, dict[str, Image.Image]]:
    """What an item's answer begins with, and its pictures: its own as "", and by the names of changes."""
    pictures = {"": model.picture(item), **{name: change(model, item) for name, change in changes.items()}}
    return Sought.of(model, item), pictures


def _rows(items: Sequence[Item], sought: Sequence[Sought], name: str, logits: Mapping[str, Tensor]) -> pd.DataFrame:
    before, after = (outcomes(logits[one], sought) for one in ("", name))
    own, other = (logits[one].log_softmax(-1).double() for one in ("", name))
    kl = (own.exp() * (own - other)).nan_to_num(0.0).sum(-1)
    return pd.DataFrame({"id": [item.id for item in items], "image": [item.image for item in items]}).assign(
        picture=name,
        **{column: after[column] for column in after},
        probability_before=before["probability"],
        changed=after["says"] != before["says"],
        kl=kl.clamp(min=0).cpu().numpy(),
    )
