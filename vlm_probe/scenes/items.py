"""Generated scenes as items: one question about each, its answer and the boxes to look at."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache

import pandas as pd

from vlm_probe.items import Item
from vlm_probe.scenes.questions import SAMPLERS, Question
from vlm_probe.scenes.world import Scene, sample_scene
from vlm_probe.scenes.worlds import NUMBERS, SHIPPED, Split, World

FAMILY = "scenes"
"""The family of items that ask as no benchmark does: every question type in turn."""


def make_item(
    family: str, kind: str, name: str, scene: Scene, q: Question, *, group: str = "", image: str = ""
) -> Item:
    """An item of a family from a question about a scene; group and image are its own where none is given."""
    agreed = q.answer if q.answer not in NUMBERS else str(NUMBERS.index(q.answer))
    said = (*[q.answer] * 7, *[agreed] * 3) if family == "vqav2" else ()
    return Item(
        id=name,
        family=family,
        kind=kind,
        group=group or name,
        image=image or f"{name}-image",
        question=q.text,
        answer=q.answer,
        answers=said,
        parts=tuple(q.answer.split(", ")) if family == "mmvet" else (),
        distractors=tuple(c for c in q.choices if c != q.answer),
        boxes=q.boxes,
        others=tuple(o.box for o in scene.objects if o.box not in q.boxes),
        image_seed=scene.seed,
        source=scene,
    )


def scene_items(n: int, *, split: Split = "heldout", seed: int = 0, world: World = SHIPPED) -> Iterator[Item]:
    """`n` items of the family "scenes", its world's question types in turn, each with a scene of its own; the same
    for the same seed."""
    names = world.questions
    for i in range(n):
        kind = names[i % len(names)]
        rng = random.Random(f"{world.salt}items/{split}/{seed}/{i}")
        while True:
            scene = sample_scene(rng.getrandbits(48), split, world=world)
            question = SAMPLERS[kind](scene, rng)
            if question is not None:
                break
        yield make_item(FAMILY, kind, f"{world.label}{split}-{seed}-{i:05d}-{kind}", scene, question)


def asks_novel(item: Item) -> bool:
    """Whether an item asks about a kind that no training image shows: one stands in what must be looked at, or is named
    (and is absent).

    False for items from files. A scene of the split "novel" shows a novel kind, but may be asked about its other
    objects: there a model can be right that never learned to see a combination it was not shown.
    """
    if not isinstance(item.source, Scene):
        return False
    novel = item.source.world.novel
    shown = any(o.kind in novel and o.box in item.boxes for o in item.source.objects)
    return shown or any(f"{color} {shape}" in item.question for color, shape in novel)


_BLIND_ITEMS = 600
"""Training items, for each question type, from which the blind guess is learned."""


@lru_cache(maxsize=8)
def _habits(world: World) -> tuple[dict[str, str], dict[str, str]]:
    """The most frequent answer per question text, and per question type, over training scenes."""
    by_text: dict[str, Counter[str]] = {}
    by_kind: dict[str, Counter[str]] = {}
    for item in scene_items(_BLIND_ITEMS * len(world.questions), split="train", world=world):
        by_text.setdefault(item.question, Counter())[item.answer] += 1
        by_kind.setdefault(item.kind, Counter())[item.answer] += 1
    first = {text: answers.most_common(1)[0][0] for text, answers in by_text.items()}
    return first, {kind: answers.most_common(1)[0][0] for kind, answers in by_kind.items()}


def blind_answer(item: Item) -> str:
    """The best guess without the image: the most frequent answer to this question in its world's training scenes."""
    by_text, by_kind = _habits(item.source.world if isinstance(item.source, Scene) else SHIPPED)
    return by_text.get(item.question, by_kind[item.kind])


def with_baselines(answers: pd.DataFrame, items: Sequence[Item]) -> pd.DataFrame:
    """A table of answers to `scene_items` with what seeing has to beat, item by item.

    Adds columns chance (one over the number of possible answers) and blind (whether `blind_answer` is right).

    Raises KeyError for an item of another family, whose kinds of question no training scene asks.
    """
    by_id = {item.id: item for item in items}
    asked = [by_id[name] for name in answers["id"]]
    return answers.assign(
        chance=[1 / (1 + len(item.distractors)) for item in asked],
        blind=[blind_answer(item) == item.answer for item in asked],
    )
