"""The world of the generated scenes: shapes, colours, places, and how a scene is drawn from a seed.

All geometry is in unit coordinates of the image (x to the right, y down, both in [0, 1]), so that a
scene can be rendered at any resolution and its boxes are exact at every one of them.
"""

from __future__ import annotations

import math
import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, get_args

import numpy as np
from PIL import Image

from vlm_probe.layout import UnitBox
from vlm_probe.scenes.drawing import Background, Ground, paint_ground, paint_outline

Split = Literal["train", "heldout", "novel", "any"]
"""What scenes of a split show: "train" no held-out pair and no novel kind; "heldout" a combination of
coloured shapes that never stands in a training scene; "novel" a kind that no training scene shows;
"any" is not restricted."""
SPLITS: tuple[Split, ...] = get_args(Split)

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (214, 39, 40),
    "green": (44, 150, 60),
    "blue": (40, 90, 220),
    "yellow": (245, 215, 50),
    "purple": (145, 60, 190),
    "cyan": (50, 205, 225),
}

ROWS = ("top", "middle", "bottom")
COLUMNS = ("left", "center", "right")
MAX_OBJECTS = 3


def _polygon(radii: list[float], start: float) -> list[tuple[float, float]]:
    """Vertices at equal angles, clockwise from `start` (radians, 0 = right), one radius each."""
    step = 2 * math.pi / len(radii)
    return [(r * math.cos(start + i * step), r * math.sin(start + i * step)) for i, r in enumerate(radii)]


_ARM = 0.34
OUTLINES: dict[str, list[tuple[float, float]]] = {
    "circle": _polygon([1.0] * 32, 0.0),
    "square": [(-0.86, -0.86), (0.86, -0.86), (0.86, 0.86), (-0.86, 0.86)],
    "triangle": [(0.0, -0.95), (0.95, 0.85), (-0.95, 0.85)],
    "star": _polygon([1.1, 0.46] * 5, -math.pi / 2),
    "cross": [
        (-_ARM, -1),
        (_ARM, -1),
        (_ARM, -_ARM),
        (1, -_ARM),
        (1, _ARM),
        (_ARM, _ARM),
        (_ARM, 1),
        (-_ARM, 1),
        (-_ARM, _ARM),
        (-1, _ARM),
        (-1, -_ARM),
        (-_ARM, -_ARM),
    ],
}
"""Outline of every shape around its centre, in units of its radius."""

SHAPES = tuple(OUTLINES)

Kind = tuple[str, str]
"""A colour and a shape."""
KINDS: tuple[Kind, ...] = tuple((color, shape) for color in COLORS for shape in SHAPES)
NOVEL_KINDS: frozenset[Kind] = frozenset({("green", "cross"), ("blue", "triangle"), ("yellow", "circle")})
"""Kinds that only scenes of the split "novel" show; their colours and shapes are seen elsewhere."""
_KNOWN = tuple(kind for kind in KINDS if kind not in NOVEL_KINDS)


def is_held_out(first: Kind, second: Kind) -> bool:
    """Whether two kinds stand together in held-out scenes only: one pair in five, by a fixed hash."""
    name = "|".join(sorted(" ".join(kind) for kind in (first, second)))
    return zlib.crc32(name.encode()) % 5 == 0


def _splits(kinds: Sequence[Kind]) -> set[Split]:
    """The splits that may show these kinds together."""
    if any(kind in NOVEL_KINDS for kind in kinds):
        return {"novel", "any"}
    held_out = any(is_held_out(a, b) for a, b in combinations(kinds, 2))
    return {"heldout", "any"} if held_out else {"train", "any"}


@dataclass(frozen=True)
class SceneObject:
    """One shape: its kind, and where it is (unit coordinates)."""

    color: str
    shape: str
    row: int
    """Index into ROWS: which third of the image its centre is in."""
    column: int
    """Index into COLUMNS."""
    center: tuple[float, float]
    radius: float
    shade: tuple[float, float, float]
    """Factor on each colour channel: no two reds are quite alike."""

    @property
    def name(self) -> str:
        return f"{self.color} {self.shape}"

    @property
    def place(self) -> str:
        return f"{ROWS[self.row]} {COLUMNS[self.column]}"

    @property
    def outline(self) -> list[tuple[float, float]]:
        (x, y), r = self.center, self.radius
        return [(x + r * dx, y + r * dy) for dx, dy in OUTLINES[self.shape]]

    @property
    def ink(self) -> np.ndarray:
        """The colour it is painted in, 0 to 255 a channel (more is clipped)."""
        return np.asarray(COLORS[self.color], dtype=np.float32) * np.asarray(self.shade, np.float32)

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


def _background(rng: random.Random) -> Background:
    # Muted on purpose: tones differ little from a grey, so that no background passes for a colour.
    grey = rng.uniform(0.12, 0.88)

    def tone() -> tuple[float, float, float]:
        level = grey + rng.uniform(-0.07, 0.07)
        r, g, b = (min(max(level + rng.uniform(-0.04, 0.04), 0.0), 1.0) for _ in range(3))
        return r, g, b

    return Background(rng.choice(get_args(Ground)), (tone(), tone()), rng.uniform(0, math.pi), rng.uniform(0.08, 0.4))


def _place(rng: random.Random, color: str, shape: str, cell: int) -> SceneObject:
    row, column = divmod(cell, len(COLUMNS))
    radius = rng.uniform(0.105, 0.145)
    # The centre stays near its cell's middle, so that place words are unambiguous and neighbours
    # do not overlap (the largest outline reaches 1.1 radii).
    x, y = ((column + rng.uniform(0.42, 0.58)) / len(COLUMNS), (row + rng.uniform(0.42, 0.58)) / len(ROWS))
    shade = (rng.uniform(0.88, 1.1), rng.uniform(0.88, 1.1), rng.uniform(0.88, 1.1))
    return SceneObject(color, shape, row, column, (x, y), radius, shade)


def sample_scene(seed: int, split: Split = "train", objects: int | None = None) -> Scene:
    """Draw one scene; the same arguments always give the same scene.

    Parameters
    ----------
    seed: any integer; scenes of different splits differ for the same seed.
    split: which combinations of colour and shape it shows, see `Split`. Held-out scenes have two
        objects or more.
    objects: how many objects, 1 to `MAX_OBJECTS`; drawn at random if None.
    """
    rng = random.Random(f"scene/{split}/{seed}")
    # Scenes of one object carry few questions, so they are the rarer ones.
    n = objects if objects is not None else rng.choice((1, 2, 2, 3, 3))
    if not 1 <= n <= MAX_OBJECTS:
        raise ValueError(f"objects must be 1 to {MAX_OBJECTS}, got {n}")
    if split == "heldout":
        n = max(n, 2)
    while True:
        kinds = rng.sample(_KNOWN if split in ("train", "heldout") else KINDS, n)
        if split in _splits(kinds):
            break
    cells = sorted(rng.sample(range(len(ROWS) * len(COLUMNS)), n))
    placed = tuple(_place(rng, *kind, cell) for kind, cell in zip(kinds, cells, strict=True))
    return Scene(seed, split, placed, _background(rng))


def edit_scene(scene: Scene, rng: random.Random) -> Scene:
    """A twin that differs in exactly one visual fact: one object's colour, shape or place."""
    index = rng.randrange(len(scene.objects))
    old = scene.objects[index]
    others = [o for i, o in enumerate(scene.objects) if i != index]
    rest = [(o.color, o.shape) for o in others]
    allowed = [k for k in KINDS if k not in rest and k != (old.color, old.shape) and scene.split in _splits([*rest, k])]
    recolored = [k for k in allowed if k[1] == old.shape]
    reshaped = [k for k in allowed if k[0] == old.color]
    taken = {o.row * len(COLUMNS) + o.column for o in scene.objects}
    free = [c for c in range(len(ROWS) * len(COLUMNS)) if c not in taken]
    cell = old.row * len(COLUMNS) + old.column
    change = rng.choice(("color", "shape", "place"))
    color, shape = old.color, old.shape
    # Where the split leaves no other colour or shape, the place changes.
    if change == "color" and recolored:
        color, shape = rng.choice(recolored)
    elif change == "shape" and reshaped:
        color, shape = rng.choice(reshaped)
    else:
        cell = rng.choice(free)
    objects = sorted([*others, _place(rng, color, shape, cell)], key=lambda o: (o.row, o.column))
    return Scene(scene.seed, scene.split, tuple(objects), scene.background)


def askable_kinds(split: Split) -> tuple[Kind, ...]:
    """The kinds that questions of a split may name.

    Questions about training scenes never name a novel kind: it would always be absent, and naming
    it would teach to deny it.
    """
    return _KNOWN if split in ("train", "heldout") else KINDS
