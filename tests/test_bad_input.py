"""What bad input gets: a VlmProbeError that says what was received, expected and available (tests/cli: on one line)."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import tiny_batch, tiny_llava

import vlm_probe
from vlm_probe import VlmProbeError
from vlm_probe.hooked import HookedVLM
from vlm_probe.inputs.images import open_image


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "picture.png"
    Image.fromarray(np.full((37, 53, 3), 90, dtype=np.uint8)).save(path)
    return path


def test_a_large_but_decodable_image_is_refused_by_size(monkeypatch, picture):
    monkeypatch.setattr("vlm_probe.inputs.images.MAX_PIXELS", 1000)
    with pytest.raises(VlmProbeError, match=r"'picture.png' is 53 x 37 pixels"):
        open_image(picture)


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "checkpoint"
    tiny_llava().save_pretrained(folder, max_shard_size="40KB")
    return folder


def test_directories_that_are_no_llava_checkpoint(tmp_path, checkpoint):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(VlmProbeError, match=r"empty is not a checkpoint: it has no config\.json"):
        vlm_probe.load(empty)
    (empty / "config.json").write_text("{ not json")
    with pytest.raises(VlmProbeError, match=r"config\.json is not valid JSON"):
        vlm_probe.load(empty)
    (empty / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(VlmProbeError, match="is a 'gpt2' checkpoint, expected a model with an encoder"):
        vlm_probe.load(empty)
    shutil.copy(checkpoint / "config.json", empty / "config.json")
    with pytest.raises(VlmProbeError, match=r"holds no weights: expected \*\.safetensors or pytorch_model"):
        vlm_probe.load(empty)
    with pytest.raises(VlmProbeError, match="is a file, expected a checkpoint directory"):
        vlm_probe.load(checkpoint / "config.json")


def test_a_missing_shard_and_missing_weights_are_named(checkpoint):
    shards = sorted(checkpoint.glob("model-*.safetensors"))
    assert len(shards) > 2
    shards[1].unlink()
    with pytest.raises(VlmProbeError) as caught:
        vlm_probe.load(checkpoint)
    assert str(caught.value) == (
        f"{checkpoint} lacks 1 of the {len(shards)} shards that model.safetensors.index.json names: {shards[1].name}"
    )
    index = checkpoint / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"] = {k: v for k, v in content["weight_map"].items() if v != shards[1].name}
    index.write_text(json.dumps(content))
    with pytest.raises(VlmProbeError, match=r"lacks \d+ weights a llava model needs: "):
        vlm_probe.load(checkpoint)


def test_weights_that_are_cut_off_or_misshapen(tmp_path):
    tiny_llava().save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(VlmProbeError, match="could not be loaded"):
        vlm_probe.load(tmp_path)
    weights.write_bytes(whole)
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"]["intermediate_size"] = 59
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        VlmProbeError, match=r"has 9 weights of a shape its config\.json does not promise: .* expected "
    ):
        vlm_probe.load(tmp_path)
    config["text_config"]["model_type"] = "nonesuch"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(VlmProbeError, match=r"config\.json is not understood"):
        vlm_probe.load(tmp_path)
    config["text_config"]["model_type"] = "opt"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        VlmProbeError, match="a language model of type 'opt' is not supported; supported are gemma, gemma2"
    ):
        vlm_probe.load(tmp_path)


def test_an_original_layout_without_its_tower(reference, tmp_path):
    folder = tmp_path / "original"
    shutil.copytree(reference / "clip_gemma_original", folder)
    folder.chmod(0o755)
    (folder / "vision-tower").chmod(0o755)
    shutil.rmtree(folder / "vision-tower")
    with pytest.raises(VlmProbeError) as caught:
        vlm_probe.load(folder)
    assert str(caught.value) == (
        f"{folder} is in the original LLaVA layout and its encoder is missing: config.json names "
        "mm_vision_tower='./vision-tower', expected a folder with config.json there"
    )


def test_a_directory_without_tokenizer_loads_and_says_so_when_asked(checkpoint, picture):
    model = vlm_probe.load(checkpoint, device="cpu")
    batch = tiny_batch(model.hf)
    with torch.no_grad():
        assert model(model.prepare_tensors(batch["input_ids"], batch["pixel_values"])).logits.shape == (2, 32, 97)
    with pytest.raises(VlmProbeError, match="has no tokenizer, so a question cannot be prepared; use prepare_tensors"):
        model.prepare(picture, "What?")


def test_wrong_options(checkpoint):
    for kwargs, message in (
        ({"dtype": "int8"}, "dtype must be a floating torch dtype such as 'float32' or 'bfloat16', got 'int8'"),
        ({"quantization": "3bit"}, "quantization must be one of 8bit, 4bit, got '3bit'"),
        ({"quantization": "4bit", "device": "cpu"}, "quantization '4bit' needs a CUDA device, got cpu"),
    ):
        with pytest.raises(VlmProbeError) as caught:
            vlm_probe.load(checkpoint, **kwargs)
        assert str(caught.value) == message
    with pytest.raises(VlmProbeError, match=r"^no device 'toaster' here: Expected one of cpu, cuda"):
        vlm_probe.load(checkpoint, device="toaster")


def test_a_capture_that_does_not_fit_is_refused_before_running(monkeypatch):
    model = HookedVLM(tiny_llava())
    batch = tiny_batch(model.hf, batch=1)
    inputs = model.prepare_tensors(batch["input_ids"], batch["pixel_values"])
    monkeypatch.setattr("vlm_probe.running.capture.free_memory", lambda device: 100_000)
    with pytest.raises(
        VlmProbeError, match=r"capturing \d+ activations needs .* GiB are free on cpu; the \d+ smallest"
    ):
        model.trace(inputs, capture=["*"])
    small = model.trace(inputs, capture=["language.blocks.0.attn.hook_pattern"])
    assert len(small.activations) == 1


def test_the_memory_estimate_is_the_memory_kept(any_llava):
    from vlm_probe.running.capture import _bytes_needed

    model = HookedVLM(any_llava)
    batch = tiny_batch(any_llava, batch=1)
    inputs = model.prepare_tensors(batch["input_ids"], batch["pixel_values"])
    trace = model.trace(inputs, capture=["*"])
    estimate = _bytes_needed(model, inputs, list(trace.activations))
    for name, tensor in trace.activations.items():
        kept = tensor.numel() * tensor.element_size()
        # Keys and values are estimated as if they were not shared, patches as if CLS stayed: never less.
        assert kept <= estimate[name] <= 3.1 * kept, name


def test_special_tokens_in_a_question_are_refused(replica, picture):
    with pytest.raises(VlmProbeError) as caught:
        replica.prepare(picture, "Is <image> a token?")
    assert str(caught.value) == "the question contains '<image>', a special token of this model; leave it out"
