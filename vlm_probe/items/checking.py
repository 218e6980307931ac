"""What an item file comes to, before a model is asked: how many items of which sort, and what is wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from vlm_probe.errors import VlmProbeError
from vlm_probe.items.item import Item, Packed


def counted(items: Sequence[Item]) -> pd.DataFrame:
    """A row a family and kind: items, images, how many have boxes, boxes of other objects, and wrong answers."""
    rows = [
        {
            "family": item.family,
            "kind": item.kind,
            "items": 1,
            "image": item.image,
            "boxes": bool(item.boxes),
            "others": bool(item.others),
            "distractors": bool(item.distractors),
        }
        for item in items
    ]
    grouped = pd.DataFrame(rows).groupby(["family", "kind"], sort=False)
    named = {name: (name, "sum") for name in ("items", "boxes", "others", "distractors")}
    table = grouped.agg(**named, images=("image", "nunique")).reset_index()
    return pd.DataFrame(table[["family", "kind", "items", "images", "boxes", "others", "distractors"]])


def problems(items: Sequence[Item], progress: Callable[[int], None] = lambda n: None) -> list[str]:
    """What would stop a run, though every row could be read: ids that come twice, pictures that cannot be opened."""
    from vlm_probe.inputs.images import open_image  # brings torch

    twice = [id for id, n in Counter(item.id for item in items).items() if n > 1]
    said = [f"the id {id!r} comes more than once" for id in twice]
    for item in items:
        if item.answer in item.distractors:
            said.append(f"item {item.id!r}: its answer {item.answer!r} is among the distractors")
        if set(item.boxes) & set(item.others):
            said.append(f"item {item.id!r}: a box of what is asked about is among those of other objects")
    seen: set[Path | Packed] = set()
    for item in items:
        if isinstance(item.source, Path | Packed) and item.source not in seen:
            seen.add(item.source)
            try:
                open_image(item.picture(0))
            except VlmProbeError as error:
                said.append(f"item {item.id!r}: {error}")
        progress(1)
    return said
