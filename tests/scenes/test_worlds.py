"""Worlds as data: what the studies' world keeps from training, what it shows, and that it can be told apart."""

import hashlib
import random
from collections import Counter
from dataclasses import replace
from itertools import combinations, pairwise

import numpy as np
import pandas as pd
import pytest
from answering import true_answer
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm_probe.errors import VlmProbeError
from vlm_probe.items.scores import answer_row
from vlm_probe.scenes import (
    FAMILIES,
    QUESTION_TYPES,
    SAMPLERS,
    SHIPPED,
    TWO_STEPS,
    Scene,
    World,
    accuracy_table,
    ask,
    asks_novel,
    edit_scene,
    family_items,
    render,
    sample_scene,
    scene_items,
    study_world,
    with_baselines,
    world_of,
)
from vlm_probe.scenes.items import make_item
from vlm_probe.scenes.questions import Question
from vlm_probe.scenes.world import SPLITS, SceneObject

SEEDS = st.integers(0, 2**48)
A_SPLIT = st.sampled_from(SPLITS)
STUDIES = st.integers(0, 40)


def kinds_of(scene: Scene) -> list[tuple[str, str]]:
    return [o.kind for o in scene.objects]


@given(st.integers(0, 2**40))
def test_novel_kinds_are_balanced_over_colours_and_shapes_and_held_out_pairs_over_kinds(seed):
    world = study_world(seed)
    assert len(world.colors) == len(world.shapes) == 9
    assert len(world.novel) == 18
    for axis, names in enumerate((world.colors, world.shapes)):
        assert Counter(kind[axis] for kind in world.novel) == dict.fromkeys(names, 2)
    often = Counter(kind for pair in world.held_out for kind in pair)
    assert often == dict.fromkeys(world.known, 12), "every other kind stands with 50 of 62, and none with a novel one"


def test_the_seed_draws_what_is_novel():
    worlds = [study_world(seed) for seed in range(300)]
    assert len({world.novel for world in worlds}) == len({world.held_out for world in worlds}) == 300
    often = Counter(kind for world in worlds for kind in world.novel)
    assert often.keys() == set(worlds[0].kinds)
    # Each kind with probability 2/9: 67 of 300, standard deviation 7.
    assert 35 < min(often.values()) <= max(often.values()) < 100


@given(SEEDS, STUDIES)
def test_nothing_that_is_kept_from_training_is_in_training_images(seed, study):
    world = study_world(study)

    def pairs(scene: Scene) -> list[bool]:
        return [world.is_held_out(a, b) for a, b in combinations(kinds_of(scene), 2)]

    train, heldout, novel = (sample_scene(seed, split, world=world) for split in ("train", "heldout", "novel"))
    assert not any(pairs(train))
    assert not world.novel & {*kinds_of(train), *kinds_of(heldout)}
    assert any(pairs(heldout))
    assert world.novel & set(kinds_of(novel))
    twin = edit_scene(train, random.Random(seed))
    assert not any(pairs(twin))
    assert not world.novel & set(kinds_of(twin))
    assert twin.world is world


@given(SEEDS, STUDIES, A_SPLIT, st.integers(1, 5))
def test_every_split_has_scenes_of_up_to_five_objects_which_do_not_overlap(seed, study, split, n):
    scene = sample_scene(seed, split, n, world=study_world(study))
    assert len(scene.objects) == (max(n, 2) if split == "heldout" else n)
    for a, b in combinations([o.box for o in scene.objects], 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


def test_neighbours_could_not_even_touch():
    """Two largest outlines whose centres are as near as places allow."""
    world = study_world(0)
    xs, ys = zip(*(point for outline in world.shapes.values() for point in outline), strict=True)
    nearest = (1 - 0.16) / 3
    assert (max(xs) - min(xs)) * world.radii[1] <= nearest
    assert (max(ys) - min(ys)) * world.radii[1] <= nearest


@given(SEEDS, STUDIES, A_SPLIT)
def test_the_same_seed_is_the_same_scene_and_picture(seed, study, split):
    world = study_world(study)
    scene = sample_scene(seed, split, world=world)
    assert scene == sample_scene(seed, split, world=world)
    assert np.array_equal(render(scene, 29), render(scene, 29))


def test_scenes_in_which_nothing_is_kept_back_are_the_same_for_every_seed_of_the_world():
    one, other = ([sample_scene(seed, "any", world=study_world(s)) for seed in range(50)] for s in (0, 1))
    assert [scene.caption for scene in one] == [scene.caption for scene in other]
    assert all(np.array_equal(render(a, 31), render(b, 31)) for a, b in zip(one, other, strict=True))
    assert one != other, "a scene knows its world"


@settings(deadline=None, max_examples=60)
@given(SEEDS, st.sampled_from([53, 64, 211]))
def test_boxes_are_tight_around_every_outline(seed, size):
    scene = sample_scene(seed, "any", world=study_world(1))
    empty = render(replace(scene, objects=()), size).astype(int)
    for o in scene.objects:
        left, top, right, bottom = o.box.to_pixels(size, size)
        # The ink is nowhere the ground's, so that what differs is what is covered.
        inked = replace(o, shade=(0.0, 0.0, 0.0))
        rows, columns = np.nonzero((render(replace(scene, objects=(inked,)), size).astype(int) - empty).any(-1))
        assert top - 1 <= rows.min() <= top + 2
        assert bottom - 3 <= rows.max() <= bottom
        assert left - 1 <= columns.min() <= left + 2
        assert right - 3 <= columns.max() <= right


@settings(deadline=None, max_examples=250)
@given(SEEDS, STUDIES, A_SPLIT, st.sampled_from(sorted(SAMPLERS)))
def test_answers_are_true_and_boxes_are_of_what_is_asked(seed, study, split, kind):
    world = study_world(study)
    scene, rng = sample_scene(seed, split, world=world), random.Random(seed)
    question = SAMPLERS[kind](scene, rng)
    if question is None:
        with pytest.raises(ValueError, match="this scene has no"):
            ask(scene, rng, kind)
        return
    assert question.kind == kind
    assert question.answer in question.choices
    assert true_answer(scene, question) == question.answer
    assert set(question.objects) <= set(scene.objects)
    if kind in ("color_beside", "shape_beside"):
        target, anchor = question.objects
        assert question.answer in target.kind
        assert {anchor.color, anchor.shape} & set(question.text.rstrip("?").split())
    if split in ("train", "heldout"):
        # Neither by name nor by asking of a circle if it is yellow: the answer would always be no.
        words = question.text.rstrip("?").split()
        asked = {*pairwise(words), *([(words[3], words[2])] if kind == "attribute" else [])}
        assert not asked & world.novel


def test_every_question_type_of_a_world_comes_in_turn_and_yes_is_as_frequent_as_no():
    world = study_world(2)
    assert world.questions == (*QUESTION_TYPES, *TWO_STEPS)
    assert SHIPPED.questions == tuple(QUESTION_TYPES)
    items = list(scene_items(200 * len(world.questions), world=world, split="train"))
    assert Counter(item.kind for item in items) == dict.fromkeys(world.questions, 200)
    for kind in world.questions:
        answers = Counter(item.answer for item in items if item.kind == kind)
        if set(answers) == {"yes", "no"}:
            assert 70 < answers["yes"] < 130, kind
        assert max(answers.values()) < 130, f"{kind} has no answer that is nearly always right"
    scene = sample_scene(3, world=world)
    assert {ask(scene, random.Random(i)).kind for i in range(400)} > set(QUESTION_TYPES)
    assert {ask(scene, random.Random(i), among=("count",)).kind for i in range(9)} == {"count"}


def test_the_studies_world_is_pinned_as_the_shipped_one_is():
    """Tables of trained studies are of these scenes and items; whoever changes them trains anew."""
    world = study_world(0)
    told = [sorted(world.novel), sorted(sorted(pair) for pair in world.held_out)]
    told += [sample_scene(seed, split, world=world).caption for split in SPLITS for seed in range(50)]
    told += [(i.id, i.question, i.answer, i.distractors) for i in scene_items(140, split="novel", world=world)]
    pictures = (sample_scene(seed, world=world) for seed in range(100))
    plain = [render(scene, 64).tobytes() for scene in pictures if scene.background.kind != "stripes"]
    assert hashlib.sha256(f"{told}".encode() + b"".join(plain)).hexdigest()[:16] == "f2f531ad2f71dba8"


def lab(rgb: np.ndarray) -> np.ndarray:
    """sRGB, 0 to 255 along the last axis, to CIELAB under D65."""
    c = np.clip(np.asarray(rgb, dtype=float), 0, 255) / 255
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750]])
    to_xyz = np.vstack([to_xyz, [0.0193339, 0.1191920, 0.9503041]])
    xyz = linear @ to_xyz.T / np.array([0.95047, 1.0, 1.08883])
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1)


def test_colours_are_apart_from_each_other_and_from_every_ground():
    """By CIELAB distance, in which 2.3 is just noticeable."""
    world = study_world(0)
    centers = lab(np.array(list(world.colors.values())))
    apart = np.linalg.norm(centers[:, None] - centers[None], axis=-1)
    assert apart[~np.eye(9, dtype=bool)].min() > 37
    scenes = [sample_scene(seed, "any", world=world) for seed in range(400)]
    names = list(world.colors)
    shown = [(names.index(o.color), o.ink) for scene in scenes for o in scene.objects]
    index, inks = np.array([i for i, _ in shown]), lab(np.array([ink for _, ink in shown]))
    distance = np.linalg.norm(inks[:, None] - centers[None], axis=-1)
    own = distance[np.arange(len(index)), index]
    distance[np.arange(len(index)), index] = np.inf
    assert (distance.min(1) - own).min() > 8, "the shade never makes it another colour"
    tones = lab(255 * np.array([tone for scene in scenes for tone in scene.background.tones]))
    assert np.linalg.norm(inks[:, None] - tones[None], axis=-1).min() > 20


def test_shapes_are_apart_at_64_pixels_wherever_they_fall():
    """The share of pixels that two shapes have in common, at its worst over shifts and sizes."""
    world = study_world(0)
    ground = replace(sample_scene(0).background, kind="plain", tones=((1.0,) * 3, (1.0,) * 3))

    def masks(shape: str) -> np.ndarray:
        drawn = []
        for radius in (*world.radii, 0.12):
            for dx in (-1, 0, 0.5, 1):
                for dy in (-1, 0, 0.5, 1):
                    at = (0.5 + dx / 64, 0.5 + dy / 64)
                    o = SceneObject("red", shape, 1, 1, at, radius, (0.0, 0.0, 0.0), world)
                    drawn.append(1 - render(Scene(0, "any", (o,), ground, world), 64)[..., 0] / 255)
        return np.stack(drawn).reshape(len(drawn), -1)

    sets = {shape: masks(shape) for shape in world.shapes}
    for a, b in combinations(sets, 2):
        differ = np.abs(sets[a][:, None] - sets[b][None]).sum(-1).min()
        common = 1 - differ / min(sets[a].sum(1).mean(), sets[b].sum(1).mean())
        # Circle and square are the shipped world's, which its models tell apart.
        assert common < (0.85 if (a, b) == ("circle", "square") else 0.75), (a, b)


def test_an_item_asks_about_a_novel_kind_where_one_is_to_be_looked_at_or_is_named():
    world = study_world(0)
    novel = sorted(world.novel)[0]
    known = next(k for k in world.known if k[0] != novel[0] and k[1] != novel[1])
    objects = tuple(
        SceneObject(*kind, 0, column, ((column + 0.5) / 3, 0.2), 0.12, (1.0, 1.0, 1.0), world)
        for column, kind in enumerate((novel, known))
    )
    scene = Scene(0, "novel", objects, sample_scene(0).background, world)

    def item(text: str, *about: SceneObject):
        return make_item("scenes", "color", "x", scene, Question("color", text, "red", ("red",), about))

    assert asks_novel(item(f"What color is the {novel[1]}?", objects[0]))
    assert not asks_novel(item(f"What color is the {known[1]}?", objects[1]))
    assert asks_novel(item(f"Is there a {' '.join(novel)}?"))
    assert not asks_novel(item(f"Is there a {' '.join(known)}?"))
    assert not asks_novel(replace(item(f"Is there a {' '.join(novel)}?"), source=None)), "of a file nothing is known"
    items = list(scene_items(280, split="novel", world=world))
    assert 0.4 < np.mean([asks_novel(i) for i in items]) < 0.7
    assert not any(asks_novel(i) for i in scene_items(280, split="heldout", world=world))


def test_items_of_every_family_carry_their_world_and_have_baselines(monkeypatch):
    monkeypatch.setattr("vlm_probe.scenes.items._BLIND_ITEMS", 10)
    worlds = SHIPPED, study_world(50)
    items = [list(family_items(12, split="novel", world=world)) for world in worlds]
    items += [list(scene_items(28, split="heldout", world=world)) for world in worlds]
    ids = [item.id for some in items for item in some]
    assert len(set(ids)) == len(ids)
    for some, world in zip(items, (*worlds, *worlds), strict=True):
        assert {item.source.world for item in some if isinstance(item.source, Scene)} == {world}
    assert {item.family for item in items[1]} == set(FAMILIES)
    asked = items[3]
    table = with_baselines(pd.DataFrame([answer_row("by hand", item, item.answer) for item in asked]), asked)
    chances = dict(zip(table["kind"], table["chance"], strict=True))
    assert chances["color"] == chances["shape_beside"] == pytest.approx(1 / 9)
    assert chances["count"] == pytest.approx(1 / 6)
    assert accuracy_table(table).set_index("kind").loc["all", "accuracy"] == 1


def test_a_world_is_found_by_its_name():
    assert world_of("shipped") is SHIPPED
    assert world_of("study-17") == study_world(17)
    assert repr(world_of("study-17")) == "World('study-17')"
    for name in ("study", "study-01", "study--1", "studies-3", ""):
        with pytest.raises(VlmProbeError) as error:
            world_of(name)
        assert str(error.value) == f"no world {name!r}; there are 'shipped' and 'study-<seed>', study-0 say"


def test_a_world_of_ones_own_draws_and_one_that_cannot_be_says_so():
    mine = World(
        name="mine",
        colors={"red": (200, 10, 10), "blue": (10, 10, 200)},
        shapes={"star": SHIPPED.shapes["star"], "cross": SHIPPED.shapes["cross"]},
        counts=(2, 3),
        questions=("color", "count_beside"),
        novel=frozenset({("red", "star")}),
        held_out=frozenset({frozenset({("red", "cross"), ("blue", "cross")})}),
        rows=("upper", "lower"),
    )
    scene = sample_scene(5, "heldout", world=mine)
    assert {("red", "cross"), ("blue", "cross")} <= set(kinds_of(scene))
    assert {o.place.split()[0] for seed in range(20) for o in sample_scene(seed, "any", world=mine).objects} == {
        *("upper", "lower")
    }
    assert {item.kind for item in scene_items(4, split="any", world=mine)} == {"color", "count_beside"}
    with pytest.raises(VlmProbeError) as error:
        replace(mine, counts=(3, 7))
    assert str(error.value) == "scenes of the world 'mine' can have 1 to 6 objects, got (3, 7)"
    with pytest.raises(VlmProbeError) as error:
        replace(mine, novel=frozenset({("red", "moon")}))
    assert str(error.value) == "the world 'mine' has no red moon, which cannot be novel then"
