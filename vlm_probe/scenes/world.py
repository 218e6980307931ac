"""Generated scenes: objects of a world in their places, and how they are drawn from a seed.

All geometry is in unit coordinates of the image (x to the right, y down, both in [0, 1]), so that a
scene can be rendered at any resolution and its boxes are exact at every one of them.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from typing import get_args

import numpy as np
from PIL import Image

from vlm_probe.layout import UnitBox
from vlm_probe.scenes.drawing import Background, Ground, paint_ground, paint_outline
from vlm_probe.scenes.worlds import SHIPPED, SPLITS, Ink, Kind, Split, World

__all__ = [
    "COLORS",
    "COLUMNS",
    "KINDS",
    "MAX_OBJECTS",
    "NOVEL_KINDS",
    "ROWS",
    "SHAPES",
    "SPLITS",
    "Kind",
    "Scene",
    "SceneObject",
    "Split",
    "edit_scene",
    "is_held_out",
    "render",
    "sample_scene",
    "scene_image",
]

# The shipped world's, under the names they had when there was no other.
COLORS: dict[str, Ink] = dict(SHIPPED.colors)
SHAPES = tuple(SHIPPED.shapes)
ROWS, COLUMNS = SHIPPED.rows, SHIPPED.columns
MAX_OBJECTS = SHIPPED.max_objects
KINDS = SHIPPED.kinds
NOVEL_KINDS = SHIPPED.novel


def is_held_out(first: Kind, second: Kind, world: World = SHIPPED) -> bool:
    """`World.is_held_out`, as a function."""
    return world.is_held_out(first, second)


@dataclass(frozen=True)
class SceneObject:
    """One shape: its kind, and where it is (unit coordinates)."""

    color: str
    shape: str
    row: int
    """Index into its world's rows: which third of the image its centre is in."""
    column: int
    """Index into its world's columns."""
    center: tuple[float, float]
    radius: float
    shade: tuple[float, float, float]
    """Factor on each colour channel: no two reds are quite alike."""
    world: World = field(default=SHIPPED, repr=False)
    """What gives its colour an ink, and its shape an outline."""

    @property
    def name(self) -> str:
        return f"{self.color} {self.shape}"

    @property
    def place(self) -> str:
        return f"{self.world.rows[self.row]} {self.world.columns[self.column]}"

    @property
    def kind(self) -> Kind:
        return self.color, self.shape

    @property
    def outline(self) -> list[tuple[float, float]]:
        (x, y), r = self.center, self.radius
        return [(x + r * dx, y + r * dy) for dx, dy in self.world.shapes[self.shape]]

    @property
    def ink(self) -> np.ndarray:
        """The colour it is painted in, 0 to 255 a channel (more is clipped)."""
        return np.asarray(self.world.colors[self.color], dtype=np.float32) * np.asarray(self.shade, np.float32)

    @property
    def box(self) -> UnitBox:
        """Tight bounding box of what is visible (a star's tip may leave the image)."""
        xs, ys = zip(*self.outline, strict=True)
        return UnitBox(max(min(xs), 0.0), max(min(ys), 0.0), min(max(xs), 1.0), min(max(ys), 1.0))


@dataclass(frozen=True)
class Scene:
    """A few objects on a background; objects stand in reading order (row, then column)."""

    seed: int
    split: Split
    objects: tuple[SceneObject, ...]
    background: Background
    world: World = SHIPPED

    @property
    def caption(self) -> str:
        """Colour, shape and place of every object, in reading order."""
        return " ".join(f"a {o.name} at the {o.place}." for o in self.objects)

    def image(self, size: int) -> Image.Image:
        """The scene drawn at `size` pixels a side."""
        return Image.fromarray(render(self, size))


def render(scene: Scene, size: int) -> np.ndarray:
    """Draw a scene as [size, size, 3] uint8 (row, column, RGB)."""
    canvas = paint_ground(scene.background, size)
    for o in scene.objects:
        paint_outline(canvas, o.outline, o.box, o.ink)
    return (canvas * 255 + 0.5).astype(np.uint8)


def scene_image(scene: Scene, size: int) -> Image.Image:
    """`Scene.image`, as a function."""
    return scene.image(size)


def _background(rng: random.Random, world: World) -> Background:
    # Muted on purpose: tones differ little from a grey, so that no background passes for a colour.
    grey = rng.uniform(*world.greys)
    ground = rng.choice(get_args(Ground))
    return Background(ground, (_tone(rng, grey), _tone(rng, grey)), rng.uniform(0, math.pi), rng.uniform(0.08, 0.4))


def _tone(rng: random.Random, grey: float) -> tuple[float, float, float]:
    level = grey + rng.uniform(-0.07, 0.07)
    r, g, b = (min(max(level + rng.uniform(-0.04, 0.04), 0.0), 1.0) for _ in range(3))
    return r, g, b


def _place(rng: random.Random, world: World, kind: Kind, cell: int) -> SceneObject:
    row, column = divmod(cell, len(world.columns))
    radius = rng.uniform(*world.radii)
    # The centre stays near its cell's middle, so that place words are unambiguous and neighbours do not overlap (the
    # largest outline reaches 1.1 radii); two of the largest in the shipped world may, by 0.0245 of the image.
    x = (column + rng.uniform(0.42, 0.58)) / len(world.columns)
    y = (row + rng.uniform(0.42, 0.58)) / len(world.rows)
    shade = (rng.uniform(0.88, 1.1), rng.uniform(0.88, 1.1), rng.uniform(0.88, 1.1))
    return SceneObject(*kind, row, column, (x, y), radius, shade, world)


def sample_scene(seed: int, split: Split = "train", objects: int | None = None, *, world: World = SHIPPED) -> Scene:
    """Draw one scene; the same arguments always give the same scene.

    Parameters
    ----------
    seed: any integer; scenes of different splits differ for the same seed.
    split: which combinations of colour and shape it shows, see `Split`. Held-out scenes have two
        objects or more.
    objects: how many objects, 1 to `world.max_objects`; drawn at random if None.
    world: what there is to show.
    """
    rng = random.Random(f"{world.salt}scene/{split}/{seed}")
    n = objects if objects is not None else rng.choice(world.counts)
    if not 1 <= n <= world.max_objects:
        raise ValueError(f"objects must be 1 to {world.max_objects}, got {n}")
    if split == "heldout":
        n = max(n, 2)
    while True:
        kinds = rng.sample(world.kinds_of(split), n)
        if split in world.splits(kinds):
            break
    cells = sorted(rng.sample(range(len(world.rows) * len(world.columns)), n))
    placed = tuple(_place(rng, world, kind, cell) for kind, cell in zip(kinds, cells, strict=True))
    return Scene(seed, split, placed, _background(rng, world), world)


def edit_scene(scene: Scene, rng: random.Random) -> Scene:
    """A twin that differs in exactly one visual fact: one object's colour, shape or place."""
    world = scene.world
    index = rng.randrange(len(scene.objects))
    old = scene.objects[index]
    others = [o for i, o in enumerate(scene.objects) if i != index]
    rest = [o.kind for o in others]
    # Of one colour or shape, or it will not be chosen: with five objects most other kinds need not be looked at.
    alike = [k for k in world.kinds if (k[0] == old.color) != (k[1] == old.shape) and k not in rest]
    allowed = [k for k in alike if scene.split in world.splits([*rest, k])]
    recolored = [k for k in allowed if k[1] == old.shape]
    reshaped = [k for k in allowed if k[0] == old.color]
    columns = len(world.columns)
    taken = {o.row * columns + o.column for o in scene.objects}
    free = [c for c in range(len(world.rows) * columns) if c not in taken]
    cell = old.row * columns + old.column
    change = rng.choice(("color", "shape", "place"))
    kind = old.kind
    # Where the split leaves no other colour or shape, the place changes.
    if change == "color" and recolored:
        kind = rng.choice(recolored)
    elif change == "shape" and reshaped:
        kind = rng.choice(reshaped)
    else:
        cell = rng.choice(free)
    objects = sorted([*others, _place(rng, world, kind, cell)], key=lambda o: (o.row, o.column))
    return Scene(scene.seed, scene.split, tuple(objects), scene.background, world)
