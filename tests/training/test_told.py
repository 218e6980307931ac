"""Kinds of encoder: what each is told of an image and nothing else, twins that differ in it, equally many images."""

import random
import re
from itertools import pairwise

import pytest
import torch

from vlm_probe.scenes import sample_scene, study_world
from vlm_probe.studies.study import SEEING, STUDIES, TAUGHT
from vlm_probe.training.encoders import ClipStage, DinoStage, encoder_stage
from vlm_probe.training.packing import EOS
from vlm_probe.training.replica import packer_of
from vlm_probe.training.told import TOLD, places_twin, said, spared

WORLD = study_world(3)
COLORS, SHAPES = set(WORLD.colors), set(WORLD.shapes)
PLACE = re.compile(r"at the (\w+ \w+)\.")


def scenes(n=40):
    return [sample_scene(seed, world=WORLD) for seed in range(n)]


def words(caption):
    return set(re.findall(r"\w+", " ".join(caption)))


def facts(scene):
    return {(o.name, o.place) for o in scene.objects}


@pytest.fixture(scope="module")
def batches():
    return {kind: said(kind, scenes(), random.Random(5)) for kind in TAUGHT}


def test_everything_is_told_with_twins_and_without(batches):
    for kind in ("clip", "clip-alone"):
        for scene, caption in zip(*batches[kind], strict=True):
            assert " ".join(caption) == scene.caption
    assert batches["clip"][0][:40] == batches["clip-alone"][0] == scenes()


def test_one_object_is_told_and_no_other(batches):
    places = set()
    for scene, caption in zip(*batches["clip-one"], strict=True):
        (sentence,) = caption
        named = [o for o in scene.objects if sentence == f"a {o.name} at the {o.place}."]
        assert len(named) == 1
        places.add((len(scene.objects), scene.objects.index(named[0])))
    assert {index for n, index in places if n == 5} == set(range(5)), "whichever it is"


def test_places_are_told_and_neither_colors_nor_shapes(batches):
    for scene, caption in zip(*batches["clip-places"], strict=True):
        assert not words(caption) & (COLORS | SHAPES)
        assert PLACE.findall(" ".join(caption)) == [o.place for o in scene.objects]
        n = len(scene.objects)
        assert caption[0] == ("one object." if n == 1 else f"{WORLD.numbers[n]} objects.")


@pytest.mark.parametrize("kind", [kind for kind in TAUGHT if TOLD[kind].twin])
def test_twins_differ_in_what_is_told_of_them(batches, kind):
    both, captions = batches[kind]
    n = len(both) // 2
    assert both[:n] == scenes(), "all kinds see the same fresh scenes"
    for i in range(n):
        scene, twin, mine, others = both[i], both[n + i], captions[i], captions[n + i]
        assert mine != others
        assert mine in TOLD[kind].captions(scene)
        assert mine not in TOLD[kind].captions(twin)
        assert others in TOLD[kind].captions(twin)
        assert others not in TOLD[kind].captions(scene)
        assert scene.background == twin.background
        assert len(facts(scene) ^ facts(twin)) in (1, 2)
        assert twin.split in WORLD.splits([o.kind for o in twin.objects])


def test_one_object_is_told_of_the_very_images_that_all_is_told_of(batches):
    assert batches["clip-one"][0] == batches["clip"][0]


def test_a_twin_in_places_moves_loses_or_gains_one_object():
    seen = set()
    for scene in scenes(200):
        twin = places_twin(scene, random.Random(scene.seed))
        more = len(twin.objects) - len(scene.objects)
        seen.add((len(scene.objects), more))
        cells = [(o.row, o.column) for o in twin.objects]
        assert all(a < b for a, b in pairwise(cells)), "in reading order, one a place"
        for o in twin.objects:
            x, y = o.center
            assert (int(3 * x), int(3 * y)) == (o.column, o.row)
        gone, new = set(scene.objects) - set(twin.objects), set(twin.objects) - set(scene.objects)
        assert (len(gone), len(new)) == {-1: (1, 0), 0: (1, 1), 1: (0, 1)}[more]
        if more == 0:
            assert gone.pop().kind == new.pop().kind
    assert seen == {(n, more) for n in range(1, 6) for more in (-1, 0, 1) if 1 <= n + more <= 5}


def test_what_is_true_of_another_image_is_spared(batches):
    for kind in ("clip-one", "clip-places"):
        both, captions = batches[kind]
        found = spared(kind, both, captions)
        assert sum(map(sum, found)) > 10
        for i, scene in enumerate(both):
            assert not found[i][i]
            for j, caption in enumerate(captions):
                if kind == "clip-one":
                    true = caption[0] in scene.caption
                else:
                    true = [o.place for o in scene.objects] == [o.place for o in both[j].objects]
                assert found[i][j] == (true and i != j)


def stage_of(kind):
    cell = STUDIES["encoder"].arm(f"small-{kind}", 3)
    return encoder_stage(cell, packer_of(cell))


def test_all_kinds_are_one_encoder_on_equally_many_images(monkeypatch):
    seen = {}
    for kind in (*TAUGHT, SEEING):
        stage = stage_of(kind)
        assert stage.name == f"encoder-{kind}"
        assert (stage.steps, isinstance(stage, ClipStage)) == (600, kind != SEEING)
        made = {name: value.clone() for name, value in stage.module.state_dict().items()}
        begun = seen.setdefault(type(stage), made)
        assert all(torch.equal(begun[name], value) for name, value in made.items())
        if isinstance(stage, ClipStage):
            both, captions = stage.said(4)
            assert len(both) == len(captions) == 128
            own = stage_of("clip")
            assert isinstance(own, ClipStage)
            assert both[:64] == own.said(4)[0][:64]
            ids = [[i for part in caption for i in stage.packer.encode(part)] for caption in captions]
            assert max(map(len, ids)) < 64, "the text tower's positions"
            assert stage.packer.id[EOS] not in {i for own in ids for i in own}
            assert len({scene.seed for scene in both}) == (128 if kind == "clip-alone" else 64)
        else:
            assert isinstance(stage, DinoStage)
            assert stage.images == 128
    assert DinoStage.images == 48, "the grid's sees fewer"
    monkeypatch.setattr(ClipStage, "pairs", 3)
    for kind in TAUGHT:
        loss, figures = stage_of(kind).loss(0)
        assert torch.isfinite(loss)
        assert 0 <= figures["accuracy"] <= 1
