"""Would a smaller vocabulary do (V5)? What becomes of a model's answers as rows are taken away.

The rows that stay are chosen from text other than that of the items asked: chosen from their own answers, every answer
could be spelled, whatever the rule.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from vlm_probe.errors import VlmProbeError
from vlm_probe.evidence.intervals import clustered_mean
from vlm_probe.hooked import HookedVLM
from vlm_probe.hooked.anatomy import embedding, parameter_count
from vlm_probe.items.item import Item
from vlm_probe.items.scores import ANSWER_COLUMNS
from vlm_probe.running.evaluation import evaluate
from vlm_probe.scenes import FAMILIES, family_items, scene_items
from vlm_probe.scenes.world import Scene
from vlm_probe.scenes.worlds import World
from vlm_probe.vocabulary.trim import needed_ids, trim

TRAINING_ITEMS = 500
"""Training questions, of every family that is asked, whose text says which rows stay."""


def training_items(items: Sequence[Item], *, n: int = TRAINING_ITEMS, seed: int = 0) -> list[Item]:
    """Questions and answers about training scenes, of the worlds and families of some items about other scenes.

    None for items from files: nobody says what their training questions were.
    """
    asked: dict[tuple[World, str], None] = {
        (item.source.world, item.family): None for item in items if isinstance(item.source, Scene)
    }
    found: list[Item] = []
    for world, family in asked:
        if family in FAMILIES:
            found += family_items(n, families=(family,), split="train", seed=seed, world=world)
        else:
            found += scene_items(n, split="train", seed=seed, world=world)
    return found


def apart(items: Sequence[Item], *, n: int = TRAINING_ITEMS, seed: int = 0) -> tuple[list[Item], list[Item]]:
    """Items to ask, and others whose text says which rows stay.

    Of generated scenes all are asked, and training scenes have the text. Of items from files half of the images (drawn
    at random, the images of a pair together) are asked, and the text is that of the other half: none that is asked has
    a say.
    """
    drawn = [item for item in items if isinstance(item.source, Scene)]
    filed = [item for item in items if not isinstance(item.source, Scene)]
    names = {item.id: item.group if item.group != item.id else item.image for item in filed}
    groups = list(dict.fromkeys(names.values()))
    shuffled = np.random.default_rng(seed).permutation(len(groups))
    told = {groups[i] for i in shuffled[: len(groups) // 2]}
    read = [item for item in filed if names[item.id] in told]
    asked = {item.id for item in items} - {item.id for item in read}
    text = [*training_items(drawn, n=n, seed=seed), *read]
    return [item for item in items if item.id in asked], text


class Shrunk(NamedTuple):
    """A model with fewer rows, and what it answers."""

    model: HookedVLM
    answers: pd.DataFrame
    """A row an item: id, image, readable (whether question and right answer can still be spelled), answer ("" of one
    that cannot), correct (which such a one is not)."""
    seconds: float
    """That answering took; NaN where nothing could be read."""


def shrunk_answers(model: HookedVLM, items: Sequence[Item], kept: Iterable[int], *, suffix: str = "") -> Shrunk:
    """What a model answers with some rows of its vocabulary alone.

    kept: ids; `always_kept` joins them. suffix: appended to every question.
    """
    small = trim(model, kept)
    readable = [_can_read(small, item, suffix) for item in items]
    part = [item for item, can in zip(items, readable, strict=True) if can]
    said, seconds = _timed(small, part, suffix)
    answers = said.set_index("id").reindex([item.id for item in items])
    table = pd.DataFrame(
        {
            "id": [item.id for item in items],
            "image": [item.image for item in items],
            "readable": readable,
            "answer": answers["answer"].fillna("").tolist(),
            "correct": [right is True or right == 1 for right in answers["correct"].tolist()],
        }
    )
    return Shrunk(small, table, seconds)


def _timed(model: HookedVLM, items: Sequence[Item], suffix: str = "") -> tuple[pd.DataFrame, float]:
    if not items:
        return pd.DataFrame(columns=list(ANSWER_COLUMNS)), float("nan")
    began = time.perf_counter()
    found = evaluate(model, items, suffix=suffix)
    return found, time.perf_counter() - began


def _can_read(model: HookedVLM, item: Item, suffix: str) -> bool:
    try:
        model.inputs.encode(item.question + suffix, [1], answer=item.answer)
    except VlmProbeError:
        return False
    return True


def shrink(
    model: HookedVLM,
    items: Sequence[Item],
    sizes: Sequence[int],
    *,
    order: Sequence[int] | None = None,
    progress: Callable[[int], None] | None = None,
) -> pd.DataFrame:
    """Answers, memory and time as the kept set shrinks.

    Parameters
    ----------
    sizes: how many of `order` to keep, largest first; `always_kept` comes on top.
    order: ids, the ones to keep longest first, from text other than the items' own (`needed_ids` of `apart(items)[1]`);
        that of their worlds' training scenes if None.
    progress: called with 1 after every size.

    Returns
    -------
    One row a size, the whole model first: asked_to_keep, rows, parameters, weight_bytes, readable (share of items whose
    question and answer can still be spelled), accuracy over all items (one that cannot be spelled is wrong) with
    low and high (95 %, Student's t over images; NaN for few), same_answer (share of readable items answered as by the
    whole model), seconds (for the readable items) and seconds_whole (the whole model on the same items, timed right
    after).

    Raises VlmProbeError for items from files without an order.
    """
    if order is None and not all(isinstance(item.source, Scene) for item in items):
        raise VlmProbeError(
            "items from files have no training scenes: give order, the ids to keep, from text other than theirs"
        )
    ranked = list(order) if order is not None else needed_ids(model, training_items(items))
    images = np.asarray([item.image for item in items])
    whole = evaluate(model, items)
    everything = whole.filter(["id", "image", "answer", "correct"]).assign(readable=True)
    rows = []
    for size in [None, *sizes]:
        found = Shrunk(model, everything, 0.0) if size is None else shrunk_answers(model, items, ranked[:size])
        can = found.answers["readable"].to_numpy(dtype=bool)
        same = (found.answers["answer"].to_numpy() == whole["answer"].to_numpy())[can]
        seconds = _timed(model, [item for item, one in zip(items, can, strict=True) if one])[1]
        accuracy, low, high = clustered_mean(found.answers["correct"].to_numpy(dtype=float), images)
        table, count = embedding(found.model), parameter_count(found.model)
        rows.append(
            {
                "asked_to_keep": len(ranked) if size is None else size,
                "rows": len(table),
                "parameters": count,
                "weight_bytes": count * table.element_size(),
                "readable": float(can.mean()),
                "accuracy": accuracy,
                "low": low,
                "high": high,
                "same_answer": float(same.mean()) if len(same) else float("nan"),
                "seconds": seconds if size is None else found.seconds,
                "seconds_whole": seconds,
            }
        )
        if progress is not None:
            progress(1)
    result = pd.DataFrame(rows)
    result.attrs = {"title": "trimming the vocabulary", "items": len(items), **model.provenance()}
    return result
