"""What the findings of one model have in common, made once: its answers, pooled activations, bare copies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import pandas as pd
import xarray as xr

from vlm_probe.attention.sinks import QUESTIONS, find_sinks
from vlm_probe.embedding.features import pooled
from vlm_probe.errors import VlmProbeError
from vlm_probe.hooked import HookedVLM
from vlm_probe.hooked.untrained import with_random_encoder
from vlm_probe.items import Item, suffix_of
from vlm_probe.running.evaluation import evaluate

SINK_ITEMS = 32
"""Images that sinks are looked for in, with a question each."""


class Shared:
    """One model's answers and activations on one list of items.

    items: all that will be asked for. suffix: appended to every question (`items.suffix_of`). parts: a folder for
    answers, from which a killed run goes on.
    """

    def __init__(self, model: HookedVLM, items: Sequence[Item], *, suffix: str = "", parts: Path | None = None):
        self.model, self.items, self.suffix, self.parts = model, list(items), suffix, parts
        self._wanted: dict[str, list[str]] = {}
        self._pooled: dict[str, xr.Dataset] = {}

    @cached_property
    def _answers(self) -> pd.DataFrame:
        return evaluate(self.model, self.items, suffix=self.suffix, parts=self.parts)

    def answers(self, items: Sequence[Item]) -> pd.DataFrame:
        """The model's answers to some of the items, in their order; columns `items.scores.ANSWER_COLUMNS`."""
        names = [item.id for item in items]
        found = self._answers.set_index("id", drop=False)
        missing = [name for name in names if name not in found.index]
        if missing:
            raise VlmProbeError(f"item {missing[0]} is not among the items that were asked")
        return found.loc[names].reset_index(drop=True)

    def question(self, item: Item) -> str:
        """The item's question as it is asked."""
        return item.question + suffix_of(item, self.suffix)

    @cached_property
    def random_encoder(self) -> HookedVLM:
        """The model with an encoder that nobody trained."""
        return with_random_encoder(self.model)

    @cached_property
    def sinks(self) -> pd.DataFrame:
        """The model's attention sinks, whatever is asked about whatever image (`attention.find_sinks`)."""
        first = {item.image: item for item in reversed(self.items)}
        some = [replace(item, question=self.question(item)) for item in list(first.values())[::-1][:SINK_ITEMS]]
        return find_sinks(self.model, some, fewest=min(QUESTIONS, len({item.question for item in some})))

    def want(self, reads: Mapping[str, Sequence[str]]) -> None:
        """Announce pooled activations, so that one pass takes what several findings read (pool -> hook points)."""
        for pool, points in reads.items():
            known = self._wanted.setdefault(pool, [])
            known += [name for name in self.model.match(list(points)) if name not in known]

    def features(self, items: Sequence[Item], pool: str, points: Sequence[str]) -> xr.Dataset:
        """`embedding.features` of some of the items, which all can be pooled so; taken in one pass for all pools.

        Pools "box" and "other" are taken of all items that have such a box.
        """
        names = self.model.match(list(points))
        if pool not in self._pooled or any(name not in self._pooled[pool] for name in names):
            self.want({pool: names})
            self._take()
        data = self._pooled[pool]
        number = {name: i for i, name in enumerate(data["id"].values.tolist())}
        return data[names].isel(item=[number[item.id] for item in items])

    def _take(self) -> None:
        groups: dict[tuple[str, ...], dict[str, list[str]]] = {}
        for pool, points in self._wanted.items():
            able = [item for item in self.items if _ABLE.get(pool, _any)(item)]
            groups.setdefault(tuple(item.id for item in able), {})[pool] = points
        by_id = {item.id: item for item in self.items}
        for names, wanted in groups.items():
            self._pooled |= pooled(self.model, [by_id[name] for name in names], wanted)


def _any(item: Item) -> bool:
    return True


_ABLE: dict[str, Callable[[Item], bool]] = {
    "box": lambda item: bool(item.boxes),
    "other": lambda item: bool(item.others),
}


def clusters_of(items: Sequence[Item]) -> list[str]:
    """What each item is not independent of: items that share a pair, an image or an image's file, also through others.

    Four images in five pairs are one cluster, and no five. Named by the first image.
    """
    above: dict[str, str] = {}

    def top(name: str) -> str:
        while name in above:
            name = above[name]
        return name

    for item in items:
        shared = [f"image {item.image}"]
        if item.group != item.id:
            shared.append(f"group {item.group}")
        if isinstance(item.source, str | Path):
            shared.append(f"file {item.source}")
        own, *others = dict.fromkeys(top(name) for name in shared)
        above |= dict.fromkeys(others, own)
    tops = [top(f"image {item.image}") for item in items]
    first = {name: item.image for name, item in reversed(list(zip(tops, items, strict=True)))}
    return [first[name] for name in tops]


def about(items: Sequence[Item]) -> pd.DataFrame:
    """The columns that every table by item begins with: id, image, cluster (`clusters_of`), kind."""
    return pd.DataFrame(
        {
            "id": [item.id for item in items],
            "image": [item.image for item in items],
            "cluster": clusters_of(items),
            "kind": [item.kind for item in items],
        }
    )
