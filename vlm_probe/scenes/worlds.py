"""Worlds: which colours, shapes and places scenes are made of, how many objects, and what is kept from training.

`SHIPPED` is the replicas' own. `study_world(seed)` leaves more room above: more kinds, more objects, questions that
take two steps, and novel kinds that are drawn by the seed, so that a study samples kinds as it samples seeds.
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import combinations
from typing import Literal, get_args

from vlm_probe.errors import VlmProbeError
from vlm_probe.scenes.outlines import OUTLINES, Outline

Split = Literal["train", "heldout", "novel", "any"]
"""What scenes of a split show: "train" no held-out pair and no novel kind; "heldout" a combination of
coloured shapes that never stands in a training scene; "novel" a kind that no training scene shows;
"any" is not restricted."""
SPLITS: tuple[Split, ...] = get_args(Split)

Kind = tuple[str, str]
"""A colour and a shape."""
Ink = tuple[int, int, int]
"""Red, green and blue, 0 to 255."""

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass(frozen=True, repr=False)
class World:
    """What scenes can show and be asked, as data.

    Raises VlmProbeError where there are more objects than places, or a novel kind is none of its kinds.
    """

    name: str
    """Begins the ids of items, so two worlds want two names."""
    colors: Mapping[str, Ink]
    shapes: Mapping[str, Outline]
    counts: tuple[int, ...]
    """Numbers of objects that a scene is drawn from; one listed twice comes twice as often."""
    questions: tuple[str, ...]
    """Question types that are asked, by their names in `questions.SAMPLERS`."""
    novel: frozenset[Kind]
    """Kinds that only scenes of the split "novel" (and "any") show; their colours and shapes are seen elsewhere."""
    held_out: frozenset[frozenset[Kind]]
    """Pairs of kinds that stand together in held-out scenes only."""
    rows: tuple[str, ...] = ("top", "middle", "bottom")
    columns: tuple[str, ...] = ("left", "center", "right")
    radii: tuple[float, float] = (0.105, 0.145)
    """Least and largest radius of an object, in image widths."""
    greys: tuple[float, float] = (0.12, 0.88)
    """Least and largest mean tone of a background."""
    spares_novel: bool = False
    """Whether training never asks of a thing if it has the color that would make it a novel kind: the answer would
    always be no. The shipped world does ask it, and so teaches a little that there is no yellow circle."""
    salt: str = ""
    """Begins the name of every random draw; worlds that share it draw the same scenes where nothing is kept back."""

    def __post_init__(self) -> None:
        most = min(len(self.rows) * len(self.columns), len(NUMBERS) - 1)
        if not 1 <= min(self.counts) <= max(self.counts) <= most:
            raise VlmProbeError(f"scenes of the world {self.name!r} can have 1 to {most} objects, got {self.counts}")
        if strange := sorted(self.novel.difference(self.kinds)):
            raise VlmProbeError(f"the world {self.name!r} has no {' '.join(strange[0])}, which cannot be novel then")

    def __hash__(self) -> int:
        # Mappings have no hash, and hashing all outlines for every look into a cache would be slow.
        return hash(self.name)

    def __repr__(self) -> str:
        return f"World({self.name!r})"

    @cached_property
    def kinds(self) -> tuple[Kind, ...]:
        """Every colour with every shape."""
        return tuple((color, shape) for color in self.colors for shape in self.shapes)

    @cached_property
    def known(self) -> tuple[Kind, ...]:
        """The kinds that training scenes show."""
        return tuple(kind for kind in self.kinds if kind not in self.novel)

    @property
    def max_objects(self) -> int:
        return max(self.counts)

    @cached_property
    def numbers(self) -> tuple[str, ...]:
        """The answers to "how many"."""
        return NUMBERS[: self.max_objects + 1]

    @property
    def label(self) -> str:
        """Begins the ids of its items: nothing for the shipped world."""
        return "" if self.name == "shipped" else f"{self.name}-"

    def is_held_out(self, first: Kind, second: Kind) -> bool:
        """Whether two kinds stand together in held-out scenes only."""
        return frozenset((first, second)) in self.held_out

    def splits(self, kinds: Sequence[Kind]) -> set[Split]:
        """The splits that may show these kinds together."""
        if any(kind in self.novel for kind in kinds):
            return {"novel", "any"}
        held_out = any(self.is_held_out(a, b) for a, b in combinations(kinds, 2))
        return {"heldout", "any"} if held_out else {"train", "any"}

    def kinds_of(self, split: Split) -> tuple[Kind, ...]:
        """The kinds that scenes of a split are drawn from, and that questions about them may name.

        Questions about training scenes never name a novel kind: it would always be absent, and naming
        it would teach to deny it.
        """
        return self.known if split in ("train", "heldout") else self.kinds


def _pairs_by_hash(kinds: Sequence[Kind]) -> frozenset[frozenset[Kind]]:
    """One pair in five, by a fixed hash of its names."""

    def chosen(pair: tuple[Kind, Kind]) -> bool:
        name = "|".join(sorted(" ".join(kind) for kind in pair))
        return zlib.crc32(name.encode()) % 5 == 0

    return frozenset(frozenset(pair) for pair in combinations(kinds, 2) if chosen(pair))


_ONE_STEP = (
    *("color", "shape", "existence", "count", "side", "relation"),
    *("attribute", "number", "position", "parts"),
)
_TWO_STEPS = ("color_beside", "shape_beside", "count_beside", "same_color")

_SHIPPED_COLORS: dict[str, Ink] = {
    "red": (214, 39, 40),
    "green": (44, 150, 60),
    "blue": (40, 90, 220),
    "yellow": (245, 215, 50),
    "purple": (145, 60, 190),
    "cyan": (50, 205, 225),
}
_SHIPPED_SHAPES = ("circle", "square", "triangle", "star", "cross")

SHIPPED = World(
    name="shipped",
    colors=_SHIPPED_COLORS,
    shapes={name: OUTLINES[name] for name in _SHIPPED_SHAPES},
    # Scenes of one object carry few questions, so they are the rarer ones.
    counts=(1, 2, 2, 3, 3),
    questions=_ONE_STEP,
    novel=frozenset({("green", "cross"), ("blue", "triangle"), ("yellow", "circle")}),
    held_out=_pairs_by_hash([(color, shape) for color in _SHIPPED_COLORS for shape in _SHIPPED_SHAPES]),
)
"""The world of the shipped replicas and connectors, pinned by tests to the last bit: six colours and five shapes, up
to three objects, three novel kinds."""

_STUDY_COLORS: dict[str, Ink] = {
    "red": (220, 35, 40),
    "green": (40, 150, 55),
    "blue": (45, 105, 235),
    "yellow": (248, 218, 40),
    "purple": (155, 50, 180),
    "cyan": (40, 210, 225),
    "pink": (255, 130, 195),
    "brown": (130, 72, 22),
    "navy": (18, 20, 115),
}
"""At least 37 apart in CIELAB, and whatever the shade nearer to their own name than to another. None begins with a
vowel: "an" would tell before the color is read."""


def _novel_kinds(colors: Sequence[str], shapes: Sequence[str], rng: random.Random) -> frozenset[Kind]:
    """Two kinds of every colour and of every shape: training then shows all colours, and all shapes, equally often."""
    while True:
        first, second = (rng.sample(shapes, len(colors)) for _ in range(2))
        kinds = {*zip(colors, first, strict=True), *zip(colors, second, strict=True)}
        if len(kinds) == 2 * len(colors):
            return frozenset(kinds)


def _pairs_by_rounds(kinds: Sequence[Kind], rng: random.Random) -> frozenset[frozenset[Kind]]:
    """About one pair in five, and of every kind equally many, so that training shows all kinds equally often: on a
    circle in random order, those that are certain distances apart."""
    circle, half = rng.sample(kinds, len(kinds)), (len(kinds) - 1) // 2
    distances = rng.sample(range(1, half + 1), round(half / 5))
    return frozenset(frozenset((circle[i - d], circle[i])) for i in range(len(circle)) for d in distances)


@lru_cache(maxsize=64)
def study_world(seed: int) -> World:
    """The studies' world: nine colours and nine shapes, one to five objects, and questions that take two steps.

    The seed draws what is kept from training: the 18 novel kinds, of 81, and 378 of the 1,953 pairs of others. All
    else is the same for every seed, and so are the scenes of the split "any", from which text and tokenizers are made.
    """
    rng = random.Random(f"study/kinds/{seed}")
    novel = _novel_kinds(tuple(_STUDY_COLORS), tuple(OUTLINES), rng)
    known = [kind for kind in ((c, s) for c in _STUDY_COLORS for s in OUTLINES) if kind not in novel]
    return World(
        name=f"study-{seed}",
        colors=_STUDY_COLORS,
        shapes=OUTLINES,
        counts=(1, 2, 3, 3, 4, 4, 5, 5),
        questions=(*_ONE_STEP, *_TWO_STEPS),
        novel=novel,
        held_out=_pairs_by_rounds(known, rng),
        # Less range than in the shipped world: neighbours cannot touch, and no ground is as dark as navy or brown.
        radii=(0.11, 0.133),
        greys=(0.4, 0.8),
        spares_novel=True,
        salt="study/",
    )


def world_of(name: str) -> World:
    """A world by its name: "shipped", or "study-<seed>".

    Raises VlmProbeError for another name.
    """
    if name == SHIPPED.name:
        return SHIPPED
    if found := re.fullmatch(r"study-(0|[1-9]\d*)", name):
        return study_world(int(found[1]))
    raise VlmProbeError(f"no world {name!r}; there are 'shipped' and 'study-<seed>', study-0 say")
