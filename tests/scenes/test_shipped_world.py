"""The shipped world, pinned: weights, cards and tables were made from these very scenes, questions and pictures.

The digests were taken before worlds became data. One that changes makes every shipped number one of another world.
"""

import hashlib
import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
import pytest

from vlm_probe.items import Item
from vlm_probe.scenes import FAMILIES, QUESTION_TYPES, Scene, ask, edit_scene, family_items, render, sample_scene
from vlm_probe.scenes import scene_items as items_of_scenes
from vlm_probe.scenes.families import _seen_together
from vlm_probe.scenes.items import blind_answer
from vlm_probe.scenes.world import SPLITS

SCENES = 300


def digest(parts: Iterable[object]) -> str:
    whole = hashlib.sha256()
    for part in parts:
        whole.update(part if isinstance(part, bytes) else f"{part!r}\n".encode())
    return whole.hexdigest()[:16]


def facts(scene: Scene) -> tuple[object, ...]:
    """All that is drawn from the seed, field by field: no name of a class or a later field counts."""
    objects = [(o.color, o.shape, o.row, o.column, o.center, o.radius, o.shade) for o in scene.objects]
    ground = scene.background
    return scene.seed, scene.split, objects, (ground.kind, ground.tones, ground.angle, ground.period), scene.caption


FIELDS = ("id", "family", "kind", "group", "image", "image_seed", "question", "answer", "answers", "parts")


def told(items: Iterable[Item]) -> Iterator[object]:
    """Items field by field; boxes to ten digits, for the last of a sine is the machine's."""
    for item in items:
        assert isinstance(item.source, Scene)
        boxes = [[round(float(edge), 10) for edge in box] for box in item.boxes]
        row = {name: getattr(item, name) for name in FIELDS}
        yield json.dumps({**row, "distractors": item.distractors, "boxes": boxes})
        yield facts(item.source)


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("train", "8e876f8a48780a4b"),
        ("heldout", "f7b8707012a5f155"),
        ("novel", "3714480fabd031eb"),
        ("any", "2520c7ad9edbcbb7"),
    ],
)
def test_scenes_captions_and_twins(split, expected):
    scenes = [sample_scene(seed, split) for seed in range(SCENES)]
    twins = [edit_scene(scene, random.Random(scene.seed)) for scene in scenes]
    ones = [sample_scene(seed, split, objects=1 + seed % 3) for seed in range(SCENES)]
    assert digest(map(facts, [*scenes, *twins, *ones])) == expected


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("train", "a29bea8fcabd0b72"),
        ("heldout", "bc52404e3137683f"),
        ("novel", "2c14c0dadce07afd"),
        ("any", "f217f468334a85f7"),
    ],
)
def test_questions(split, expected):
    def asked() -> Iterator[object]:
        for seed in range(SCENES):
            scene, rng = sample_scene(seed, split), random.Random(seed)
            for kind in (None, *QUESTION_TYPES):
                try:
                    q = ask(scene, rng, kind)
                except ValueError:
                    continue
                yield q.kind, q.text, q.answer, q.choices, [scene.objects.index(o) for o in q.objects]

    assert digest(asked()) == expected


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("train", "78c815035b610470"),
        ("heldout", "e5f91e22dd251910"),
        ("novel", "c6fd4ce331b127de"),
        ("any", "f43ca54f406ba7bb"),
    ],
)
def test_items_and_their_ids(split, expected):
    families = family_items(40, split=split, seed=3)
    assert digest(told([*items_of_scenes(SCENES, split=split, seed=2), *families])) == expected


def test_what_can_be_guessed_without_an_image():
    guesses = [blind_answer(item) for item in items_of_scenes(SCENES)]
    alone, together = _seen_together("heldout")
    counted = sorted(alone.items()), sorted((kind, sorted(with_.items())) for kind, with_ in together.items())
    assert digest([guesses, counted]) == "fbd84e8416effb3c"


@pytest.mark.parametrize(("size", "expected"), [(37, "c70b6f079ad01ddf"), (64, "6ad2cf13314ada8e")])
def test_pixels(size, expected):
    """Every bit, but of stripes: numpy's sine in single precision is not the same on every processor."""

    def drawn() -> Iterator[bytes]:
        for split in SPLITS:
            for scene in (sample_scene(seed, split) for seed in range(SCENES)):
                ground = scene.background
                if ground.kind == "stripes":
                    scene = replace(scene, background=replace(ground, kind="plain"))
                yield render(scene, size).tobytes()

    assert digest(drawn()) == expected


def test_stripes():
    striped = [s for s in (sample_scene(seed) for seed in range(SCENES)) if s.background.kind == "stripes"]
    means = np.mean([render(scene, 64) for scene in striped], axis=(0, 1, 2))
    assert means == pytest.approx([127.1751, 127.9738, 129.5354], abs=1e-3)


def test_the_order_of_names_is_part_of_the_world():
    assert [*FAMILIES] == ["pope", "mmvp", "gqa", "mme", "vqav2", "mmvet"]
    assert [*QUESTION_TYPES] == [
        *("color", "shape", "existence", "count", "side", "relation"),
        *("attribute", "number", "position", "parts"),
    ]
