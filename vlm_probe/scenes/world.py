"""The world of the generated scenes: shapes, colours, places, and how a scene is drawn from a seed.

All geometry is in unit coordinates of the image (x to the right, y down, both in [0, 1]), so that a
scene can be rendered at any resolution and its boxes are exact at every one of them.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Split = Literal["train", "heldout"]
Number = float | int
Box = tuple[Number, Number, Number, Number]
"""Left, top, right, bottom; right and bottom are exclusive edges."""

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
    "cross": [(-_ARM, -1), (_ARM, -1), (_ARM, -_ARM), (1, -_ARM), (1, _ARM), (_ARM, _ARM),
              (_ARM, 1), (-_ARM, 1), (-_ARM, _ARM), (-1, _ARM), (-1, -_ARM), (-_ARM, -_ARM)],
}  # fmt: skip
"""Outline of every shape around its centre, in units of its radius."""

SHAPES = tuple(OUTLINES)

HELD_OUT: frozenset[tuple[str, str]] = frozenset(
    (color, SHAPES[i % len(SHAPES)]) for i, color in enumerate(COLORS)
)
"""(colour, shape) pairs no training scene shows and no training question names.

Every colour and every shape is also seen in training, so that a held-out pair asks for a new
combination of known parts. Naming one in a training question would teach "no" by elimination.
"""
_ALL = tuple((color, shape) for color in COLORS for shape in SHAPES)
_TRAIN = tuple(kind for kind in _ALL if kind not in HELD_OUT)


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
    def box(self) -> Box:
        """Tight bounding box in unit coordinates."""
        xs, ys = zip(*self.outline, strict=True)
        return min(xs), min(ys), max(xs), max(ys)


@dataclass(frozen=True)
class Background:
    """A muted two-tone ground: plain, a gradient, stripes or checks."""

    kind: Literal["plain", "gradient", "stripes", "checks"]
    tones: tuple[tuple[float, float, float], tuple[float, float, float]]
    """Two colours, each channel in [0, 1]."""
    angle: float
    """Direction of the gradient or the stripes, radians."""
    period: float
    """Length of a stripe or check, in image widths."""


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


def _background(rng: random.Random) -> Background:
    # Muted on purpose: tones differ little from a grey, so that no background passes for a colour.
    grey = rng.uniform(0.12, 0.88)

    def tone() -> tuple[float, float, float]:
        level = grey + rng.uniform(-0.07, 0.07)
        r, g, b = (min(max(level + rng.uniform(-0.04, 0.04), 0.0), 1.0) for _ in range(3))
        return r, g, b

    kinds: tuple[Literal["plain", "gradient", "stripes", "checks"], ...] = (
        "plain", "gradient", "stripes", "checks",
    )  # fmt: skip
    return Background(rng.choice(kinds), (tone(), tone()), rng.uniform(0, math.pi), rng.uniform(0.08, 0.4))


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
    split: "train" shows only kinds outside `HELD_OUT`; "heldout" shows at least one of those.
    objects: how many objects, 1 to `MAX_OBJECTS`; drawn at random if None.
    """
    rng = random.Random(f"scene/{split}/{seed}")
    # Scenes of one object carry few questions, so they are the rarer ones.
    n = objects if objects is not None else rng.choice((1, 2, 2, 3, 3))
    if not 1 <= n <= MAX_OBJECTS:
        raise ValueError(f"objects must be 1 to {MAX_OBJECTS}, got {n}")
    if split == "train":
        kinds = rng.sample(_TRAIN, n)
    else:
        first = rng.choice(sorted(HELD_OUT))
        kinds = [first, *rng.sample([kind for kind in _ALL if kind != first], n - 1)]
        rng.shuffle(kinds)
    cells = sorted(rng.sample(range(len(ROWS) * len(COLUMNS)), n))
    placed = tuple(_place(rng, *kind, cell) for kind, cell in zip(kinds, cells, strict=True))
    return Scene(seed, split, placed, _background(rng))


def edit_scene(scene: Scene, rng: random.Random) -> Scene:
    """A twin that differs in exactly one visual fact: one object's colour, shape or place."""
    index = rng.randrange(len(scene.objects))
    old = scene.objects[index]
    others = [o for i, o in enumerate(scene.objects) if i != index]
    taken_kinds = {(o.color, o.shape) for o in scene.objects}
    allowed = _TRAIN if scene.split == "train" else _ALL
    recolored = [k for k in allowed if k[1] == old.shape and k not in taken_kinds]
    reshaped = [k for k in allowed if k[0] == old.color and k not in taken_kinds]
    taken_cells = {o.row * len(COLUMNS) + o.column for o in scene.objects}
    free = [c for c in range(len(ROWS) * len(COLUMNS)) if c not in taken_cells]
    cell = old.row * len(COLUMNS) + old.column
    change = rng.choice(("color", "shape", "place"))
    color, shape = old.color, old.shape
    if change == "color":
        color, shape = rng.choice(recolored)
    elif change == "shape":
        color, shape = rng.choice(reshaped)
    else:
        cell = rng.choice(free)
    objects = sorted([*others, _place(rng, color, shape, cell)], key=lambda o: (o.row, o.column))
    return Scene(scene.seed, scene.split, tuple(objects), scene.background)


def kinds(split: Split) -> Iterator[tuple[str, str]]:
    """The (colour, shape) pairs that questions of a split may name."""
    yield from _TRAIN if split == "train" else _ALL
