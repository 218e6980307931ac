"""A checkpoint is opened whole or not at all: nothing that it holds is dropped in silence."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import PROMPT, tiny_batch, tiny_llava, tiny_tokenizer

import vlm_probe
from vlm_probe import VlmProbeError, VlmProbeWarning
from vlm_probe.report import inspect
from vlm_probe.running.asking import Asked, ask_all


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
        json.dumps(
            {
                "image_processor_type": "CLIPImageProcessor",
                "size": {"height": 56, "width": 56},
                "do_center_crop": False,
            }
        )
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


def changed(folder, file, change):
    content = json.loads((folder / file).read_text()) if (folder / file).is_file() else {}
    change(content)
    (folder / file).write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("token", "message"),
    [
        (97, "'s config.json has the image token 97, outside the vocabulary of 97"),
        (40, "'s config.json has the image token 40, its tokenizer's <image> is 96"),
    ],
)
def test_an_image_token_that_is_not_the_tokenizers(folder, token, message):
    tiny_tokenizer().save_pretrained(folder)
    changed(folder, "config.json", lambda config: config.update(image_token_index=token, image_token_id=token))
    assert refused(folder) == f"{folder}{message}"


def test_an_image_processor_that_does_not_suit_the_encoder(folder):
    settings = {"image_processor_type": "CLIPImageProcessor", "do_center_crop": False}
    changed(
        folder, "preprocessor_config.json", lambda config: config.update(settings, size={"height": 21, "width": 21})
    )
    assert refused(folder) == f"the image processor of {folder} makes 21 x 21 pixels, its encoder takes 15 x 15"
    broken = {"size": {"height": 15, "width": 15}, "image_mean": [0.5]}
    changed(folder, "preprocessor_config.json", lambda config: config.update(broken))
    assert refused(folder).startswith(f"the image processor of {folder} cannot be used: ")


def test_a_prompt_that_is_assumed_in_tokens_that_are_not_there_is_said(folder):
    tiny_tokenizer().save_pretrained(folder)
    with pytest.warns(VlmProbeWarning) as caught:
        model = vlm_probe.load(folder, device="cpu")
    (said,) = [str(one.message) for one in caught if one.category is VlmProbeWarning]
    assert said == (
        f"{folder} has no chat template and is asked as its family is, {model.prompt!r}, though its tokenizer has no "
        "<start_of_turn>, <end_of_turn>; give its own with prompt= (--prompt)"
    )


def test_weights_that_are_no_numbers_are_said_by_whatever_asks(folder, tmp_path):
    tiny_tokenizer().save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    weights["multi_modal_projector.linear_1.weight"][0] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    size = {"height": 15, "width": 15}
    settings = {"image_processor_type": "CLIPImageProcessor", "do_center_crop": False, "size": size}
    changed(folder, "preprocessor_config.json", lambda config: config.update(settings))
    model = vlm_probe.load(folder, device="cpu", prompt=PROMPT)
    said = (
        f"{folder} gives logits that are not numbers (NaN) in torch.float32: its weights are broken, or the dtype is "
        "too narrow"
    )
    picture = torch.zeros(3, 15, 15)
    for ask in (
        lambda: model.trace(picture, "a"),
        lambda: inspect(model, picture, "a", out=tmp_path / "page"),
        lambda: ask_all(model, [picture], [Asked(0, "a", "b")]),
    ):
        with pytest.raises(VlmProbeError) as caught:
            ask()
        assert str(caught.value) == said
    assert not (tmp_path / "page").exists()
