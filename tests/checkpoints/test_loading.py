"""Every layout on disk gives the same model; what a checkpoint declares is obeyed."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import tiny_batch, tiny_llava, untyped
from transformers import CLIPImageProcessor

import vlm_probe
from vlm_probe.checkpoints.original import read_original
from vlm_probe.hooked import HookedVLM
from vlm_probe.hooked.anatomy import with_rows


def same(a, b) -> bool:
    batch = tiny_batch(a.hf)
    with torch.no_grad():
        return torch.equal(a(**batch).logits, b(**batch).logits)


@pytest.fixture
def expected(any_llava):
    return HookedVLM(any_llava)


def test_saved_and_loaded_is_the_same_model(any_llava, expected, tmp_path):
    any_llava.save_pretrained(tmp_path)
    loaded = vlm_probe.load(tmp_path, device="cpu")
    assert same(loaded, expected)
    assert type(loaded.hf) is type(any_llava)


def test_new_key_names_load_too(any_llava, expected, tmp_path):
    """`model.vision_tower...`, as recent transformers keeps them in memory and some checkpoints on disk."""
    any_llava.save_pretrained(tmp_path)
    state = {k: v.contiguous() for k, v in any_llava.state_dict().items()}
    if any_llava.config.tie_word_embeddings:
        state.pop("lm_head.weight")
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert same(vlm_probe.load(tmp_path, device="cpu"), expected)


def to_original(hf, folder, *, tower: str) -> None:
    """Write a model in the original LLaVA layout; `tower` says where the encoder goes: inside or beside."""
    folder.mkdir()
    saved = folder / "saved"
    hf.save_pretrained(saved)
    weights = load_file(saved / "model.safetensors")
    original, vision = {}, {}
    for name, tensor in weights.items():
        tensor = tensor.clone()
        if name.startswith("vision_tower."):
            vision[name.removeprefix("vision_tower.")] = tensor
        elif name.startswith("multi_modal_projector.linear_1"):
            original[name.replace("multi_modal_projector.linear_1", "model.mm_projector.0")] = tensor
        elif name.startswith("multi_modal_projector.linear_2"):
            original[name.replace("multi_modal_projector.linear_2", "model.mm_projector.2")] = tensor
        else:
            name = name.removeprefix("language_model.")
            # The image token is the last row, which the original does not have.
            original[name] = (
                tensor[:-1].contiguous()
                if name.endswith(("embed_tokens.weight", "lm_head.weight", "lm_head.bias"))
                else tensor
            )
    text = hf.config.text_config
    architecture = f"Llava{text.model_type.capitalize().removesuffix('2')}ForCausalLM"
    config = text.to_dict() | {
        "architectures": [architecture],
        "model_type": "llava_gemma",
        "vocab_size": text.vocab_size - 1,
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_tower": "encoder",
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
    }
    where = folder / "encoder" if tower == "inside" else folder.parent / "encoder"
    where.mkdir()
    (where / "config.json").write_text(json.dumps(hf.config.vision_config.to_dict()))
    if tower == "inside":
        original |= {f"model.vision_tower.vision_tower.{k}": v for k, v in vision.items()}
    else:
        save_file(vision, where / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    save_file(original, folder / "model.safetensors", metadata={"format": "pt"})
    shutil.rmtree(saved)


@pytest.mark.parametrize("tower", ["inside", "beside"])
@pytest.mark.parametrize(
    ("encoder", "language"),
    [("clip", "gemma"), ("dinov2", "llama"), ("clip", "mistral"), ("siglip", "qwen2"), ("siglip", "phi")],
)
def test_original_layout_with_its_tower_inside_or_beside(tmp_path, tower, language, encoder):
    hf = tiny_llava(encoder, language)
    if language == "phi":
        # transformers' LLaVA leaves it out, and Phi has one.
        hf.lm_head.bias = torch.nn.Parameter(torch.randn(97))
    to_original(hf, tmp_path / "original", tower=tower)
    loaded = vlm_probe.load(tmp_path / "original", device="cpu")
    assert (loaded.hf.lm_head.bias is None) == (language != "phi")
    assert untyped(vlm_probe.verify(loaded)["ok"]).all()
    loaded.save_pretrained(tmp_path / "again")
    again = vlm_probe.load(tmp_path / "again", device="cpu")
    trimmed = with_rows(again, [*range(3, 50), again.image_token_id])
    expected = HookedVLM(hf)
    assert loaded.image_scale == expected.image_scale
    batch = tiny_batch(hf)
    with torch.no_grad():
        # All but the row of the image token, which the original lacks.
        logits = loaded(**batch).logits
        torch.testing.assert_close(logits[..., :-1], expected(**batch).logits[..., :-1], atol=0, rtol=0)
        assert torch.equal(again(**batch).logits, logits)
    if language == "phi":
        assert torch.equal(trimmed.lm_head.bias, again.hf.lm_head.bias[[*range(3, 50), again.image_token_id]])


def test_an_original_layout_on_the_hub_is_fetched_whole(reference, monkeypatch):
    """The Hub's two calls, answered from a folder: `Intel/llava-gemma-7b` is published in this layout."""
    folder = reference / "clip_gemma_original"
    asked = []

    def config(name, file, revision=None):
        asked.append((name, file, revision))
        return str(folder / file)

    def snapshot(name, revision=None, allow_patterns=None):
        asked.append((name, revision))
        return str(folder)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", config)
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    model = vlm_probe.load("Intel/llava-gemma-7b", device="cpu", revision="abc")
    assert asked == [("Intel/llava-gemma-7b", "config.json", "abc"), ("Intel/llava-gemma-7b", "abc")]
    assert model.name == "Intel/llava-gemma-7b"
    assert model.embed_scale == "all"


def test_original_layout_never_generates_the_image_token(reference):
    model = vlm_probe.load(reference / "clip_gemma_original", device="cpu")
    assert model.hf.generation_config.suppress_tokens == [511]
    config = json.loads((reference / "clip_gemma_original" / "config.json").read_text())
    read = read_original("clip_gemma_original", reference / "clip_gemma_original", None, config)
    assert read.weights is not None
    weights, converted = read.weights(), read.config
    assert (weights["language_model.model.embed_tokens.weight"][-1] == 0).all()
    assert converted.image_token_id == 511


def test_a_checkpoint_declares_its_embedding_scale_and_a_caller_overrides_it(tmp_path):
    model = tiny_llava("clip", "gemma")
    model.save_pretrained(tmp_path)
    assert vlm_probe.load(tmp_path, device="cpu").embed_scale == "all"
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"vlm_probe": {"embed_scale": "text"}}))
    assert vlm_probe.load(tmp_path, device="cpu").embed_scale == "text"
    assert vlm_probe.load(tmp_path, device="cpu", embed_scale="all").image_scale == pytest.approx(42**0.5)
    for language, scale in (("gemma2", "all"), ("gemma3", "text"), ("llama", "text")):
        assert HookedVLM(tiny_llava("clip", language)).embed_scale == scale
    with pytest.raises(vlm_probe.VlmProbeError, match="embed_scale must be 'all' or 'text', got 'both'"):
        vlm_probe.load(tmp_path, device="cpu", embed_scale="both")


def test_the_processor_is_found_and_pads_as_llava_gemma_was_trained(tmp_path):
    from PIL import Image

    tiny_llava("clip", "gemma").save_pretrained(tmp_path)
    CLIPImageProcessor(size={"shortest_edge": 15}, crop_size={"height": 15, "width": 15}).save_pretrained(tmp_path)
    model = vlm_probe.load(tmp_path, device="cpu")
    assert model.preparer is not None
    white = Image.new("RGB", (40, 20), (255, 255, 255))
    pixels, transform = model.preparer(white)
    assert transform.original == (40, 20)
    assert transform.offset == (0.0, pytest.approx(3.75))
    # The border is the processor's mean colour, which normalises to nearly nothing: (122, 116, 104).
    assert pixels[:, 0].abs().max() < 0.02
    assert pixels[:, 7].min() > 1.5


def test_dtype_and_repr(tmp_path):
    tiny_llava("clip", "gemma").save_pretrained(tmp_path)
    model = vlm_probe.load(tmp_path, device="cpu", dtype="bfloat16")
    assert model.dtype == torch.bfloat16
    assert "bfloat16 on cpu" in repr(model)
    assert "embed_scale='all' (image rows x 6.48074)" in repr(model)
