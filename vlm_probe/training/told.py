"""What a contrastive encoder is told of its images, and which twins it has to tell apart: a row a kind of encoder."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from vlm_probe.scenes import Scene, SceneObject, edit_scene
from vlm_probe.scenes.worlds import NUMBERS

Caption = tuple[str, ...]
"""Sentences, in order."""


def _of(o: SceneObject) -> str:
    return f"a {o.name} at the {o.place}."


def _everything(scene: Scene) -> list[Caption]:
    return [tuple(map(_of, scene.objects))]


def _one_object(scene: Scene) -> list[Caption]:
    return [(_of(o),) for o in scene.objects]


def _places(scene: Scene) -> list[Caption]:
    n = len(scene.objects)
    return [(f"{NUMBERS[n]} object{'s' * (n > 1)}.", *(f"at the {o.place}." for o in scene.objects))]


def places_twin(scene: Scene, rng: random.Random) -> Scene:
    """A twin with one object elsewhere, one less or one more; colours and shapes of the others stay."""
    world, objects = scene.world, list(scene.objects)
    columns = len(world.columns)
    taken = {o.row * columns + o.column for o in objects}
    free = [cell for cell in range(len(world.rows) * columns) if cell not in taken]
    changes = ["move", *(["less"] if len(objects) > 1 else []), *(["more"] if len(objects) < world.max_objects else [])]
    change, chosen = rng.choice(changes), rng.randrange(len(objects))
    changed = objects[chosen] if change == "more" else objects.pop(chosen)
    if change == "more":
        kinds = [o.kind for o in objects]
        others = [k for k in world.kinds_of(scene.split) if k not in kinds]
        color, shape = rng.choice([k for k in others if scene.split in world.splits([*kinds, k])])
        changed = replace(changed, color=color, shape=shape, radius=rng.uniform(*world.radii))
    if change != "less":
        row, column = divmod(rng.choice(free), columns)
        # As far from the middle of its new cell as it was from that of the old one.
        x = changed.center[0] + (column - changed.column) / columns
        y = changed.center[1] + (row - changed.row) / len(world.rows)
        objects.append(replace(changed, row=row, column=column, center=(x, y)))
    objects.sort(key=lambda o: (o.row, o.column))
    return replace(scene, objects=tuple(objects))


@dataclass(frozen=True)
class Told:
    """A kind of contrastive encoder."""

    captions: Callable[[Scene], list[Caption]] = _everything
    """All that can be said of a scene; one of them is."""
    twin: Callable[[Scene, random.Random], Scene] | None = edit_scene
    """Makes the other half of a batch, twins of the first; None: all scenes are fresh, as many of them."""
    spares: bool = False
    """Whether what is said of one image, and happens to be true of another, is left out of the other's contrast."""


TOLD: dict[str, Told] = {
    "clip": Told(),
    "clip-one": Told(_one_object, spares=True),
    "clip-places": Told(_places, places_twin, spares=True),
    "clip-alone": Told(twin=None),
}
"""By kind of encoder. "clip" is told all and has twins that differ in one fact; "clip-one" is told of one object, drawn
at random; "clip-places" how many objects there are and where, never of which color or shape; "clip-alone" is told all
and has no twins.

Twins differ in what is said of them. Those of "clip-one" are the very twins of "clip", and the object that is named is
the one that differs; those of "clip-places" are its own, since a twin of another color would be told alike.

So little is said to "clip-one" and "clip-places" that of a step's 128 captions half and more are true of some image
that they do not come with: 90 and 60 such pairs a step. They are no negatives, and are spared. "clip" and "clip-alone"
have less than one a step, of scenes with one object, and keep it, as the shipped encoder does."""


def said(kind: str, scenes: list[Scene], rng: random.Random) -> tuple[list[Scene], list[Caption]]:
    """The scenes of a batch, their twins among them, and what is said of each.

    kind: of `TOLD`.
    """
    told = TOLD[kind]
    if told.twin is None:
        return scenes, [rng.choice(told.captions(scene)) for scene in scenes]
    twins = [told.twin(scene, rng) for scene in scenes]
    views = [*zip(scenes, twins, strict=True), *zip(twins, scenes, strict=True)]
    # What is true of a scene and not of its twin: the one caption, or that of the one object that differs.
    return [*scenes, *twins], [
        next(c for c in told.captions(scene) if c not in told.captions(twin)) for scene, twin in views
    ]


def spared(kind: str, scenes: list[Scene], captions: list[Caption]) -> list[list[bool]]:
    """[image, caption]: which captions are true of an image that they do not come with."""
    true = [set(TOLD[kind].captions(scene)) for scene in scenes]
    return [[i != j and caption in own for j, caption in enumerate(captions)] for i, own in enumerate(true)]
