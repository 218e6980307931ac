"""A checkpoint is opened whole or not at all: nothing that it holds is dropped in silence."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import tiny_batch, tiny_llava, tiny_tokenizer

import vlm_probe
from vlm_probe import VlmProbeError


@pytest.fixture
def folder(tmp_path):
    tiny_llava().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def refused(folder) -> str:
    with pytest.raises(VlmProbeError) as caught:
        vlm_probe.load(folder, device="cpu")
    return str(caught.value)


def test_fewer_layers_than_the_weights_have(folder):
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 2
    config["text_config"].pop("layer_types", None)
    (folder / "config.json").write_text(json.dumps(config))
    assert refused(folder) == (
        f"{folder} holds 9 weights that its config.json has no place for, so that it would not be the model that was "
        "trained: model.language_model.layers.2.input_layernorm.weight, "
        "model.language_model.layers.2.mlp.down_proj.weight, model.language_model.layers.2.mlp.gate_proj.weight, "
        "model.language_model.layers.2.mlp.up_proj.weight ..."
    )


@pytest.mark.parametrize(
    "extra",
    [
        "language_model.model.layers.0.self_attn.q_proj.bias",
        "language_model.model.layers.0.self_attn.q_proj.lora_A.weight",
        "model.image_newline",
    ],
)
def test_weights_that_the_model_has_no_place_for(folder, extra):
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, extra: torch.ones(60)}, folder / "model.safetensors", metadata={"format": "pt"})
    said = refused(folder)
    assert said.startswith(f"{folder} holds 1 weights that its config.json has no place for")
    assert said.endswith(extra.removeprefix("language_model.model.").removeprefix("model."))


def test_what_older_transformers_saved_beside_the_weights_is_harmless(folder):
    weights = load_file(folder / "model.safetensors")
    harmless = {
        "language_model.model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(5),
        "vision_tower.vision_model.embeddings.position_ids": torch.arange(26)[None],
    }
    save_file({**weights, **harmless}, folder / "model.safetensors", metadata={"format": "pt"})
    model = vlm_probe.load(folder, device="cpu")
    plain = tiny_llava()
    with torch.no_grad():
        batch = tiny_batch(plain)
        model.embed_scale = "text"
        assert torch.equal(model(**batch).logits, plain(**batch).logits)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"image_aspect_ratio": "anyres", "mm_patch_merge_type": "spatial_unpad"},
            "cuts images into tiles (image_aspect_ratio 'anyres', mm_patch_merge_type 'spatial_unpad'), which is not "
            "supported",
        ),
        (
            {"mm_use_im_start_end": True},
            "puts every image between tokens of its own (mm_use_im_start_end), which is not supported",
        ),
    ],
)
def test_original_checkpoints_of_another_kind(reference, tmp_path, changes, message):
    folder = original(reference, tmp_path, changes)
    assert refused(folder) == f"{folder} {message}"


@pytest.mark.parametrize(("ratio", "pads"), [("pad", True), ("square", False), (None, False)])
def test_original_checkpoints_pad_where_they_say_so(reference, tmp_path, ratio, pads):
    folder = original(reference, tmp_path, {"image_aspect_ratio": ratio})
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_processor_type": "CLIPImageProcessor", "size": {"height": 56, "width": 56}})
    )
    assert vlm_probe.load(folder, device="cpu").preparer.pad is pads


def original(reference, tmp_path, changes):
    folder = tmp_path / "original"
    shutil.copytree(reference / "clip_gemma_original", folder)
    folder.chmod(0o755)
    (folder / "config.json").chmod(0o644)
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    return folder


@pytest.mark.parametrize("file", ["tokenizer.json", "preprocessor_config.json"])
def test_a_file_that_cannot_be_read_is_not_a_file_that_is_missing(folder, file):
    tiny_tokenizer().save_pretrained(folder)
    (folder / file).write_text('{"cut off": ')
    assert refused(folder).startswith(f"{folder} has a {file} or its like that cannot be read: ")
