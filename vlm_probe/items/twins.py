"""Twins: the same question about two images that differ in what it asks for (MMVP)."""

from __future__ import annotations

from collections.abc import Sequence

from vlm_probe.items.item import Item

FAMILY = "mmvp"


def twins_among(items: Sequence[Item]) -> list[tuple[Item, Item]]:
    """The pairs of two images that are asked the same: groups of the family mmvp with exactly two items."""
    groups: dict[str, list[Item]] = {}
    for item in items:
        if item.family == FAMILY:
            groups.setdefault(item.group, []).append(item)
    return [
        (pair[0], pair[1])
        for pair in groups.values()
        if len(pair) == 2 and pair[0].image != pair[1].image and all(item.source is not None for item in pair)
    ]
