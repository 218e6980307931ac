"""The shipped connectors and adapters: small, told by their cards, and scoring what the cards say."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import vlm_probe
from vlm_probe.errors import VlmProbeError
from vlm_probe.training.card import check_scores
from vlm_probe.training.connector import Steps
from vlm_probe.zoo.catalog import FUSIONS, fusion_folder, is_fetched
from vlm_probe.zoo.replicas import folder_of, second_encoder

LIMIT = 6 * 2**20


def card_of(name: str) -> dict:
    return json.loads((fusion_folder(name) / "card.json").read_text())


@pytest.mark.parametrize("name", list(FUSIONS))
def test_it_is_small_and_holds_no_part_of_the_frozen_models(name):
    folder = fusion_folder(name)
    weights = sorted(p.name for p in folder.glob("*.safetensors"))
    assert weights == (["adapter_model.safetensors"] if FUSIONS[name].adapters else []) + ["connector.safetensors"]
    assert all((folder / file).stat().st_size <= LIMIT for file in weights)
    with safe_open(folder / "connector.safetensors", "pt") as file:
        assert sorted(file.keys()) == ["linear_1.bias", "linear_1.weight", "linear_2.bias", "linear_2.weight"]
    for file in folder.glob("*.json*"):
        assert "/root" not in file.read_text()
        assert "/tmp" not in file.read_text()


def test_the_variants_differ_in_nothing_but_the_language_model_and_the_adapters():
    told: dict[str, set[str]] = {}
    for name, fusion in FUSIONS.items():
        card, config = card_of(name), json.loads((fusion_folder(name) / "config.json").read_text())
        own = config["vlm_probe"]
        parts = {"language": fusion.language, "encoder": "dinov2-small", "adapters": fusion.adapters}
        assert own.pop("parts") == parts
        assert list(card["stages"]) == ["captions", "questions"] + ["adapters", "comparisons"] * fusion.adapters
        alike = {
            "steps": card["steps"],
            "seed": (card["training_seed"], card["seed"]),
            "versions": card["versions"],
            "machine": card["machine"],
            "how it is asked": own,
            "encoder": config["vision_config"],
            "connector": [config[k] for k in ("vision_feature_layer", "projector_hidden_act", "image_seq_length")],
            "pixels": json.loads((fusion_folder(name) / "preprocessor_config.json").read_text()),
        }
        for what, value in alike.items():
            told.setdefault(what, set()).add(json.dumps(value, sort_keys=True))
    assert {what: len(values) for what, values in told.items()} == dict.fromkeys(told, 1)
    assert told["steps"] == {json.dumps(vars(Steps()), sort_keys=True)}


@pytest.mark.parametrize("name", list(FUSIONS))
def test_every_type_of_question_has_its_score(name):
    card = card_of(name)
    for split in ("heldout", "novel"):
        assert [row["kind"] for row in card["scores"][split]][-1] == "all"
        assert len(card["scores"][split]) == 11
        text = (fusion_folder(name) / "README.md").read_text()
        assert f"| {card['scores'][split][-1]['accuracy']:.3f} |" in text


@pytest.mark.parametrize("name", list(FUSIONS))
def test_scores_reproduce(name):
    parts = (FUSIONS[name].language, FUSIONS[name].encoder)
    if not all(map(is_fetched, parts)):
        pytest.skip(f"{' and '.join(parts)} are not in the cache (vlm-probe fetch real-small)")
    recorded = card_of(name)["check"]
    model = vlm_probe.load(name, device="cpu", dtype="float32")
    found = check_scores(model, recorded["items"])
    assert found["accuracy"] == recorded["accuracy"]
    # Eighteen or thirty layers in single precision: other processors round otherwise.
    assert found["mean_probability"] == pytest.approx(recorded["mean_probability"], abs=1e-5)


def test_without_its_parts_it_says_what_to_fetch(tmp_path, monkeypatch):
    monkeypatch.setenv("VLM_PROBE_CACHE", str(tmp_path))
    with pytest.raises(VlmProbeError) as caught:
        vlm_probe.load("llava-gemma3-270m")
    assert str(caught.value) == "gemma3-270m is not here yet; get it with: vlm-probe fetch gemma3-270m"


def test_an_unknown_one_lists_the_nearest():
    with pytest.raises(VlmProbeError, match="nearest shipped are .*llava-gemma3-270m"):
        vlm_probe.load("llava-gemma3-270")


@pytest.mark.parametrize("cell", ["default", "small-dino", "large-clip-nopre"])
def test_every_replica_has_a_second_encoder_of_its_recipe(cell):
    file = second_encoder(cell)
    assert file is not None
    kind = file.name.removeprefix("encoder-").removesuffix("-seed1.safetensors")
    assert kind in ("clip" if cell == "default" else cell)
    second, first = load_file(file), load_file(folder_of(cell).parent / f"encoder-{kind}.safetensors")
    assert {name: (value.shape, value.dtype) for name, value in second.items()} == {
        name: (value.shape, value.dtype) for name, value in first.items()
    }
    assert not any(torch.equal(second[name], first[name]) for name in first)


def test_what_is_no_replica_has_no_second_encoder():
    assert second_encoder("llava-gemma3-270m") is None
    assert second_encoder("small-eva") is None
