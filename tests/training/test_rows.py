"""Rows of a vocabulary: the same ids for scenes in every arm, asides of equal length, every extra row read 50 times."""

import random
from collections import Counter
from itertools import combinations

import pytest
import torch

from vlm_probe.scenes import SAMPLERS, sample_scene, study_world
from vlm_probe.studies.study import STUDIES
from vlm_probe.training.asides import LENGTH, deal, scene_ids
from vlm_probe.training.fusion import LanguageStage, language_model
from vlm_probe.training.loop import _optimizers
from vlm_probe.training.packing import SPECIAL
from vlm_probe.training.replica import packer_of
from vlm_probe.zoo.cells import EXTRA, ROWS, VOCABULARY

VOCABULARY_STUDY = STUDIES["vocabulary"]
ARMS = {name: VOCABULARY_STUDY.arm(name, 3) for name in VOCABULARY_STUDY.arms}
SMALL = {cell.rows: cell for cell in ARMS.values() if cell.size == "small"}
WORLD = study_world(3)


@pytest.fixture(scope="module")
def stages():
    return {rows: LanguageStage(cell, packer_of(cell)) for rows, cell in SMALL.items()}


def test_words_of_scenes_are_one_token_with_one_id_in_every_arm(stages):
    words = [*WORLD.colors, *WORLD.shapes, *WORLD.rows, *WORLD.columns, *WORLD.numbers, "yes", "no", "objects", "same"]
    text = [sample_scene(seed, "any", world=WORLD).caption for seed in range(50)]
    ids = [[stage.packer.encode(part) for part in (*words, *text)] for stage in stages.values()]
    assert all(len(own) == 1 for own in ids[0][: len(words)])
    assert all(other == ids[0] for other in ids)
    for rows, stage in stages.items():
        size = VOCABULARY + ROWS[rows].extra
        assert len(stage.packer.tokenizer) == stage.module.config.vocab_size == size
        assert stage.module.get_input_embeddings().weight.shape[0] == size
        assert stage.packer.id == stages["none"].packer.id
    tokenizer = stages["dead"].packer.tokenizer
    assert max(tokenizer("<extra7> größe ω 😀", add_special_tokens=False)["input_ids"]) < VOCABULARY
    assert tokenizer.decode([VOCABULARY + 7]) == "<extra7>"


def test_arms_read_equal_text_but_for_the_ids_of_asides(stages):
    for step in (0, 599):
        packs = {rows: stage.pack(step) for rows, stage in stages.items()}
        first = packs["none"]
        asides = torch.zeros_like(first.input_ids, dtype=torch.bool)
        for row, kinds in enumerate(first.kinds):
            assert kinds.count("aside") == 1
            asides[row] = first.segment[row] == 1 + kinds.index("aside")
        for rows, pack in packs.items():
            assert pack.kinds == first.kinds
            for name in ("segment", "position_ids", "answers", "first"):
                assert torch.equal(getattr(pack, name), getattr(first, name)), name
            assert torch.equal(pack.input_ids[~asides], first.input_ids[~asides])
            own = [set(ids.tolist()) for ids in (pack.input_ids[asides], pack.input_ids[~asides])]
            read, told = own[0] - {stages[rows].packer.id[name] for name in SPECIAL}, own[1]
            assert not read & told
            assert not read & scene_ids(stages[rows].packer, WORLD)
            assert (min(read) >= VOCABULARY) == (ROWS[rows].asides == "extra")
            assert (max(read) >= VOCABULARY) == (ROWS[rows].asides == "extra")
            assert max(told) < VOCABULARY
        assert int(asides.sum()) == 32 * (LENGTH + 2)
        assert torch.equal(packs["none"].input_ids, packs["dead"].input_ids)
        for rows in ("narrow", "untied"):
            assert torch.equal(packs[rows].input_ids, packs["trained"].input_ids)


def test_no_scene_text_has_an_ordinary_id_of_asides(stages):
    """Other scenes, and more of them, than the ids were looked for in."""
    ids = set(stages["none"].aside_ids)
    assert len(ids) > 500
    packer = stages["none"].packer
    for seed in range(10_000, 10_200):
        scene, rng = sample_scene(seed, world=WORLD), random.Random(seed)
        questions = [SAMPLERS[name](scene, rng) for name in WORLD.questions]
        text = [scene.caption, *(f"{q.text} {q.answer}" for q in questions if q is not None)]
        assert not ids & {i for part in text for i in packer.encode(part)}


def test_every_extra_row_is_read_fifty_times_and_no_dead_one_ever(stages):
    """Of all steps: asides are all that can have an extra id, and are dealt apart from the rest of a pack."""
    stage = stages["trained"]
    assert torch.equal(stage.pack(5).input_ids, stage.pack(5).input_ids)
    counts = Counter(i for step in range(stage.steps) for ids in stage.asides(step) for i in ids)
    assert sorted(counts) == list(range(VOCABULARY, VOCABULARY + EXTRA))
    assert (min(counts.values()), max(counts.values())) == (51, 52)
    ordinary = Counter(i for step in range(stage.steps) for ids in stages["dead"].asides(step) for i in ids)
    assert max(ordinary) < VOCABULARY
    assert max(ordinary.values()) - min(ordinary.values()) == 1, "balanced, too"
    assert sum(ordinary.values()) == sum(counts.values()) == 600 * 32 * LENGTH


def test_cards_are_dealt_until_a_pack_is_used_up():
    hands = deal([2, 3, 5, 7, 11], seed=1, hand=0, hands=10, length=3)
    flat = [i for hand in hands for i in hand]
    assert all(sorted(flat[i : i + 5]) == [2, 3, 5, 7, 11] for i in range(0, 30, 5))
    assert deal([2, 3, 5, 7, 11], seed=1, hand=4, hands=3, length=3) == hands[4:7]
    assert deal([2, 3, 5, 7, 11], seed=2, hand=0, hands=10, length=3) != hands


def parameters(cell):
    return sum(p.numel() for p in language_model(cell, packer_of(cell)).parameters())


@pytest.mark.parametrize("size", ["small", "large"])
def test_parameters_are_as_the_arms_say(size):
    own = {cell.rows: parameters(cell) for cell in ARMS.values() if cell.size == size}
    width = ARMS[f"{size}-clip-none"].language.hidden_size
    assert own["narrow"] == pytest.approx(own["none"], rel=0.01)
    assert own["dead"] == own["trained"] == own["none"] + EXTRA * width
    assert own["untied"] == own["trained"] + (VOCABULARY + EXTRA) * width


def test_arms_of_a_seed_begin_alike(stages):
    """The body and the ordinary rows of all but the narrower one; an unembedding begins as the embedding."""
    begun = {rows: stages[rows].module.state_dict() for rows in ("none", "dead", "trained", "untied")}
    for one, other in combinations(begun.values(), 2):
        for name, value in one.items():
            shorter = min(len(value), len(other[name]))
            assert torch.equal(value[:shorter], other[name][:shorter]), name
    assert torch.equal(begun["untied"]["lm_head.weight"], begun["trained"]["model.embed_tokens.weight"])


def test_an_unembedding_is_trained_as_embeddings_are(stages):
    for rows in ("trained", "untied"):
        muon, adam = _optimizers(stages[rows])
        in_muon, in_adam = ({id(p) for group in one.param_groups for p in group["params"]} for one in (muon, adam))
        module = stages[rows].module
        for weight in (module.lm_head.weight, module.model.embed_tokens.weight):
            assert id(weight) in in_adam - in_muon
        assert id(module.model.layers[0].mlp.up_proj.weight) in in_muon
    weights = stages["untied"].module
    assert weights.lm_head.weight is not weights.model.embed_tokens.weight
