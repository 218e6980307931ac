"""Questions about a scene whose answers and boxes are known."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vlm_probe.layout import UnitBox
from vlm_probe.scenes.world import COLORS, COLUMNS, SHAPES, Scene, SceneObject, askable_kinds

NUMBERS = ("zero", "one", "two", "three")
YES_NO = ("yes", "no")
SIDES = ("left", "right")


@dataclass(frozen=True)
class Question:
    """One question: text, answer, and what it is about."""

    kind: str
    """Question type, a key of `QUESTION_TYPES`."""
    text: str
    answer: str
    choices: tuple[str, ...]
    """The answers this kind of question can have; chance is one over their number."""
    objects: tuple[SceneObject, ...]
    """The objects one must look at to answer; empty where the answer is an absence."""

    @property
    def boxes(self) -> tuple[UnitBox, ...]:
        """Boxes of `objects`."""
        return tuple(o.box for o in self.objects)


def _color(scene: Scene, rng: random.Random) -> Question | None:
    unique = [o for o in scene.objects if sum(p.shape == o.shape for p in scene.objects) == 1]
    if not unique:
        return None
    o = rng.choice(unique)
    return Question("color", f"What color is the {o.shape}?", o.color, tuple(COLORS), (o,))


def _shape(scene: Scene, rng: random.Random) -> Question | None:
    unique = [o for o in scene.objects if sum(p.color == o.color for p in scene.objects) == 1]
    if not unique:
        return None
    o = rng.choice(unique)
    return Question("shape", f"What shape is the {o.color} object?", o.shape, SHAPES, (o,))


def _existence(scene: Scene, rng: random.Random) -> Question:
    present = {(o.color, o.shape): o for o in scene.objects}
    if rng.random() < 0.5:
        o = rng.choice(scene.objects)
        return Question("existence", f"Is there a {o.name}?", "yes", YES_NO, (o,))
    # Adversarial half: an absent kind that shares its colour or its shape with something present.
    absent = [k for k in askable_kinds(scene.split) if k not in present]
    near = [k for k in absent if any(k[0] == o.color or k[1] == o.shape for o in scene.objects)]
    color, shape = rng.choice(near if near and rng.random() < 0.5 else absent)
    return Question("existence", f"Is there a {color} {shape}?", "no", YES_NO, ())


def _count(scene: Scene, rng: random.Random) -> Question:
    what = rng.choice(("all", "color", "shape"))
    if what == "all":
        counted, text = scene.objects, "How many objects are there?"
    else:
        # Three in four ask for something that is there, or zero would be the safe guess.
        o = rng.choice(scene.objects)
        there = rng.random() < 0.75
        if what == "color":
            color = o.color if there else rng.choice(list(COLORS))
            counted = tuple(p for p in scene.objects if p.color == color)
            text = f"How many {color} objects are there?"
        else:
            shape = o.shape if there else rng.choice(SHAPES)
            counted = tuple(p for p in scene.objects if p.shape == shape)
            text = f"How many {shape}s are there?" if shape != "cross" else "How many crosses are there?"
    return Question("count", text, NUMBERS[len(counted)], NUMBERS, counted)


def _side(scene: Scene, rng: random.Random) -> Question | None:
    beside = [o for o in scene.objects if COLUMNS[o.column] != "center"]
    if not beside:
        return None
    o = rng.choice(beside)
    text = f"Is the {o.name} on the left or on the right?"
    return Question("side", text, COLUMNS[o.column], SIDES, (o,))


_RELATIONS: dict[str, Callable[[SceneObject, SceneObject], int]] = {
    "left of": lambda a, b: b.column - a.column,
    "right of": lambda a, b: a.column - b.column,
    "above": lambda a, b: b.row - a.row,
    "below": lambda a, b: a.row - b.row,
}
"""Positive where the relation holds, negative where its opposite does, zero where neither."""


def _relation(scene: Scene, rng: random.Random) -> Question | None:
    if len(scene.objects) < 2:
        return None
    a, b = rng.sample(scene.objects, 2)
    decided = [(name, sign(a, b)) for name, sign in _RELATIONS.items() if sign(a, b) != 0]
    name, sign = rng.choice(decided)
    text = f"Is the {a.name} {name} the {b.name}?"
    return Question("relation", text, "yes" if sign > 0 else "no", YES_NO, (a, b))


def _attribute(scene: Scene, rng: random.Random) -> Question | None:
    asked = _color(scene, rng)
    if asked is None:
        return None
    (o,) = asked.objects
    color = o.color
    if rng.random() < 0.5:
        # Adversarial half, as in "existence": a colour that something else in the image has.
        others = [c for c in COLORS if c != o.color]
        near = [c for c in others if any(p.color == c for p in scene.objects)]
        color = rng.choice(near if near and rng.random() < 0.5 else others)
    text = f"Is the {o.shape} {color}?"
    return Question("attribute", text, "yes" if color == o.color else "no", YES_NO, (o,))


def _number(scene: Scene, rng: random.Random) -> Question:
    asked = _count(scene, rng)
    said = asked.answer
    if rng.random() < 0.5:
        said = rng.choice([n for n in NUMBERS if n != asked.answer])
    thing = asked.text.removeprefix("How many ").removesuffix(" are there?")
    answer = "yes" if said == asked.answer else "no"
    return Question("number", f"Is the number of {thing} {said}?", answer, YES_NO, asked.objects)


def _position(scene: Scene, rng: random.Random) -> Question | None:
    asked = _side(scene, rng)
    if asked is None:
        return None
    (o,) = asked.objects
    said = rng.choice(asked.choices)
    answer = "yes" if said == asked.answer else "no"
    return Question("position", f"Is the {o.name} on the {said}?", answer, YES_NO, (o,))


def _parts(scene: Scene, rng: random.Random) -> Question | None:
    askable = [o for o in scene.objects if sum(p.shape == o.shape for p in scene.objects) == 1]
    askable = [o for o in askable if COLUMNS[o.column] != "center"]
    if not askable:
        return None
    o = rng.choice(askable)
    text = f"What color is the {o.shape}, and is it on the left or on the right?"
    both = tuple(f"{color}, {side}" for color in COLORS for side in SIDES)
    return Question("parts", text, f"{o.color}, {COLUMNS[o.column]}", both, (o,))


QUESTION_TYPES: dict[str, Callable[[Scene, random.Random], Question | None]] = {
    "color": _color,
    "shape": _shape,
    "existence": _existence,
    "count": _count,
    "side": _side,
    "relation": _relation,
    "attribute": _attribute,
    "number": _number,
    "position": _position,
    "parts": _parts,
}
"""Question type -> its sampler, which returns None where the scene cannot carry such a question."""


def ask(
    scene: Scene, rng: random.Random, kind: str | None = None, *, among: Sequence[str] = tuple(QUESTION_TYPES)
) -> Question:
    """One question about a scene, of the given kind or of a random kind the scene can carry.

    `among` lists the kinds a random one is drawn from; one named twice comes twice as often.

    Raises ValueError if the scene cannot carry a question of that kind (a relation needs two
    objects, say).
    """
    if kind is not None:
        question = QUESTION_TYPES[kind](scene, rng)
        if question is None:
            raise ValueError(f"this scene has no {kind!r} question: {scene.caption}")
        return question
    while True:
        question = QUESTION_TYPES[rng.choice(among)](scene, rng)
        if question is not None:
            return question
