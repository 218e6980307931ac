"""What a reader of a report may look at by hand: an item by two models, and a pair of twins, in the explorer."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from vlm_probe.errors import VlmProbeWarning
from vlm_probe.explorer import look
from vlm_probe.findings import Run
from vlm_probe.hooked import HookedVLM
from vlm_probe.items import Item
from vlm_probe.report.document import Block, Explorer, Paragraph, Section
from vlm_probe.report.inspection import trained_on_scenes

_ONE = (
    "The item on which the relevancy of {first} lies least on the object asked about, and what {second} does with it. "
    "Single items show how to look; whether it is so in general is what the findings are about."
)
_TWINS = "Two pictures that differ in one thing, the same question, one model: the third picture is the difference."


def to_explore(found: Run, load: Callable[[str], HookedVLM]) -> Section | None:
    """A section with explorers; None where no miniature was measured on items with pictures.

    load: opens a model by its name. Others than miniatures take minutes, and are left to `vlm-probe inspect`.
    """
    names = [name for name in found.models if trained_on_scenes(name)][:2]
    asked = [item for item in found.items if item.boxes]
    if not names or not asked:
        return None
    models = [load(name) for name in names]
    worst, blocks = _worst(found, names[0], asked), list[Block]()
    said = _ONE.format(first=names[0], second=names[-1])
    blocks += [Paragraph(said), Explorer(tuple(_look(model, worst) for model in models), "one")]
    pair = _twins(found.items)
    if pair:
        blocks += [Paragraph(_TWINS), Explorer(tuple(_look(models[0], item) for item in pair), "twins")]
    return Section("Look for yourself", tuple(blocks), "explore")


def _look(model: HookedVLM, item: Item) -> dict[str, Any]:
    inputs = model.prepare(model.picture(item), item.question)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", VlmProbeWarning)
        return look(model, inputs, name=item.id)


def _worst(found: Run, model: str, asked: Sequence[Item]) -> Item:
    """The item whose object has the least of the relevancy, where that was measured; else the first."""
    measured = found.measured.get("S1", {}).get(model)
    if measured is None:
        return asked[0]
    table = measured["items"]
    shares = dict(zip(table["id"].tolist(), table["relevancy_asked"].to_numpy(dtype=float).tolist(), strict=True))
    known = [item for item in asked if not math.isnan(shares.get(item.id, math.nan))]
    return min(known, key=lambda item: shares[item.id], default=asked[0])


def _twins(items: Sequence[Item]) -> list[Item]:
    """The first two items of one group with different pictures."""
    first: dict[str, Item] = {}
    for item in items:
        other = first.setdefault(item.group, item)
        if other.image != item.image and other.question == item.question:
            return [other, item]
    return []
