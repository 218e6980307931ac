"""The recipe: deterministic by seed, and a killed run resumes to the same weights."""

import dataclasses
import json
import random
import shutil
import tempfile
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest
import torch
from transformers import LlavaForConditionalGeneration

import vlm_probe
from vlm_probe.scenes import COLORS, SHAPES, sample_scene
from vlm_probe.studies.grid import COLUMNS, grid_scores
from vlm_probe.training import replica as recipe
from vlm_probe.training.card import check_scores, score
from vlm_probe.training.encoders import ClipStage
from vlm_probe.training.fusion import LanguageStage
from vlm_probe.training.loop import run_stage, schedule
from vlm_probe.training.packing import IGNORE, IMAGE, PROMPT, Packer, _lexicon, build_tokenizer
from vlm_probe.zoo.cells import CELLS, VOCABULARIES, VOCABULARY, Cell, Steps
from vlm_probe.zoo.replicas import DEFAULT, folder_of, shipped

TINY = Steps(encoder=3, language=3, connector=2, joint=5, questions=3)


def tiny_cell(encoder: str) -> Cell:
    vision = {"hidden_size": 20, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 64, "patch_size": 16}
    return dataclasses.replace(CELLS[f"small-{encoder}"], steps=TINY, vision=vision)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    """Tiny batches, and an encoder with 16 patches: the arithmetic is that of the real recipe."""
    monkeypatch.setattr("vlm_probe.training.encoders.ClipStage.pairs", 3)
    monkeypatch.setattr("vlm_probe.training.encoders.DinoStage.images", 3)
    monkeypatch.setattr("vlm_probe.training.fusion.LanguageStage.batch", 2)
    monkeypatch.setattr("vlm_probe.training.fusion.FusionStage.batch", 2)
    monkeypatch.setattr("vlm_probe.training.fusion.PATCHES", 16)
    monkeypatch.setattr("vlm_probe.training.replica.PATCHES", 16)


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
    monkeypatch.setattr("vlm_probe.training.loop.SAVE_EVERY_S", 0.0)
    for stage in (f"encoder-{encoder}", "language", "connector", "joint", "questions"):

        def kill(progress, stage=stage):
            if progress.stage == stage and progress.step == 2:
                raise KilledError

        with pytest.raises(KilledError):
            recipe.train(cell, tmp_path / "killed", resume=True, listen=kill)
    resumed = weights(recipe.train(cell, tmp_path / "killed", resume=True))
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)
    for log in ("encoders", "language-small", cell.name):
        logs = sorted((tmp_path / "whole" / "seed-0" / log).glob("*.jsonl"))
        assert logs
        for file in logs:
            assert file.read_text() == (tmp_path / "killed" / "seed-0" / log / file.name).read_text()
    assert not list(tmp_path.rglob("*.partial"))


def test_exported_checkpoint_opens_and_computes_what_training_computed(tmp_path):
    cell = tiny_cell("clip")
    trained = recipe.train(cell, tmp_path / "runs")
    recipe.export(trained, tmp_path / "model")
    model = vlm_probe.load(tmp_path / "model", device="cpu")
    assert model.embed_scale == "text"
    scene = sample_scene(5)
    from vlm_probe.scenes import scene_image
    from vlm_probe.training.encoders import pixels

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


def test_a_segment_goes_on_from_the_prefix_and_its_answer_alone_is_learned():
    packer = Packer(build_tokenizer(CELLS["small-clip"].vocabulary))
    packed = packer.pack([sample_scene(3)], random.Random(0), patches=7, describe=True, questions=3, learn_all=False)
    positions, segment = packed.position_ids[0].tolist(), packed.segment[0].tolist()
    lengths = [segment.count(number) for number in range(5)]
    assert lengths[0] == 9
    assert sum(lengths) == len(segment)
    assert segment == sorted(segment)
    assert positions == [*range(9), *(9 + i for n in lengths[1:] for i in range(n))]
    labelled = packed.labels[0] != IGNORE
    assert not labelled[:9].any()
    assert (packed.answers[0] == labelled).all()


def test_the_schedule_warms_up_and_cools_down():
    values = [schedule(step, 100, 2.0) for step in range(100)]
    assert values[0] == pytest.approx(2.0 / 3)
    assert max(values) == pytest.approx(2.0)
    assert values[-1] < 0.03
    assert all(a >= b for a, b in pairwise(values[3:]))


def card_of(cell: str) -> dict:
    return json.loads((folder_of(cell) / "card.json").read_text())


def test_a_shared_encoder_is_stored_once_and_found_by_every_loader(tmp_path):
    cell = tiny_cell("clip")
    recipe.export(recipe.train(cell, tmp_path / "runs"), tmp_path / "plain")
    for name in ("one", "two"):
        shutil.copytree(tmp_path / "plain", tmp_path / "weights" / name)
        recipe.share_encoder(tmp_path / "weights" / name, "encoder-clip.safetensors")
        assert not (tmp_path / "weights" / name / "model.safetensors").exists()
    expected = LlavaForConditionalGeneration.from_pretrained(tmp_path / "plain").state_dict()
    for name in ("one", "two"):
        for found in (
            LlavaForConditionalGeneration.from_pretrained(tmp_path / "weights" / name).state_dict(),
            vlm_probe.load(tmp_path / "weights" / name, device="cpu", dtype="float16").hf.state_dict(),
        ):
            assert found.keys() == expected.keys()
            assert all(torch.equal(found[key].half(), expected[key].half()) for key in expected)


def test_the_grid_differs_in_one_thing_at_a_time():
    assert len(CELLS) == 11
    assert {name for name in CELLS if "-v" not in name} == {
        f"{size}-{encoder}{pre}"
        for size in ("small", "large")
        for encoder in ("clip", "dino")
        for pre in ("", "-nopre")
    }
    assert max(VOCABULARIES) >= 64 * min(VOCABULARIES)
    small, large = (CELLS[f"{size}-clip"].language for size in ("small", "large"))
    assert large.hidden_size / small.hidden_size == 3072 / 2048
    assert large.num_hidden_layers / small.num_hidden_layers == pytest.approx(28 / 18, abs=0.1)
    assert (small.num_attention_heads, small.num_key_value_heads) == (8, 1)
    assert (large.num_attention_heads, large.num_key_value_heads) == (16, 16)
    steps = {dataclasses.replace(cell.steps, connector=0) for cell in CELLS.values()}
    assert len(steps) == 1, "every cell is trained alike"
    assert len({str(cell.vision) for cell in CELLS.values()}) == 1


def test_tokenizers_have_their_size_and_differ_in_how_finely_they_cut():
    seen, unseen = [], []
    for vocabulary in sorted([*VOCABULARIES, VOCABULARY]):
        tokenizer = build_tokenizer(vocabulary)
        assert len(tokenizer) == vocabulary
        for text, pieces in (("what color is the star?", seen), (" ".join(_lexicon()[0][12_000:12_006]), unseen)):
            pieces.append(len(tokenizer(text, add_special_tokens=False)["input_ids"]))
    assert seen[0] > 8
    assert seen[1:] == [6, 6, 6], "words of the scenes are one token from the grid's vocabulary up"
    assert unseen == sorted(unseen, reverse=True)
    assert len(set(unseen)) == len(unseen), "other words are cut ever more coarsely"


def test_all_shipped_cells_together_are_small():
    weights = folder_of("default").parent
    assert sum(f.stat().st_size for f in weights.rglob("*") if f.is_file()) < 40 * 2**20
    for name in ("small-clip", "small-dino"):
        encoder = weights / f"encoder-{name.removeprefix('small-')}.safetensors"
        own = sum(f.stat().st_size for f in (weights / name).iterdir())
        assert own + encoder.stat().st_size < 4 * 2**20


@pytest.mark.parametrize("cell", shipped())
def test_shipped_weights_score_what_their_card_says(cell):
    data = card_of(cell)
    assert data["cell"]["steps"] == dataclasses.asdict(CELLS[cell].steps)
    assert {stage: log["steps"] for stage, log in data["stages"].items()} == {
        stage: steps for stage, steps in data["cell"]["steps"].items() if steps
    }
    check = data["check"]
    found = check_scores(vlm_probe.load(f"replica/{cell}", device="cpu", dtype="float32"), check["items"])
    assert found == pytest.approx(check, abs=1e-6)


def test_the_table_of_scores_is_what_the_shipped_weights_score_again():
    """All 1,200 items of both splits, for one cell; the test above takes 100 of each cell."""
    found, _ = score(folder_of(DEFAULT), 1200, lambda title, n: nullcontext(lambda done: None))
    table = grid_scores().query("cell == @DEFAULT and seed == 0")
    for split, scores in found.items():
        committed = table.loc[table["split"] == split].set_index("kind").loc[:, ["n", "accuracy", "low", "high"]]
        again = scores.set_index("kind").loc[:, ["n", "accuracy", "low", "high"]].round(4)
        pd.testing.assert_frame_equal(again, committed, check_exact=True)


def test_the_default_is_the_best_of_the_first_two_cells():
    overall = {name: card_of(name)["scores"]["heldout"][-1] for name in ("small-clip", "small-dino")}
    assert all(row["kind"] == "all" for row in overall.values())
    assert max(overall, key=lambda name: overall[name]["accuracy"]) == DEFAULT


@pytest.mark.parametrize("cell", ["small-clip", "small-dino"])
def test_nine_in_ten_held_out_questions_are_answered_right_and_no_type_is_guessed(cell):
    scores = {row["kind"]: row for row in card_of(cell)["scores"]["heldout"]}
    assert scores["all"]["accuracy"] >= 0.9
    for row in scores.values():
        assert row["low"] > max(row["chance"], row["blind"]), row


@pytest.mark.parametrize(("stage", "steps"), [("encoder", 21), ("language", 41)])
def test_the_first_steps_are_those_of_the_log_that_is_shipped(monkeypatch, stage, steps):
    """Of small-clip, from nothing: the stages that start without another one."""
    monkeypatch.undo()  # the real batches
    lines = map(json.loads, (folder_of("small-clip") / "training_log.jsonl").read_text().splitlines())
    recorded = {e["step"]: e["loss"] for e in lines if e["stage"] == stage and e["step"] < steps}
    assert len(recorded) >= 2
    losses: list[float] = []

    def listen(progress):
        losses.append(progress.figures["loss"])
        if len(losses) == steps:
            raise KilledError

    cell = CELLS["small-clip"]
    packer = Packer(build_tokenizer(cell.vocabulary))
    trained = LanguageStage(cell, packer) if stage == "language" else ClipStage(cell, packer)
    with tempfile.TemporaryDirectory() as folder, pytest.raises(KilledError):
        run_stage(trained, Path(folder), resume=False, listen=listen)
    assert {step: losses[step] for step in recorded} == pytest.approx(recorded, rel=ROUNDING)


ROUNDING = 0.05
"""Other processors round bfloat16 otherwise, and small differences grow: curves must agree, not bits."""
LOSSES = Path(__file__).with_name("losses_of_100_steps.json")


def retrain_for_100_steps() -> dict[str, list[float]]:
    """Every stage's losses, step by step, of a small-clip with 100 steps in all; batches and seeds are the real ones.

    To record them anew: `python tests/training/test_replica.py`.
    """
    short = Steps(encoder=20, language=30, connector=10, joint=20, questions=20)
    losses: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        recipe.train(
            dataclasses.replace(CELLS["small-clip"], steps=short),
            Path(folder),
            listen=lambda progress: losses.setdefault(progress.stage, []).append(progress.figures["loss"]),
        )
    return losses


def test_a_cell_retrained_for_100_steps_follows_the_recorded_losses(monkeypatch):
    monkeypatch.undo()  # the real batches
    recorded, losses = json.loads(LOSSES.read_text()), retrain_for_100_steps()
    assert sum(map(len, losses.values())) == 100
    assert list(losses) == list(recorded)
    for stage, values in recorded.items():
        assert _means_of_ten(losses[stage]) == pytest.approx(_means_of_ten(values), rel=ROUNDING), stage


def _means_of_ten(values: list[float]) -> list[float]:
    """A single step's loss is that of a few scenes."""
    return torch.tensor(values).reshape(-1, 10).mean(1).tolist()


def test_committed_scores_agree_with_the_cards():
    table = grid_scores()
    assert tuple(table.columns) == COLUMNS
    assert not table.duplicated(["cell", "seed", "split", "kind"]).any()
    for name in shipped():
        rows = table.query("cell == @name and seed == 0 and split == 'heldout'").set_index("kind")["accuracy"]
        assert rows.to_dict() == {row["kind"]: row["accuracy"] for row in card_of(name)["scores"]["heldout"]}


if __name__ == "__main__":
    LOSSES.write_text(json.dumps({k: [round(x, 5) for x in v] for k, v in retrain_for_100_steps().items()}) + "\n")
