"""What a model trained on generated scenes has never met: words that no question has, pictures that are no scene."""

from __future__ import annotations

import re
from functools import cache

import numpy as np
from PIL import Image

from vlm_probe.scenes.families import FAMILIES, family_items
from vlm_probe.scenes.questions import plural
from vlm_probe.scenes.worlds import SHIPPED

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")
FLAT = 0.7
"""A scene is drawn in few colours: its sixteen commonest (of 32 steps a channel) cover more than this share of it, 0.97
at the least of 600 drawn; of photographs 0.2 to 0.4."""


@cache
def known_words() -> frozenset[str]:
    """The words of questions about the shipped world, in lower case."""
    # POPE's questions are all of one form, and what it takes for absent needs statistics of 3,000 scenes.
    each = {family: 1 if family == "pope" else 60 for family in FAMILIES}
    asked = (item.question for family, n in each.items() for item in family_items(n, families=(family,)))
    world = {*SHIPPED.colors, *SHIPPED.shapes, *map(plural, SHIPPED.shapes), *SHIPPED.numbers}
    return frozenset(word for text in (*asked, *world) for word in _WORD.findall(text.lower()))


def looks_drawn(picture: Image.Image) -> bool:
    """Whether a picture is as flat as a generated scene."""
    values = np.asarray(picture.convert("RGB").resize((128, 128), Image.Resampling.NEAREST)).reshape(-1, 3) // 8
    codes = values.astype(np.int64) @ np.array([32 * 32, 32, 1])
    counts = np.sort(np.unique(codes, return_counts=True)[1])[::-1]
    return bool(counts[:16].sum() / counts.sum() > FLAT)


def unfamiliar(picture: Image.Image, question: str) -> list[str]:
    """Why the answer of a model that was trained on generated scenes alone is a guess; empty where it is not.

    >>> unfamiliar(Image.new("RGB", (8, 8)), "What is on the table?")
    ["no question it was trained on has 'table'"]
    """
    words = dict.fromkeys(word for word in _WORD.findall(question.lower()) if word not in known_words())
    said = []
    if words:
        named = ", ".join(map(repr, list(words)[:5])) + (" ..." if len(words) > 5 else "")
        said.append(f"no question it was trained on has {named}")
    if not looks_drawn(picture):
        said.append("it was trained on drawn scenes of coloured shapes, and this picture looks like none")
    return said
