"""Folders of adapters open as the model that peft makes of them, or say in one line why not."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import tiny_batch, tiny_llava, tiny_tokenizer

import vlm_probe
from vlm_probe import VlmProbeError

peft = pytest.importorskip("peft")


@pytest.fixture
def base(tmp_path):
    tiny_llava("clip", "llama").save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def adapted(base, folder, named=None):
    """Adapters with weights that matter, saved as peft does; returns the model they make."""
    hf = vlm_probe.load(base, device="cpu").hf
    torch.manual_seed(3)
    settings = peft.LoraConfig(r=3, lora_alpha=7, target_modules=["q_proj", "linear_1"], init_lora_weights=False)
    model = peft.get_peft_model(hf, settings)
    model.peft_config["default"].base_model_name_or_path = str(base) if named is None else named
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("named", [None, "../base", ".."])
def test_adapters_open_merged_into_the_model_they_name(base, tmp_path, named):
    folder = base / "adapters" if named == ".." else tmp_path / "adapters"
    theirs = adapted(base, folder, named)
    batch = tiny_batch(theirs)
    with torch.no_grad():
        expected = theirs(**batch).logits
        model = vlm_probe.load(folder, device="cpu")
        ours = model(**batch).logits
        before = vlm_probe.load(base, device="cpu")(**batch).logits
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
    assert (ours - before).abs().max() > 0.01
    assert model.name == str(folder)


def test_adapters_that_cannot_be_merged(base, tmp_path):
    folder = tmp_path / "adapters"
    adapted(base, folder)
    file = folder / "adapter_model.safetensors"
    weights = load_file(file)
    first = min(weights)

    def refused() -> str:
        with pytest.raises(VlmProbeError) as caught:
            vlm_probe.load(folder, device="cpu")
        return str(caught.value)

    save_file({name: weight for name, weight in weights.items() if name != first}, file)
    assert refused() == f"the adapters of {folder} do not fit its model: 1 weights, {first} among them"
    save_file({**weights, "base_model.model.elsewhere.lora_A.weight": torch.ones(3, 42)}, file)
    assert refused().startswith(f"the adapters of {folder} do not fit its model: 1 weights, base_model.model.elsewhere")
    file.write_bytes(b"cut off")
    assert refused().startswith(f"the adapters of {folder} could not be loaded: ")
    save_file({"weight": torch.ones(1)}, folder / "model.safetensors")
    (folder / "config.json").write_text((base / "config.json").read_text())
    assert refused() == (
        f"{folder} holds adapters (adapter_config.json) and a model's weights (model.safetensors): put one of them "
        "elsewhere"
    )
    (folder / "model.safetensors").unlink()
    (folder / "config.json").write_text(json.dumps({"mm_vision_tower": "somewhere"}))
    assert refused() == (
        f"{folder} holds adapters beside an original LLaVA config.json: merge them into their model first (LLaVA's "
        "scripts/merge_lora_weights.py)"
    )
    (folder / "config.json").unlink()
    for content, message in (
        ("{", "cannot be read: "),
        ('{"base_model_name_or_path": null}', "does not name the model it adapts (base_model_name_or_path)"),
    ):
        (folder / "adapter_config.json").write_text(content)
        assert refused().startswith(f"{folder / 'adapter_config.json'} {message}")


def test_a_tokenizer_beside_adapters_is_theirs(base, tmp_path):
    folder = tmp_path / "adapters"
    adapted(base, folder)
    tiny_tokenizer().save_pretrained(base)
    other = tiny_tokenizer()
    other.chat_template = "{% for m in messages %}[{{ m['content'] }}]{% endfor %}"
    other.save_pretrained(folder)
    assert vlm_probe.load(folder, device="cpu").prompt == "[{images}\n{question}]"
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(VlmProbeError, match=f"{folder} has a tokenizer.json or its like that cannot be read: "):
        vlm_probe.load(folder, device="cpu")


def test_adapters_that_adapt_nothing_that_is_named(base, tmp_path):
    folder = tmp_path / "adapters"
    adapted(base, folder, str(folder))
    with pytest.raises(VlmProbeError, match="does not name the model it adapts"):
        vlm_probe.load(folder, device="cpu")
    (folder / "adapter_model.safetensors").rename(base / "adapter_model.safetensors")
    with pytest.raises(VlmProbeError) as caught:
        vlm_probe.load(base, device="cpu")
    assert str(caught.value) == (
        f"{base} holds adapter_model.safetensors without adapter_config.json: what it adapts cannot be told"
    )
