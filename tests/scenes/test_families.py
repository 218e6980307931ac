"""Question families: what each promises about its items holds for every one of them."""

import json
from collections import Counter

import pandas as pd
import pytest
from PIL import Image

from vlm_probe.errors import VlmProbeError
from vlm_probe.items.item import export_items, item_table
from vlm_probe.items.readers import read_items
from vlm_probe.scenes import FAMILIES, NOVEL_KINDS, Scene, family_items, normalize_answer, render, sample_scene


@pytest.fixture(scope="module")
def items():
    return list(family_items(60, seed=5))


def of(items, family):
    return [item for item in items if item.family == family]


def scene_of(item) -> Scene:
    assert isinstance(item.source, Scene)
    return item.source


def kind_asked_for(question: str) -> tuple[str, str]:
    color, shape = question.removeprefix("Is there a ").removesuffix("?").split()
    return color, shape


def test_same_seed_same_items_and_ids_differ(items):
    assert item_table(items).equals(item_table(family_items(60, seed=5)))
    assert len({item.id for item in items}) == len(items)
    assert Counter(item.family for item in items) == dict.fromkeys(FAMILIES, 60)
    assert all(scene_of(item).split == "heldout" for item in items)
    assert {i.question for i in family_items(60, seed=6)} != {i.question for i in items}


def test_distractors_are_wrong_and_answers_are_not_among_them(items):
    for item in items:
        assert item.distractors
        assert item.answer not in item.distractors


def test_pope_asks_each_image_for_something_there_and_something_absent(items):
    for image, pair in pd.DataFrame(
        [(i.image, i.answer, i.question, i.source) for i in of(items, "pope")],
        columns=["image", "answer", "q", "scene"],
    ).groupby("image"):
        assert sorted(pair["answer"]) == ["no", "yes"], image
        for answer, question, scene in zip(pair["answer"], pair["q"], pair["scene"], strict=True):
            named = kind_asked_for(question)
            assert (named in {(o.color, o.shape) for o in scene.objects}) == (answer == "yes")
            assert named not in NOVEL_KINDS


def test_popular_negatives_are_kinds_that_stand_in_more_scenes_than_random_ones():
    # Counted in other scenes than those that `family_items` counts in.
    seen = Counter((o.color, o.shape) for seed in range(10_000, 12_000) for o in sample_scene(seed, "heldout").objects)
    score = {"random": [], "popular": []}
    for item in family_items(300, families=("pope",)):
        if item.answer == "no" and item.kind in score:
            score[item.kind].append(seen[kind_asked_for(item.question)])
    mean = {kind: sum(values) / len(values) for kind, values in score.items()}
    assert mean["popular"] > 1.15 * mean["random"]


def test_adversarial_negatives_stand_with_what_is_there_more_often_than_random_ones():
    from vlm_probe.scenes.families import _seen_together

    _, together = _seen_together("heldout")
    score = {"random": [], "adversarial": []}
    for item in family_items(400, families=("pope",)):
        if item.answer == "no" and item.kind in score:
            absent = kind_asked_for(item.question)
            present = [(o.color, o.shape) for o in scene_of(item).objects]
            score[item.kind].append(sum(together[p][absent] for p in present))
    mean = {kind: sum(values) / len(values) for kind, values in score.items()}
    assert mean["adversarial"] > 1.5 * mean["random"]


def test_mmvp_pairs_differ_in_one_object_and_in_the_answer(items):
    pairs: dict[str, list] = {}
    for item in of(items, "mmvp"):
        pairs.setdefault(item.group, []).append(item)
    for first, second in pairs.values():
        assert first.question == second.question
        assert first.answer != second.answer
        a, b = scene_of(first), scene_of(second)
        assert len(set(a.objects) - set(b.objects)) == len(set(b.objects) - set(a.objects)) == 1
        assert a.background == b.background
        assert (render(a, 37) != render(b, 37)).any()


def test_mme_asks_two_questions_an_image_with_opposite_answers(items):
    groups: dict[str, list] = {}
    for item in of(items, "mme"):
        groups.setdefault(item.group, []).append(item)
    for pair in groups.values():
        assert sorted(item.answer for item in pair) == ["no", "yes"]
        assert len({item.image for item in pair}) == 1


def test_vqa_items_have_ten_annotators_and_mmvet_items_parts(items):
    for item in of(items, "vqav2"):
        assert len(item.answers) == 10
        assert {normalize_answer(a) for a in item.answers} == {normalize_answer(item.answer)}
    for item in of(items, "mmvet"):
        color, side = item.parts
        assert item.answer == f"{color}, {side}"


def test_an_unknown_family_lists_the_nearest():
    with pytest.raises(VlmProbeError, match=r"^no question family 'popes'; nearest are 'pope'"):
        list(family_items(3, families=("popes",)))


def test_export_is_read_back_by_other_tools_and_by_us(tmp_path, items):
    some = [i for family in FAMILIES for i in of(items, family)[:4]]
    folder = export_items(some, tmp_path / "out", size=61)
    table = pd.read_parquet(folder / "items.parquet")
    lines = [json.loads(line) for line in (folder / "items.jsonl").read_text().splitlines()]
    assert table["id"].tolist() == [line["id"] for line in lines] == [i.id for i in some]
    for line in lines:
        with Image.open(folder / "images" / line["image"]) as image:
            assert image.size == (61, 61)
        for left, top, right, bottom in line["boxes"]:
            assert 0 <= left < right <= 1
            assert 0 <= top < bottom <= 1
    for file in ("items.parquet", "items.jsonl"):
        back, skipped = read_items(folder / file)
        assert not skipped
        kept = ["id", "family", "kind", "group", "question", "answer", "answers", "parts", "distractors", "image_seed"]
        assert item_table(back)[kept].equals(item_table(some)[kept])
        for item, original in zip(back, some, strict=True):
            assert len(item.boxes) == len(original.boxes)
            for box, expected in zip(item.boxes, original.boxes, strict=True):
                assert box == pytest.approx(expected)


def test_items_of_one_image_export_one_picture(tmp_path):
    pair = list(family_items(2, families=("pope",)))
    folder = export_items(pair, tmp_path)
    assert len(list((folder / "images").iterdir())) == 1
