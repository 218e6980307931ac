"""A language model without an encoder: plain Hugging Face, and the points of `language.` alone."""

import pytest
import torch
from tiny import LANGUAGES, tiny_tokenizer
from transformers import AutoModelForCausalLM

from vlm_probe import load
from vlm_probe.errors import VlmProbeError
from vlm_probe.hooked import HookedVLM


def tiny_language(name: str):
    torch.manual_seed(3)
    # The soft cap of Gemma 2 has no SDPA form: only eager attention computes it.
    how = "eager" if name == "gemma2" else "sdpa"
    return AutoModelForCausalLM.from_config(LANGUAGES[name](), attn_implementation=how).eval()


@pytest.fixture(params=list(LANGUAGES))
def pair(request, tmp_path):
    plain = tiny_language(request.param)
    plain.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    return plain, load(tmp_path, dtype="float32")


def test_equals_plain_transformers_hooked_or_not(pair):
    plain, model = pair
    ids = torch.randint(3, 90, (2, 13), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = plain(input_ids=ids).logits
        assert torch.equal(model(ids).logits, expected)
        output, cache = model.run_with_cache(ids)
    torch.testing.assert_close(output.logits, expected, atol=1e-5, rtol=1e-5)
    assert set(cache) == set(model.hook_dict)  # every declared point fires
    assert all(name.startswith("language.") for name in model.hook_dict)
    # The point is the output layer's; Gemma 2's soft cap comes behind it.
    said, cap = cache["language.hook_logits"], getattr(plain.config, "final_logit_softcapping", None)
    said = said if cap is None else cap * torch.tanh(said / cap)
    torch.testing.assert_close(said, expected, atol=1e-5, rtol=1e-5)


def test_asks_and_traces_text(pair):
    _, model = pair
    trace = model.trace(None, "a red star", capture=["language.blocks.*.hook_resid_post"])
    # The beginning and the question; transformers puts Qwen2's own tokenizer over ours.
    assert trace.layout.length == 1 + len(model.tokenizer("a red star", add_special_tokens=False)["input_ids"])
    assert not trace.layout.images
    assert isinstance(model.answer(None, "a red star", max_new_tokens=3), str)
    assert (model.embed_scale, model.vision_layers_read, model.image_token_id) == ("text", 0, -1)
    assert "embed_scale" not in repr(model)


def test_takes_no_image(pair):
    _, model = pair
    with pytest.raises(VlmProbeError, match=r"is a language model without an encoder: ask without an image"):
        model.prepare("scene.png", "a red star")
    with pytest.raises(VlmProbeError, match=r"is a language model without an encoder: it takes no image$"):
        _ = model.image_size


def test_is_wrapped_by_hand_too():
    model = HookedVLM(tiny_language("gemma"))
    assert model.token_scale == pytest.approx(42**0.5, rel=0.01)
    assert model.image_scale == 1


def test_what_was_not_fetched_says_how(tmp_path, monkeypatch):
    monkeypatch.setenv("VLM_PROBE_CACHE", str(tmp_path))
    with pytest.raises(VlmProbeError, match="^gemma3-270m is not here yet; get it with: vlm-probe fetch gemma3-270m$"):
        load("gemma3-270m")
