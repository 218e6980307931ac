"""Asides as ids: what language pretraining reads beside scenes where a study says which rows of the vocabulary it has.

As many ids at the same places in every arm, whichever they are, and each of them as often as any other: they are dealt
like cards, a new pack shuffled when one is used up.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import lru_cache

from vlm_probe.scenes import SAMPLERS, World, sample_scene
from vlm_probe.scenes.questions import plural
from vlm_probe.training.packing import DESCRIBE, SPECIAL, Packer
from vlm_probe.zoo.cells import Rows

LENGTH = 11
"""Ids of one aside: over the 600 steps of 32 rows that studies have, each of 4,096 comes up 51 or 52 times."""
_LOOKED_AT = 200
"""Scenes whose questions are looked through for words: there are few ways to ask."""


def aside_ids(rows: Rows, packer: Packer, world: World) -> list[int]:
    """The ids that asides are dealt from: the extra ones, or those of the tokenizer's own that no scene has (parts of
    other words, and bytes)."""
    size = len(packer.tokenizer)
    if rows.asides == "extra":
        return list(range(size - rows.extra, size))
    taken = scene_ids(packer, world)
    return [i for i in range(size - rows.extra) if i not in taken]


def scene_ids(packer: Packer, world: World) -> set[int]:
    """Ids of the special tokens, and of all text about a world's scenes."""
    words = [*world.colors, *world.shapes, *map(plural, world.shapes), *world.rows, *world.columns, *world.numbers]
    text = [DESCRIBE, *words, "yes", "no"]
    for seed in range(_LOOKED_AT):
        scene, rng = sample_scene(seed, "any", world=world), random.Random(f"scene ids/{seed}")
        text.append(scene.caption)
        for name in world.questions:
            if (question := SAMPLERS[name](scene, rng)) is not None:
                text.append(f"{question.text} {question.answer}")
    encoded = packer.tokenizer(text, add_special_tokens=False)["input_ids"]
    return {*map(packer.id.__getitem__, SPECIAL), *(i for ids in encoded for i in ids)}


def deal(ids: Sequence[int], seed: int, hand: int, hands: int, length: int = LENGTH) -> list[list[int]]:
    """So many hands of the game that a seed begins, from the one of this number on: ids, `length` each."""
    first, end, own = hand * length, (hand + hands) * length, tuple(ids)
    packs = range(first // len(own), -(-end // len(own)))
    cards = [card for number in packs for card in _pack(own, seed, number)][first - packs.start * len(own) :]
    return [cards[i : i + length] for i in range(0, end - first, length)]


@lru_cache(maxsize=2)
def _pack(ids: tuple[int, ...], seed: int, number: int) -> tuple[int, ...]:
    return tuple(random.Random(f"asides/{seed}/{number}").sample(ids, len(ids)))
