"""A cell trains on the world it names: its tokens, its scenes, its questions, and a folder of its own."""

import random
import re
from dataclasses import replace

import pytest
from torch import nn

from vlm_probe.scenes import SHIPPED, ask, sample_scene, scene_items, study_world
from vlm_probe.training.encoders import ClipStage
from vlm_probe.training.fusion import HARD_TYPES, Connector, FusionStage, LanguageStage, hard_types
from vlm_probe.training.packing import Packer, build_tokenizer
from vlm_probe.training.replica import runs_of
from vlm_probe.zoo.cells import CELLS, VOCABULARY
from vlm_probe.zoo.replicas import folder_of


@pytest.mark.parametrize("cell", ["small-clip", "small-clip-v320"])
def test_the_shipped_tokenizers_are_made_again_to_the_last_byte(tmp_path, cell):
    build_tokenizer(CELLS[cell].vocabulary, SHIPPED).save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.json").read_bytes() == (folder_of(cell) / "tokenizer.json").read_bytes()


def words_of(world) -> set[str]:
    """All words of captions, questions and answers."""
    texts = [sample_scene(seed, "any", world=world).caption for seed in range(100)]
    for item in scene_items(560, split="any", world=world):
        texts += [item.question, item.answer, *item.distractors]
    return set(re.findall(r"\w+", " ".join(texts).lower()))


def test_every_word_of_the_studies_world_is_one_token_whatever_is_novel_to_the_eye():
    world = study_world(0)
    words = words_of(world)
    assert {"moons", "crosses", "navy", "below", "five", "same"} <= words
    # One tokenizer of the grid's size for all seeds, and one with many more tokens.
    one, other, larger = (build_tokenizer(n, study_world(s)) for n, s in ((VOCABULARY, 0), (VOCABULARY, 3), (4096, 0)))
    assert one.get_vocab() == other.get_vocab()
    for tokenizer in (one, larger):
        packer = Packer(tokenizer)
        assert [word for word in sorted(words) if len(packer.encode(word)) != 1] == []


def test_the_last_stage_asks_what_takes_two_steps_more_often():
    assert hard_types(SHIPPED) == HARD_TYPES
    kinds = hard_types(study_world(0))
    assert kinds.count("color_beside") == kinds.count("shape") == 2
    assert kinds.count("relation") == 3


def test_every_stage_sees_the_world_that_its_cell_names(tmp_path, monkeypatch):
    seen = []
    for module in ("encoders", "fusion"):
        monkeypatch.setattr(f"vlm_probe.training.{module}.sample_scene", lambda *a, **k: note(sample_scene(*a, **k)))

    def note(scene):
        seen.append(scene.world.name)
        return scene

    monkeypatch.setattr("vlm_probe.training.encoders.ClipStage.pairs", 2)
    for name in ("shipped", "study-3"):
        cell = replace(CELLS["small-clip"], world=name)
        world = SHIPPED if name == "shipped" else study_world(3)
        packer = Packer(build_tokenizer(VOCABULARY, world))
        language = LanguageStage(cell, packer)
        seen.clear()
        ClipStage(cell, packer).loss(0)
        language.pack(0)
        for stage in ("connector", "joint", "questions"):
            scenes, _ = FusionStage(stage, cell, packer, nn.Identity(), Connector(1, 1), language.module).pack(900)
            assert {scene.split for scene in scenes} == {"train"}
        assert set(seen) == {name}
    assert runs_of(CELLS["small-clip"], tmp_path) == tmp_path / "seed-0"
    assert runs_of(replace(CELLS["small-clip"], world="study-3"), tmp_path) == tmp_path / "study-3" / "seed-0"


def test_scenes_of_five_objects_fit_what_the_stages_can_read():
    world = study_world(0)
    packer = Packer(build_tokenizer(VOCABULARY, world))
    scenes = [sample_scene(seed, "any", 5, world=world) for seed in range(20)]
    # CLIP's text tower reads 64 tokens, the end included.
    assert max(len(packer.caption(scene)) for scene in scenes) < 64
    packed = packer.pack(scenes, random.Random(0), patches=64, describe=True, questions=12, learn_all=False)
    assert int(packed.position_ids.max()) < 512
    assert {kind for kinds in packed.kinds for kind in kinds} >= {"caption", "color_beside", "count_beside"}
    assert ask(scenes[0], random.Random(0), "count").choices[-1] == "five"
