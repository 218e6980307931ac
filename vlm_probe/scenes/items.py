"""Generated scenes as items: one question about each, its answer and the boxes to look at."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache

import pandas as pd

from vlm_probe.items import Item
from vlm_probe.scenes.questions import NUMBERS, QUESTION_TYPES, Question
from vlm_probe.scenes.world import Scene, Split, sample_scene

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
        image_seed=scene.seed,
        source=scene,
    )


def scene_items(n: int, *, split: Split = "heldout", seed: int = 0) -> Iterator[Item]:
    """`n` items of the family "scenes", question types in turn, each with a scene of its own; the same for the
    same seed."""
    names = tuple(QUESTION_TYPES)
    for i in range(n):
        kind = names[i % len(names)]
        rng = random.Random(f"items/{split}/{seed}/{i}")
        while True:
            scene = sample_scene(rng.getrandbits(48), split)
            question = QUESTION_TYPES[kind](scene, rng)
            if question is not None:
                break
        yield make_item(FAMILY, kind, f"{split}-{seed}-{i:05d}-{kind}", scene, question)


_BLIND_ITEMS = 6000
"""Training items from which the blind guess is learned."""


@lru_cache(maxsize=1)
def _habits() -> tuple[dict[str, str], dict[str, str]]:
    """The most frequent answer per question text, and per question type, over training scenes."""
    by_text: dict[str, Counter[str]] = {}
    by_kind: dict[str, Counter[str]] = {}
    for item in scene_items(_BLIND_ITEMS, split="train"):
        by_text.setdefault(item.question, Counter())[item.answer] += 1
        by_kind.setdefault(item.kind, Counter())[item.answer] += 1
    first = {text: answers.most_common(1)[0][0] for text, answers in by_text.items()}
    return first, {kind: answers.most_common(1)[0][0] for kind, answers in by_kind.items()}


def blind_answer(item: Item) -> str:
    """The best guess without the image: the most frequent answer to this question in training."""
    by_text, by_kind = _habits()
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
