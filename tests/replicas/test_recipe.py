"""The recipe: deterministic by seed, and a killed run resumes to the same weights."""

import dataclasses
import json
from itertools import pairwise

import pytest
import torch

import vlm_probe
from vlm_probe.replicas import recipe
from vlm_probe.replicas.grid import CELLS, Cell, Steps
from vlm_probe.replicas.text import IGNORE, IMAGE, PROMPT, Packer, build_tokenizer
from vlm_probe.replicas.training import schedule
from vlm_probe.scenes import COLORS, SHAPES, sample_scene

TINY = Steps(encoder=3, language=3, connector=2, joint=5, questions=3)


def tiny_cell(encoder: str) -> Cell:
    vision = {"hidden_size": 20, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 64, "patch_size": 16}
    return dataclasses.replace(CELLS[f"small-{encoder}"], steps=TINY, vision=vision)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    """Tiny batches, and an encoder with 16 patches: the arithmetic is that of the real recipe."""
    monkeypatch.setattr("vlm_probe.replicas.encoders.ClipStage.pairs", 3)
    monkeypatch.setattr("vlm_probe.replicas.encoders.DinoStage.images", 3)
    monkeypatch.setattr("vlm_probe.replicas.fusion.LanguageStage.batch", 2)
    monkeypatch.setattr("vlm_probe.replicas.fusion.FusionStage.batch", 2)
    monkeypatch.setattr("vlm_probe.replicas.fusion.PATCHES", 16)
    monkeypatch.setattr("vlm_probe.replicas.recipe.PATCHES", 16)


def weights(trained) -> dict[str, torch.Tensor]:
    parts = {"encoder": trained.encoder, "connector": trained.connector, "language": trained.language}
    return {f"{n}.{k}": v.clone() for n, part in parts.items() for k, v in part.state_dict().items()}


class KilledError(Exception):
    pass


@pytest.mark.parametrize("encoder", ["clip", "dino"])
def test_killed_at_every_stage_and_resumed_gives_the_same_weights(tmp_path, monkeypatch, encoder):
    cell = tiny_cell(encoder)
    whole = weights(recipe.train(cell, tmp_path / "whole"))
    again = weights(recipe.train(cell, tmp_path / "again"))
    assert all(torch.equal(whole[k], again[k]) for k in whole), "deterministic by seed"

    # Saved after every step; killed in the middle of each stage in turn.
    monkeypatch.setattr("vlm_probe.replicas.training.SAVE_EVERY_S", 0.0)
    for stage in (f"encoder-{encoder}", "language", "connector", "joint", "questions"):

        def kill(progress, stage=stage):
            if progress.stage == stage and progress.step == 2:
                raise KilledError

        with pytest.raises(KilledError):
            recipe.train(cell, tmp_path / "killed", resume=True, listen=kill)
    resumed = weights(recipe.train(cell, tmp_path / "killed", resume=True))
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)
    for log in ("encoders", "language-small", cell.name):
        for file in sorted((tmp_path / "whole" / log).glob("*.jsonl")):
            assert file.read_text() == (tmp_path / "killed" / log / file.name).read_text()
    assert not list(tmp_path.rglob("*.partial"))


def test_exported_checkpoint_opens_and_computes_what_training_computed(tmp_path):
    cell = tiny_cell("clip")
    trained = recipe.train(cell, tmp_path / "runs")
    recipe.export(trained, tmp_path / "model")
    model = vlm_probe.load(tmp_path / "model", device="cpu")
    assert model.embed_scale == "text"
    scene = sample_scene(5)
    from vlm_probe.replicas.encoders import pixels
    from vlm_probe.scenes import scene_image

    inputs = model.prepare(scene_image(scene, 64), "What color is the star?")
    torch.testing.assert_close(inputs.pixel_values, pixels([scene]), atol=1e-5, rtol=0)
    ids = [trained.packer.id["<bos>"], trained.packer.id["<start_of_turn>"], *[trained.packer.id[IMAGE]] * 16]
    ids += [*trained.packer.encode("What color is the star?"), trained.packer.id["<end_of_turn>"]]
    assert inputs.input_ids[0].tolist() == ids
    with torch.no_grad():
        logits = model(inputs).logits[0, -1]
        features = trained.encoder(pixels([scene]), output_hidden_states=True).hidden_states[-2][:, 1:]
        embeds = trained.language.get_input_embeddings()(torch.tensor([ids]))
        embeds[0, 2:18] = trained.connector(features)[0]
        expected = trained.language(inputs_embeds=embeds).logits[0, -1]
    # Half precision on disk is all that lies between them.
    torch.testing.assert_close(logits, expected, atol=0.02, rtol=0.02)


def test_scene_words_are_one_token_and_any_text_comes_back():
    tokenizer = build_tokenizer(CELLS["small-clip"].vocabulary)
    packer = Packer(tokenizer)
    for word in (*COLORS, *SHAPES, "yes", "no", "zero", "one", "two", "three", "left", "right"):
        assert len(packer.encode(word)) == 1, word
    for text in ("größe ω 😀", "what's 3 + 4?"):
        assert tokenizer.decode(packer.encode(text)) == text
    assert "{question}" in PROMPT


def test_a_segment_sees_the_prefix_and_itself_only():
    import random

    packer = Packer(build_tokenizer(CELLS["small-clip"].vocabulary))
    packed = packer.pack([sample_scene(3)], random.Random(0), patches=7, describe=True, questions=3, learn_all=False)
    positions, mask = packed.position_ids[0], packed.mask[0, 0]
    starts = [i for i in range(1, len(positions)) if positions[i] == 9]
    assert len(starts) == 4
    bounds = [*starts, len(positions)]
    for start, end in pairwise(bounds):
        for query in range(start, end):
            allowed = mask[query].nonzero().flatten().tolist()
            assert allowed == [*range(9), *range(start, query + 1)]
    labelled = packed.labels[0] != IGNORE
    assert not labelled[:9].any()
    assert (packed.answers[0] == labelled).all()


def test_the_schedule_warms_up_and_cools_down():
    values = [schedule(step, 100, 2.0) for step in range(100)]
    assert values[0] == pytest.approx(2.0 / 3)
    assert max(values) == pytest.approx(2.0)
    assert values[-1] < 0.03
    assert all(a >= b for a, b in pairwise(values[3:]))


CELLS_SHIPPED = ["small-clip", "small-dino"]


def card_of(cell: str) -> dict:
    from vlm_probe.replicas.shipped import folder_of

    return json.loads((folder_of(cell) / "card.json").read_text())


@pytest.mark.parametrize("cell", CELLS_SHIPPED)
def test_shipped_weights_are_small_and_score_what_their_card_says(cell):
    from vlm_probe.replicas.shipped import folder_of
    from vlm_probe.scenes import accuracy_table, answer_items, scene_items

    assert sum(f.stat().st_size for f in folder_of(cell).iterdir()) < 4 * 2**20
    data = card_of(cell)
    assert data["cell"]["steps"] == dataclasses.asdict(CELLS[cell].steps)
    assert {stage: log["steps"] for stage, log in data["stages"].items()} == {
        stage: steps for stage, steps in data["cell"]["steps"].items() if steps
    }
    # The very items of the card, as many as there is time for: the first of each type.
    model = vlm_probe.load(f"replica/{cell}", device="cpu")
    items = list(scene_items(600, split="heldout", seed=data["seed"]))
    scores = accuracy_table(answer_items(model.answer_all, items, size=model.image_size)).set_index("kind")
    for row in data["scores"]["heldout"]:
        found = scores.loc[row["kind"]]
        assert found["low"] <= row["accuracy"] <= found["high"], row["kind"]


# Not reached yet, and said so in the cards. Strict: weights that reach it make these fail until the mark is gone.
SHORT_OF_THE_GOAL = pytest.mark.xfail(strict=True, reason="the shipped weights need more training: see their card")


@pytest.mark.parametrize("cell", ["small-clip", pytest.param("small-dino", marks=SHORT_OF_THE_GOAL)])
def test_no_question_type_is_near_a_blind_guess(cell):
    for row in card_of(cell)["scores"]["heldout"]:
        assert row["low"] > max(row["chance"], row["blind"]), row


@pytest.mark.parametrize("cell", [pytest.param(cell, marks=SHORT_OF_THE_GOAL) for cell in CELLS_SHIPPED])
def test_nine_in_ten_held_out_questions_are_answered_right(cell):
    scores = {row["kind"]: row for row in card_of(cell)["scores"]["heldout"]}
    assert scores["all"]["accuracy"] >= 0.9
