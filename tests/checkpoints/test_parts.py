"""A connector that names its encoder and its language model gives the model that holds all three."""

import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tiny import GRID, PATCH, TOWERS, tiny_batch, tiny_llava
from transformers import AutoModelForCausalLM, Dinov2Model

import vlm_probe
from vlm_probe.checkpoints.parts import resample_positions
from vlm_probe.errors import VlmProbeError
from vlm_probe.hooked import HookedVLM


def language_alone(llava):
    """The language model of a LLaVA, as a model of its own."""
    alone = AutoModelForCausalLM.from_config(llava.config.text_config).eval()
    alone.model.load_state_dict(llava.model.language_model.state_dict())
    alone.lm_head.load_state_dict(llava.lm_head.state_dict())
    return alone


def write_parts(llava, folder, **changes):
    """Encoder, language model and connector, each in a folder of its own; returns the connector's."""
    language_alone(llava).save_pretrained(folder / "language")
    llava.model.vision_tower.save_pretrained(folder / "encoder")
    out = folder / "joined"
    out.mkdir()
    connector = {k: v.contiguous() for k, v in llava.model.multi_modal_projector.state_dict().items()}
    save_file(connector, out / "connector.safetensors", metadata={"format": "pt"})
    config = llava.config.to_dict()
    parts = {"language": str(folder / "language"), "encoder": str(folder / "encoder"), **changes}
    config["vlm_probe"] = {"embed_scale": "text", "parts": parts}
    (out / "config.json").write_text(json.dumps(config))
    return out


def logits(model, batch):
    with torch.no_grad():
        return model(**batch).logits


@pytest.mark.parametrize("language", ["gemma3", "llama"])
@pytest.mark.parametrize("tower", list(TOWERS))
def test_parts_give_the_whole(tmp_path, tower, language):
    llava = tiny_llava(tower, language)
    batch = tiny_batch(llava)
    loaded = vlm_probe.load(write_parts(llava, tmp_path), device="cpu")
    assert loaded.embed_scale == "text"
    assert torch.equal(logits(loaded, batch), logits(HookedVLM(llava), batch))


def test_saved_again_it_is_whole(tmp_path):
    loaded = vlm_probe.load(write_parts(tiny_llava("dinov2", "gemma3"), tmp_path), device="cpu")
    loaded.hf.save_pretrained(tmp_path / "whole")
    again = vlm_probe.load(tmp_path / "whole", device="cpu")
    assert again.embed_scale == "text"
    batch = tiny_batch(loaded.hf)
    assert torch.equal(logits(again, batch), logits(loaded, batch))


def test_adapters_are_merged_as_peft_merges_them(tmp_path):
    llava = tiny_llava("dinov2", "gemma3")
    folder = write_parts(llava, tmp_path, adapters=True)
    settings = LoraConfig(r=3, lora_alpha=7, target_modules=["q_proj", "o_proj", "up_proj"])
    adapted = get_peft_model(language_alone(llava), settings)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    adapted.save_pretrained(folder)
    ids = torch.randint(3, 90, (2, 11), generator=generator)
    loaded = vlm_probe.load(folder, device="cpu")
    with torch.no_grad():
        expected = adapted(input_ids=ids).logits
        plain = adapted.get_base_model()
        with adapted.disable_adapter():
            without = plain(input_ids=ids).logits
    got = logits(loaded, {"input_ids": ids})
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    assert (got - without).abs().max() > 0.01, "the adapters must matter"


def test_positions_are_resampled_as_the_encoder_would(tmp_path):
    torch.manual_seed(2)
    native = Dinov2Model(TOWERS["dinov2"]()).eval()
    with torch.no_grad():
        native.embeddings.position_embeddings.normal_()
    side = 3
    pixels = torch.randn(2, 3, side * PATCH, side * PATCH)
    rows = native.embeddings.position_embeddings.detach()
    assert rows.shape[1] == GRID**2 + 1
    small_config = TOWERS["dinov2"]()
    small_config.image_size = side * PATCH
    small = Dinov2Model(small_config).eval()
    state = native.state_dict() | {"embeddings.position_embeddings": resample_positions(rows, side)}
    small.load_state_dict(state)
    with torch.no_grad():
        expected, got = (m(pixels).last_hidden_state for m in (native, small))
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_an_encoder_of_another_size_is_brought_to_the_declared_one(tmp_path):
    llava = tiny_llava("dinov2", "llama")
    folder = write_parts(llava, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"]["image_size"] = 4 * PATCH
    (folder / "config.json").write_text(json.dumps(config))
    loaded = vlm_probe.load(folder, device="cpu")
    assert loaded.image_size == 4 * PATCH
    assert loaded.hf.model.vision_tower.embeddings.position_embeddings.shape[1] == 17


def refused(folder, message):
    with pytest.raises(VlmProbeError) as caught:
        vlm_probe.load(folder, device="cpu")
    assert str(caught.value).startswith(message)


def test_a_part_that_is_not_fetched_says_how_to_get_it(tmp_path, monkeypatch):
    folder = write_parts(tiny_llava("dinov2", "llama"), tmp_path, language="gemma3-270m")
    monkeypatch.setenv("VLM_PROBE_CACHE", str(tmp_path / "empty"))
    refused(folder, "gemma3-270m is not here yet; get it with: vlm-probe fetch gemma3-270m")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"language": "/nowhere"}, "the part '/nowhere' is no model that can be fetched (gemma3-270m, smollm2-135m, "),
        ({"encoder": None}, "{folder}'s config.json must name a language and an encoder under vlm_probe.parts: {{"),
        ({"encoder": "nobody/nothing"}, "'nobody/nothing' could not be fetched from the Hub: "),
    ],
)
def test_a_part_that_is_nowhere_is_named(tmp_path, changes, message):
    folder = write_parts(tiny_llava("dinov2", "llama"), tmp_path, **changes)
    refused(folder, message.format(folder=folder))


def test_parts_beside_the_checkpoint_may_be_named_relative_to_it(tmp_path):
    llava = tiny_llava("clip", "llama")
    folder = write_parts(llava, tmp_path, language="../language", encoder="../encoder")
    batch = tiny_batch(llava)
    assert torch.equal(logits(vlm_probe.load(folder, device="cpu"), batch), logits(HookedVLM(llava), batch))


def test_a_connector_that_is_missing_or_misshapen_is_refused(tmp_path):
    folder = write_parts(tiny_llava("dinov2", "llama"), tmp_path)
    weights = load_file(folder / "connector.safetensors")
    save_file({**weights, "linear_2.bias": torch.zeros(5)}, folder / "connector.safetensors")
    refused(folder, f"{folder} has 1 weights of a shape its config.json does not promise: ")
    (folder / "connector.safetensors").write_bytes(b"junk")
    refused(folder, f"{folder} holds no connector.safetensors that can be read: ")
    (folder / "connector.safetensors").unlink()
    refused(folder, f"{folder} holds no connector.safetensors that can be read: ")


@pytest.fixture
def adapted(tmp_path):
    """A checkpoint in parts with adapters, for a language model of three layers."""
    llava = tiny_llava("dinov2", "llama")
    folder = write_parts(llava, tmp_path, adapters=True)
    get_peft_model(language_alone(llava), LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(folder)
    assert vlm_probe.load(folder, device="cpu")
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_dora": True}, "{folder}/adapter_config.json describes no plain LoRA, which is all that is merged here"),
        ({"peft_type": "IA3"}, "{folder}/adapter_config.json describes no plain LoRA"),
        (
            {"r": 3},
            "{folder}/adapter_model.safetensors adapts model.layers.0.self_attn.q_proj.weight by [60, 2] x [2, 42]",
        ),
        ({"r": None}, "{folder} holds no adapter_config.json that can be read: "),
        (None, "{folder} holds no adapter_config.json that can be read: "),
    ],
)
def test_adapters_of_another_kind_are_refused(adapted, change, message):
    file = adapted / "adapter_config.json"
    file.write_text("{" if change is None else json.dumps(json.loads(file.read_text()) | change))
    refused(adapted, message.format(folder=adapted))


def test_adapters_of_another_model_are_refused(adapted):
    file = adapted / "adapter_model.safetensors"
    weights = load_file(file)
    save_file({k.replace("layers.0", "layers.9"): v for k, v in weights.items()}, file)
    refused(adapted, f"{file} adapts model.layers.9.self_attn.q_proj.weight by [60, 2] x [2, 42] at rank 2; the lan")
    save_file({**weights, "base_model.model.model.norm.bias": torch.zeros(42)}, file)
    refused(
        adapted, f"{file} holds other tensors than pairs of lora_A and lora_B, such as base_model.model.model.norm.bi"
    )
    save_file({"x": torch.zeros(1)}, file)
    refused(adapted, f"{file} holds other tensors than pairs of lora_A and lora_B, such as x")
    file.unlink()
    refused(adapted, f"{adapted} holds no adapter_model.safetensors that can be read: ")
