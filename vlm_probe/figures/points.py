"""Hook points on an axis: short names, in the order in which activations pass them."""

from __future__ import annotations

import re

import pandas as pd

_PARTS = {"vision": "V", "connector": "C", "language": "L"}
_AFTER = {"in": 0, "embed": 0, "pre": 1, "post": 2, "out": 3}
_WORDS = {"V": "behind encoder layer", "C": "connector", "L": "behind language-model layer"}


def short_point(name: str) -> str:
    """A hook point's name for an axis.

    >>> [short_point(p) for p in ("vision.blocks.3.hook_resid_post", "connector.hook_out", "language.hook_embed")]
    ['V3', 'C out', 'L embed']
    """
    block = re.fullmatch(r"(vision|language)\.blocks\.(\d+)\.hook_resid_post", name)
    if block:
        return f"{_PARTS[block[1]]}{block[2]}"
    top = re.fullmatch(r"(vision|language|connector)\.hook_(\w+)", name)
    return f"{_PARTS[top[1]]} {top[2]}" if top else name


def _place(name: str) -> tuple[int, int, int]:
    """Where a point comes: its part, its block, and where in it. Unknown names come last."""
    found = re.match(r"(vision|connector|language)\.(?:blocks\.(\d+)\.)?(?:\w+\.)?hook_(?:\w*_)?(\w+)$", name)
    if not found:
        return len(_PARTS), 0, 0
    block = -1 if found[2] is None else int(found[2])
    return list(_PARTS).index(found[1]), block, _AFTER.get(found[3], 0)


def points_in_words(table: pd.DataFrame) -> str:
    """What the short names in the column `at` mean, for an axis: those that there are.

    >>> points_in_words(pd.DataFrame({"at": ["L embed", "C out", "L0"]}))
    'C: connector, L: behind language-model layer'
    """
    there = {str(name)[:1] for name in table["at"].tolist()}
    return ", ".join(f"{letter}: {words}" for letter, words in _WORDS.items() if letter in there)


def along_points(table: pd.DataFrame) -> pd.DataFrame:
    """The rows sorted by the column point, with a column `at`: its name for an axis.

    Models of different depth would else mix: the deeper one's last encoder layers came behind the language model.
    """
    points = table["point"].tolist()
    order = sorted(range(len(points)), key=lambda row: _place(points[row]))
    return table.assign(at=[short_point(point) for point in points]).iloc[order]
