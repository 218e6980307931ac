"""Groups of positions by name: one language for every summary and intervention.

positions_of(layout, "question")
positions_of(layout, "image & ~box", boxes=item.boxes)
positions_of(layout, "sink | answer", sinks=[0, 7])
positions_of(layout, "star")  # a word of the question; "'box'" where a group has its name
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Sequence
from functools import partial
from numbers import Integral
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from vlm_probe.errors import VlmProbeError
from vlm_probe.layout.boxes import AnyBox
from vlm_probe.layout.token_layout import TokenLayout

Where = str | int | Sequence[int]
"""A group's name, a word of the question, or a boolean combination of those (`&`, `|`, `~`, brackets); or positions."""

GROUPS: dict[str, str] = {
    "all": "every position",
    "image": "the patches of all images",
    "box": "the patches that the item's boxes overlap",
    "background": "the other patches",
    "sink": "attention sinks, as they were found",
    "text": "everything that is not of an image",
    "question": "the tokens of the question itself",
    "prompt": "the template's text around the question, without the answer position",
    "tail": "the template's text behind the question, without the answer position",
    "answer": "the last position of the prompt, which predicts the first answer token",
}
"""Name -> what it holds."""


def positions_of(
    layout: TokenLayout, where: Where, *, boxes: Sequence[AnyBox] = (), sinks: Sequence[int] = ()
) -> Int[np.ndarray, " position"]:
    """The positions that a group, a combination of groups, or numbers name, in ascending order (numbers: as given).

    >>> from vlm_probe.layout import ImageSpan
    >>> span = ImageSpan(np.arange(1, 5), (2, 2), np.arange(0))
    >>> layout = TokenLayout(8, (span,), np.array([0, 5, 6, 7]), np.array([5, 6]), 7)
    >>> positions_of(layout, "image | answer").tolist()
    [1, 2, 3, 4, 7]

    Parameters
    ----------
    boxes: of the item, for "box" and "background"; on the first image where they lie.
    sinks: positions of sinks, for "sink".

    Raises
    ------
    VlmProbeError: an unknown group, an expression that is none, a group that is empty here, "box" or "background"
        without boxes, "sink" without sinks, positions outside the sequence.
    """
    if isinstance(where, str):
        found = np.flatnonzero(_mask(layout, where, boxes, sinks))
        if len(found) == 0:
            raise VlmProbeError(f"this prompt has no {where} positions")
        return found
    given = numbers_in(where)
    if not given or not 0 <= min(given) <= max(given) < layout.length:
        raise VlmProbeError(f"positions must be between 0 and {layout.length - 1}, got {given}")
    return np.asarray(given)


def numbers_in(where: int | Sequence[int]) -> list[int]:
    """Positions given by number; VlmProbeError for what is no number: True and False are no 1 and 0."""
    given: list[Any] = [where] if isinstance(where, Integral) else list(where)  # pyright: ignore[reportArgumentType]
    if set(map(type, given)) == {int}:  # sweeps give thousands, again and again
        return given
    odd = [one for one in given if isinstance(one, bool | np.bool_) or not isinstance(one, Integral)]
    if odd:
        raise VlmProbeError(f"positions are given by number or by name, got {odd[0]!r}")
    return [int(one) for one in given]


def _mask(layout: TokenLayout, where: str, boxes: Sequence[AnyBox], sinks: Sequence[int]) -> Bool[np.ndarray, " all"]:
    try:
        tree = ast.parse(where.strip(), mode="eval").body
    except SyntaxError:
        raise _unknown(where) from None

    def read(node: ast.expr) -> np.ndarray:
        if isinstance(node, ast.Name):
            return _named(layout, node.id, boxes, sinks)
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return _word(layout, node.value)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Invert):
            return ~read(node.operand)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitAnd):
            return read(node.left) & read(node.right)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
            return read(node.left) | read(node.right)
        raise _unknown(where)

    return read(tree)


def _unknown(where: str) -> VlmProbeError:
    return VlmProbeError(
        f"no positions {where!r}; there are {', '.join(GROUPS)} and the words of the question, which combine with &, | "
        "and ~, or give numbers"
    )


def _named(layout: TokenLayout, name: str, boxes: Sequence[AnyBox], sinks: Sequence[int]) -> np.ndarray:
    if name not in GROUPS:
        return _word(layout, name)
    if name in ("box", "background") and not boxes:
        raise VlmProbeError(f"positions {name!r} need the item's boxes, and there is none")
    if name == "sink" and not len(sinks):
        raise VlmProbeError("positions 'sink' need the sinks that were found, and there is none")

    at, in_box = partial(_at, layout), partial(_in_box, layout, boxes)
    image, question, answer = at(layout.image_positions), at(layout.question_positions), at([layout.answer_position])
    text = at(layout.text_positions)
    found: dict[str, Callable[[], np.ndarray]] = {
        "all": lambda: np.ones(layout.length, dtype=bool),
        "image": lambda: image,
        "box": in_box,
        "background": lambda: image & ~in_box(),
        "sink": lambda: at(sinks),
        "text": lambda: text,
        "question": lambda: question,
        "prompt": lambda: text & ~question & ~answer,
        "tail": lambda: (
            text & ~question & ~answer & (np.arange(layout.length) > layout.question_positions.max(initial=-1))
        ),
        "answer": lambda: answer,
    }
    return found[name]()


def _at(layout: TokenLayout, positions: Sequence[int] | np.ndarray) -> np.ndarray:
    mask = np.zeros(layout.length, dtype=bool)
    mask[np.asarray(positions, dtype=int)] = True
    return mask


def _in_box(layout: TokenLayout, boxes: Sequence[AnyBox]) -> np.ndarray:
    """Patches of the first picture, and of its tiles, that a box overlaps."""
    layout.image()  # its error where there is none
    at = [s.positions[np.any([s.box_to_patches(box).ravel() for box in boxes], axis=0)] for s in layout.views()]
    return _at(layout, np.concatenate(at))


def _word(layout: TokenLayout, word: str) -> np.ndarray:
    """The tokens of the question that spell a word, wherever it stands in it."""
    at = layout.question_positions
    pieces = [layout.tokens[p] for p in at] if layout.tokens else []
    ends = np.cumsum([len(piece) for piece in pieces], dtype=int)
    starts = ends - [len(piece) for piece in pieces]
    mask = np.zeros(layout.length, dtype=bool)
    for found in re.finditer(rf"(?<!\w){re.escape(word)}(?!\w)", "".join(pieces), re.IGNORECASE):
        mask[at[(starts < found.end()) & (ends > found.start())]] = True
    if not mask.any():
        raise _unknown(word)
    return mask
