"""Questions about a scene whose answers and boxes are known."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import permutations

from vlm_probe.layout import UnitBox
from vlm_probe.scenes.world import Scene, SceneObject
from vlm_probe.scenes.worlds import NUMBERS

YES_NO = ("yes", "no")
SIDES = ("left", "right")


@dataclass(frozen=True)
class Question:
    """One question: text, answer, and what it is about."""

    kind: str
    """Question type, a key of `SAMPLERS`."""
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


def _by_shape(scene: Scene) -> list[SceneObject]:
    """The objects that "the star" names: no other has their shape."""
    return [o for o in scene.objects if sum(p.shape == o.shape for p in scene.objects) == 1]


def _by_color(scene: Scene) -> list[SceneObject]:
    return [o for o in scene.objects if sum(p.color == o.color for p in scene.objects) == 1]


def _color(scene: Scene, rng: random.Random) -> Question | None:
    unique = _by_shape(scene)
    if not unique:
        return None
    o = rng.choice(unique)
    return Question("color", f"What color is the {o.shape}?", o.color, tuple(scene.world.colors), (o,))


def _shape(scene: Scene, rng: random.Random) -> Question | None:
    unique = _by_color(scene)
    if not unique:
        return None
    o = rng.choice(unique)
    return Question("shape", f"What shape is the {o.color} object?", o.shape, tuple(scene.world.shapes), (o,))


def _existence(scene: Scene, rng: random.Random) -> Question:
    present = {(o.color, o.shape): o for o in scene.objects}
    if rng.random() < 0.5:
        o = rng.choice(scene.objects)
        return Question("existence", f"Is there a {o.name}?", "yes", YES_NO, (o,))
    # Adversarial half: an absent kind that shares its colour or its shape with something present.
    absent = [k for k in scene.world.kinds_of(scene.split) if k not in present]
    near = [k for k in absent if any(k[0] == o.color or k[1] == o.shape for o in scene.objects)]
    color, shape = rng.choice(near if near and rng.random() < 0.5 else absent)
    return Question("existence", f"Is there a {color} {shape}?", "no", YES_NO, ())


def plural(noun: str) -> str:
    """Several of a shape."""
    return f"{noun}es" if noun.endswith("s") else f"{noun}s"


def _count(scene: Scene, rng: random.Random) -> Question:
    what = rng.choice(("all", "color", "shape"))
    if what == "all":
        counted, text = scene.objects, "How many objects are there?"
    else:
        # Three in four ask for something that is there, or zero would be the safe guess.
        o = rng.choice(scene.objects)
        there = rng.random() < 0.75
        if what == "color":
            color = o.color if there else rng.choice(list(scene.world.colors))
            counted = tuple(p for p in scene.objects if p.color == color)
            text = f"How many {color} objects are there?"
        else:
            shape = o.shape if there else rng.choice(list(scene.world.shapes))
            counted = tuple(p for p in scene.objects if p.shape == shape)
            text = f"How many {plural(shape)} are there?"
    return Question("count", text, NUMBERS[len(counted)], scene.world.numbers, counted)


def _side_of(o: SceneObject) -> str:
    """ "left" or "right" for an object in an outer column, "" for the others."""
    column = o.world.columns[o.column]
    return column if column in SIDES else ""


def _side(scene: Scene, rng: random.Random) -> Question | None:
    beside = [o for o in scene.objects if _side_of(o)]
    if not beside:
        return None
    o = rng.choice(beside)
    text = f"Is the {o.name} on the left or on the right?"
    return Question("side", text, _side_of(o), SIDES, (o,))


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
        others = [c for c in scene.world.colors if c != o.color]
        if scene.world.spares_novel:
            others = [c for c in others if (c, o.shape) in scene.world.kinds_of(scene.split)]
        near = [c for c in others if any(p.color == c for p in scene.objects)]
        color = rng.choice(near if near and rng.random() < 0.5 else others)
    text = f"Is the {o.shape} {color}?"
    return Question("attribute", text, "yes" if color == o.color else "no", YES_NO, (o,))


def _number(scene: Scene, rng: random.Random) -> Question:
    asked = _count(scene, rng)
    said = asked.answer
    if rng.random() < 0.5:
        said = rng.choice([n for n in asked.choices if n != asked.answer])
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
    askable = [o for o in _by_shape(scene) if _side_of(o)]
    if not askable:
        return None
    o = rng.choice(askable)
    text = f"What color is the {o.shape}, and is it on the left or on the right?"
    both = tuple(f"{color}, {side}" for color in scene.world.colors for side in SIDES)
    return Question("parts", text, f"{o.color}, {_side_of(o)}", both, (o,))


def _beside(scene: Scene, o: SceneObject, relation: str) -> tuple[SceneObject, ...]:
    """All objects in a column left of an object's, say; within one column none is left of another."""
    return tuple(p for p in scene.objects if p is not o and _RELATIONS[relation](p, o) > 0)


def _only_beside(
    scene: Scene, named: Sequence[SceneObject], rng: random.Random
) -> tuple[SceneObject, str, SceneObject] | None:
    """An object, a relation, and the only object that stands in this relation to it."""
    there = [(o, name, _beside(scene, o, name)) for o in named for name in _RELATIONS]
    single = [(o, name, found[0]) for o, name, found in there if len(found) == 1]
    return rng.choice(single) if single else None


def _color_beside(scene: Scene, rng: random.Random) -> Question | None:
    found = _only_beside(scene, _by_shape(scene), rng)
    if found is None:
        return None
    o, relation, target = found
    text = f"What color is the object {relation} the {o.shape}?"
    return Question("color_beside", text, target.color, tuple(scene.world.colors), (target, o))


def _shape_beside(scene: Scene, rng: random.Random) -> Question | None:
    found = _only_beside(scene, _by_color(scene), rng)
    if found is None:
        return None
    o, relation, target = found
    text = f"What shape is the object {relation} the {o.color} object?"
    return Question("shape_beside", text, target.shape, tuple(scene.world.shapes), (target, o))


def _count_beside(scene: Scene, rng: random.Random) -> Question | None:
    choices = scene.world.numbers[:-1]
    there = [(o, name, _beside(scene, o, name)) for o in _by_shape(scene) for name in _RELATIONS]
    if not there:
        return None
    # First how many, then where: or none would be the answer to two in five.
    n = rng.choice(sorted({len(found) for _, _, found in there}))
    o, relation, found = rng.choice([one for one in there if len(one[2]) == n])
    text = f"How many objects are {relation} the {o.shape}?"
    return Question("count_beside", text, NUMBERS[n], choices, (o, *found))


def _same_color(scene: Scene, rng: random.Random) -> Question | None:
    pairs = list(permutations(_by_shape(scene), 2))
    same, other = ([p for p in pairs if (p[0].color == p[1].color) is alike] for alike in (True, False))
    # Only scenes that have both, or most answers would be no.
    if not same or not other:
        return None
    a, b = rng.choice(same if rng.random() < 0.5 else other)
    text = f"Is the {a.shape} of the same color as the {b.shape}?"
    return Question("same_color", text, "yes" if a.color == b.color else "no", YES_NO, (a, b))


Sampler = Callable[[Scene, random.Random], Question | None]
"""Draws a question; None where the scene cannot carry one of this kind."""

QUESTION_TYPES: dict[str, Sampler] = {
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
"""Question type -> its sampler, of those that the shipped world asks."""

TWO_STEPS: dict[str, Sampler] = {
    "color_beside": _color_beside,
    "shape_beside": _shape_beside,
    "count_beside": _count_beside,
    "same_color": _same_color,
}
"""Question types in which one thing has to be found before another can be looked at; the studies' world asks them."""

SAMPLERS: dict[str, Sampler] = {**QUESTION_TYPES, **TWO_STEPS}
"""All question types that a world can ask."""


def ask(scene: Scene, rng: random.Random, kind: str | None = None, *, among: Sequence[str] | None = None) -> Question:
    """One question about a scene, of the given kind or of a random kind the scene can carry.

    `among` lists the kinds a random one is drawn from, its world's if None; one named twice comes twice as often.

    Raises ValueError if the scene cannot carry a question of that kind (a relation needs two
    objects, say).
    """
    if kind is not None:
        question = SAMPLERS[kind](scene, rng)
        if question is None:
            raise ValueError(f"this scene has no {kind!r} question: {scene.caption}")
        return question
    kinds = scene.world.questions if among is None else among
    while True:
        question = SAMPLERS[rng.choice(kinds)](scene, rng)
        if question is not None:
            return question
