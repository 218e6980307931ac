"""Questions about generated scenes, asked as the paper's benchmarks ask.

Six families. Where the benchmark's construction needs statistics of a data set ("popular" in POPE),
they are taken from the scenes of the same split.

pope    existence, half of the answers no; absent kinds drawn at random, by popularity, or from
        what stands together with something in the image (Li et al. 2023, arXiv:2305.10355).
mmvp    the same question about two images that differ in one visual fact, with different answers;
        right only if both are (Tong et al. 2024, arXiv:2401.06209). Twins are made, not mined: the
        fact in which they differ is known, but they are not chosen to be close for CLIP.
gqa     relations, attributes to verify and attributes to name (Hudson and Manning 2019, arXiv:1902.09506).
mme     counting and position, two yes/no questions an image, one of each answer; accuracy+ wants
        both (Fu et al. 2023, arXiv:2306.13394).
vqav2   short open answers, ten of them an item, as annotators give (Goyal et al. 2017,
        arXiv:1612.00837). Here all ten agree; only numbers have two spellings.
mmvet   answers in several parts (Yu et al. 2023, arXiv:2308.02490).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from functools import lru_cache

from vlm_probe.errors import VlmProbeError, nearest
from vlm_probe.items import Item
from vlm_probe.scenes.items import make_item
from vlm_probe.scenes.questions import QUESTION_TYPES, YES_NO, Question
from vlm_probe.scenes.world import Scene, edit_scene, sample_scene
from vlm_probe.scenes.worlds import SHIPPED, Kind, Split, World

_MAX_TRIES = 1000
"""Draws of a scene before a family gives up; scenes that carry no such question are rare."""


@lru_cache(maxsize=8)
def _seen_together(split: Split, world: World = SHIPPED) -> tuple[Counter[Kind], dict[Kind, Counter[Kind]]]:
    """How often each kind stands in 3,000 scenes of a split, and how often with each other kind."""
    alone: Counter[Kind] = Counter()
    together: dict[Kind, Counter[Kind]] = {}
    for seed in range(3000):
        kinds = [o.kind for o in sample_scene(seed, split, world=world).objects]
        alone.update(kinds)
        for kind in kinds:
            together.setdefault(kind, Counter()).update(k for k in kinds if k != kind)
    return alone, together


def _absent(scene: Scene, how: str, rng: random.Random) -> Kind:
    """A kind that is not in the scene, drawn as POPE draws its negatives."""
    present = {o.kind for o in scene.objects}
    absent = [k for k in scene.world.kinds_of(scene.split) if k not in present]
    if how == "random":
        return rng.choice(absent)
    alone, together = _seen_together(scene.split, scene.world)
    if how == "popular":
        score = {k: alone[k] for k in absent}
    else:
        score = {k: sum(together.get(p, Counter())[k] for p in present) for k in absent}
    # Drawn among the five highest, or every image would be asked for the same one.
    return rng.choice(sorted(absent, key=lambda k: (-score[k], k))[:5])


def _pope(index: int, scene: Scene, rng: random.Random, name: str) -> list[Item]:
    how = ("random", "popular", "adversarial")[index % 3]
    o = rng.choice(scene.objects)
    there = Question("existence", f"Is there a {o.name}?", "yes", YES_NO, (o,))
    color, shape = _absent(scene, how, rng)
    missing = Question("existence", f"Is there a {color} {shape}?", "no", YES_NO, ())
    return [make_item("pope", how, f"{name}-{q.answer}", scene, q, image=f"{name}-image") for q in (there, missing)]


_FACTS: dict[str, tuple[str, ...]] = {"color": ("color",), "shape": ("shape",), "side": ("place",)}


def _mmvp(index: int, scene: Scene, rng: random.Random, name: str) -> list[Item]:
    kind = list(_FACTS)[index % len(_FACTS)]
    first = QUESTION_TYPES[kind](scene, rng)
    if first is None:
        return []
    (o,) = first.objects
    for _ in range(50):
        twin = edit_scene(scene, rng)
        changed = [p for p in twin.objects if p not in scene.objects]
        for p in changed:
            same = {"color": p.shape == o.shape, "shape": p.color == o.color, "side": p.name == o.name}[kind]
            answer = {"color": p.color, "shape": p.shape, "side": p.world.columns[p.column]}[kind]
            if o in twin.objects or not same or answer == first.answer or answer not in first.choices:
                continue
            second = Question(kind, first.text, answer, first.choices, (p,))
            return [
                make_item("mmvp", kind, f"{name}-{side}", s, q, group=name)
                for side, s, q in (("a", scene, first), ("b", twin, second))
            ]
    return []


def _one(family: str, kinds: tuple[str, ...]) -> Callable[[int, Scene, random.Random, str], list[Item]]:
    def draw(index: int, scene: Scene, rng: random.Random, name: str) -> list[Item]:
        kind = kinds[index % len(kinds)]
        q = QUESTION_TYPES[kind](scene, rng)
        return [] if q is None else [make_item(family, kind, name, scene, q)]

    return draw


def _mme(index: int, scene: Scene, rng: random.Random, name: str) -> list[Item]:
    kind = ("number", "position")[index % 2]
    for _ in range(50):
        first, second = (QUESTION_TYPES[kind](scene, rng) for _ in range(2))
        if first is None or second is None:
            return []
        # Two questions of one subject with opposite answers.
        if first.objects == second.objects and {first.answer, second.answer} == set(YES_NO):
            return [
                make_item("mme", kind, f"{name}-{q.answer}", scene, q, group=name, image=f"{name}-image")
                for q in (first, second)
            ]
    return []


FAMILIES: dict[str, Callable[[int, Scene, random.Random, str], list[Item]]] = {
    "pope": _pope,
    "mmvp": _mmvp,
    "gqa": _one("gqa", ("relation", "attribute", "color", "shape")),
    "mme": _mme,
    "vqav2": _one("vqav2", ("color", "shape", "count", "side")),
    "mmvet": _one("mmvet", ("parts",)),
}
"""Family -> its sampler: the items of one scene (a pair for pope, mmvp and mme), or none."""


def family_items(
    n: int,
    *,
    families: tuple[str, ...] = tuple(FAMILIES),
    split: Split = "heldout",
    seed: int = 0,
    world: World = SHIPPED,
) -> Iterator[Item]:
    """`n` items of every family, in turn; the same for the same seed.

    Families that ask in pairs give an even number, `n` rounded up.

    Raises VlmProbeError for a family there is none of.
    """
    for family in families:
        if family not in FAMILIES:
            raise VlmProbeError(f"no question family {family!r}; nearest are {nearest(family, FAMILIES)}")
        made = index = 0
        while made < n:
            name = f"{family}-{split}-{seed}-{index:05d}"
            rng = random.Random(f"{world.salt}families/{name}")
            for _ in range(_MAX_TRIES):
                scene = sample_scene(rng.getrandbits(48), split, world=world)
                items = FAMILIES[family](index, scene, rng, f"{world.label}{name}")
                if items:
                    break
            else:
                raise VlmProbeError(f"scenes of the split {split!r} carry no question of the family {family!r}")
            yield from items
            made += len(items)
            index += 1
