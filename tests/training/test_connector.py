"""Connectors between frozen models: deterministic, resumable, and what is exported computes what was trained."""

import json
import random
import sys
from typing import Any

import pytest
import torch
from tiny_parts import PLACEHOLDER, SIDE, fusion, put_parts
from transformers import AutoTokenizer

import vlm_probe
from vlm_probe.errors import VlmProbeError
from vlm_probe.inputs.prompts import encode_prompt
from vlm_probe.items import accuracy_table
from vlm_probe.running.evaluation import evaluate
from vlm_probe.scenes import sample_scene, scene_image, scene_items, with_baselines
from vlm_probe.training import connector as recipe
from vlm_probe.training.card import score_table
from vlm_probe.training.connector_card import write_card
from vlm_probe.training.encoders import pixels
from vlm_probe.training.packing import IGNORE, build_tokenizer
from vlm_probe.zoo.catalog import FUSIONS, is_fetched

TINY = recipe.Steps(captions=3, questions=3, adapters=3, comparisons=3)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    put_parts(tmp_path, monkeypatch)


def weights(parts) -> dict[str, torch.Tensor]:
    found = {f"connector.{k}": v.clone() for k, v in parts.connector.state_dict().items()}
    if parts.adapted is not None:
        found |= {k: v.clone() for k, v in parts.adapted.state_dict().items() if "lora_" in k}
    return found


class KilledError(Exception):
    pass


def test_killed_at_every_stage_and_resumed_gives_the_same_weights(tmp_path, monkeypatch):
    whole = weights(recipe.train(fusion(True), tmp_path / "whole", steps=TINY))
    monkeypatch.setattr("vlm_probe.training.loop.SAVE_EVERY_S", 0.0)
    for stage in recipe.PLANS:

        def kill(progress, stage=stage):
            if progress.stage == stage and progress.step == 2:
                raise KilledError

        with pytest.raises(KilledError):
            recipe.train(fusion(True), tmp_path / "killed", steps=TINY, resume=True, listen=kill)
    resumed = weights(recipe.train(fusion(True), tmp_path / "killed", steps=TINY, resume=True))
    assert whole.keys() == resumed.keys()
    assert any("lora_B" in name and tensor.abs().sum() > 0 for name, tensor in whole.items())
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)


def test_the_frozen_models_stay_as_they_are(tmp_path):
    before = recipe.Parts(fusion(True), "cpu", 0)
    after = recipe.train(fusion(True), tmp_path, steps=TINY)
    with after.adapted.disable_adapter():
        for one, other in ((before.encoder, after.encoder), (before.language.model, after.language.model)):
            kept = {k.replace("base_layer.", ""): v for k, v in other.state_dict().items() if "lora_" not in k}
            assert one.state_dict().keys() == kept.keys()
            assert all(torch.equal(v, kept[k]) for k, v in one.state_dict().items())


@pytest.mark.parametrize("adapters", [False, True])
def test_exported_it_opens_and_computes_what_training_computed(tmp_path, adapters):
    parts = recipe.train(fusion(adapters), tmp_path / "runs", steps=TINY)
    recipe.export(parts, tmp_path / "model")
    model = vlm_probe.load(tmp_path / "model", device="cpu")
    assert (model.embed_scale, model.image_size, model.prompt) == ("text", recipe.IMAGE_SIZE, recipe.PROMPT)
    scene = sample_scene(5)
    inputs = model.prepare(scene_image(scene, recipe.IMAGE_SIZE), "What color is the star?")
    shown = pixels([scene], size=recipe.IMAGE_SIZE, mean=parts.mean, std=parts.std)
    torch.testing.assert_close(inputs.pixel_values, shown, atol=1e-5, rtol=0)
    before = parts.packer.segment("What color is the star?", "red")
    ids = [*parts.packer.opening(), *[parts.packer.placeholder()] * SIDE**2, *before[0][: before[1]]]
    assert inputs.input_ids[0].tolist() == ids
    language = parts.language.float()
    with torch.no_grad():
        hidden = parts.encoder(shown, output_hidden_states=True).hidden_states[-2][:, 1:]
        embeds = language.get_input_embeddings()(torch.tensor([ids]))
        embeds[0, 1 : 1 + SIDE**2] = parts.connector(hidden)[0]
        expected = language(inputs_embeds=embeds).logits[0, -1]
        got = model(inputs).logits[0, -1]
    # Half precision on disk (and the adapters merged into it) is all that lies between them.
    torch.testing.assert_close(got, expected, atol=0.02, rtol=0.02)


def test_a_folder_that_held_adapters_holds_none_for_the_connector_alone(tmp_path):
    recipe.export(recipe.train(fusion(True), tmp_path / "runs", steps=TINY), tmp_path / "model")
    assert (tmp_path / "model" / "adapter_model.safetensors").is_file()
    recipe.export(recipe.train(fusion(False), tmp_path / "runs", steps=TINY, resume=True), tmp_path / "model")
    assert not list((tmp_path / "model").glob("adapter*"))


def test_adapters_without_peft_are_refused_before_anything_is_trained(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(VlmProbeError, match=r'^training adapters needs the extra: pip install -e "\.\[real-small\]"$'):
        recipe.train(fusion(True), tmp_path, steps=TINY)
    assert not list(tmp_path.rglob("*.pt"))


def test_scales_are_folded_into_a_plain_connector():
    torch.manual_seed(4)
    connector = recipe.ScaledConnector(11, 7)
    connector.mean.normal_()
    connector.std.uniform_(0.2, 3)
    connector.row_rms.fill_(5.3)
    x = torch.randn(2, 13, 11)
    with torch.no_grad():
        torch.testing.assert_close(connector.folded()(x), connector(x), atol=1e-5, rtol=1e-5)


def spelled_alike(tokenizer, placeholder: str) -> None:
    packer = recipe.PromptPacker(tokenizer, placeholder)
    for item in scene_items(30, split="any", seed=3):
        question, answer = item.question, item.answer
        settings: dict[str, Any] = {"images": "<image>", "image_token_id": packer.placeholder()}
        asked = encode_prompt(tokenizer, recipe.PROMPT, question, **settings).ids
        whole = encode_prompt(tokenizer, recipe.PROMPT, question, answer=answer, **settings).ids
        ids, before = packer.segment(question, answer)
        opening = [*packer.opening(), packer.placeholder()]
        assert asked == [*opening, *ids[:before]]
        assert [*whole, tokenizer.eos_token_id] == [*opening, *ids]


def test_questions_are_learned_as_they_are_asked():
    spelled_alike(build_tokenizer(704), "<start_of_turn>")


@pytest.mark.parametrize("name", sorted({f.language for f in FUSIONS.values()}))
def test_the_real_tokenizers_spell_alike(name, monkeypatch):
    monkeypatch.delenv("VLM_PROBE_CACHE")
    if not is_fetched(name):
        pytest.skip(f"{name} is not in the cache (vlm-probe fetch real-small)")
    (placeholder,) = {f.placeholder for f in FUSIONS.values() if f.language == name}
    tokenizer = AutoTokenizer.from_pretrained(recipe.part_folder(name))
    assert tokenizer.convert_tokens_to_ids(placeholder) != tokenizer.unk_token_id
    spelled_alike(tokenizer, placeholder)


def test_packed_rows_are_padded_to_a_multiple_that_no_label_is_in():
    packer = recipe.PromptPacker(build_tokenizer(320), PLACEHOLDER)
    scenes = [sample_scene(i) for i in range(3)]
    packed = packer.pack(scenes, random.Random(0), patches=16, describe=True, questions=5, learn_all=False, multiple=32)
    assert packed.input_ids.shape[1] % 32 == 0
    assert packed.patches_at == 1
    assert (packed.input_ids[:, 1:17] == packer.placeholder()).all()
    assert packed.first.sum(1).tolist() == [6, 6, 6]
    assert (packed.labels[packed.first] != IGNORE).all()


def test_the_card_says_what_was_done(tmp_path):
    one = fusion(True)
    recipe.export(recipe.train(one, tmp_path / "runs", steps=TINY), tmp_path / "model")
    model = vlm_probe.load(tmp_path / "model", device="cpu")
    items = list(scene_items(10))
    answers = with_baselines(evaluate(model, items), items)
    scores = {split: accuracy_table(answers) for split in ("heldout", "novel")}
    write_card(one, tmp_path / "runs", tmp_path / "model", scores, {"items": 10}, steps=TINY, seed=0)
    card = json.loads((tmp_path / "model" / "card.json").read_text())
    assert list(card["stages"]) == ["captions", "questions", "adapters", "comparisons"]
    assert [log["steps"] for log in card["stages"].values()] == [3, 3, 3, 3]
    text = (tmp_path / "model" / "README.md").read_text()
    assert score_table(scores["heldout"]) in text
    assert "nobody/tiny-words" in text
    assert str(tmp_path) not in "".join(p.read_text() for p in (tmp_path / "model").glob("*.json"))
