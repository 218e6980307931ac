"""A HookedVLM computes what plain Hugging Face computes."""

import copy
from typing import Any

import pytest
import torch
from tiny import IMAGE_TOKEN, tiny_batch, tiny_llava

from vlm_probe.hooked import HookedVLM
from vlm_probe.hooked.families import families_of


def plain_twin(model, *, scale: float = 1.0, implementation: str = "sdpa"):
    """The same weights in a model of its own; `scale` multiplies what leaves its connector."""
    twin = copy.deepcopy(model)
    text = "eager" if model.config.text_config.model_type == "gemma2" else implementation
    twin.set_attn_implementation({"": implementation, "vision_config": implementation, "text_config": text})
    if scale != 1.0:
        twin.model.multi_modal_projector.register_forward_hook(
            lambda module, args, output: output * torch.tensor(scale, dtype=output.dtype)
        )
    return twin


@torch.no_grad()
@pytest.mark.parametrize("pad", [False, True])
def test_idle_model_equals_plain_transformers_bit_for_bit(any_llava, pad):
    twin = plain_twin(any_llava)
    batch = tiny_batch(any_llava, pad=pad)
    expected = twin(**batch).logits
    hooked = HookedVLM(any_llava, embed_scale="text")
    live = batch["attention_mask"].bool()
    assert torch.equal(hooked(**batch).logits[live], expected[live])


@torch.no_grad()
def test_scaled_model_equals_plain_transformers_with_that_scale_bit_for_bit(any_llava):
    twin = plain_twin(any_llava, scale=42**0.5)
    expected = twin(**tiny_batch(any_llava)).logits
    has_scale = families_of(any_llava.config)[1].scales_tokens
    hooked = HookedVLM(any_llava, embed_scale="all")
    assert hooked.image_scale == (42**0.5 if has_scale else 1.0)
    if has_scale:
        assert torch.equal(hooked(**tiny_batch(any_llava)).logits, expected)


@torch.no_grad()
def test_captured_activations_equal_eager_transformers(any_llava):
    twin = plain_twin(any_llava, implementation="eager")
    batch = tiny_batch(any_llava, pad=True)
    expected = twin(**batch, output_hidden_states=True, output_attentions=True)
    tower = getattr(twin.model.vision_tower, "towers", [twin.model.vision_tower])[0]
    seen = tower(batch["pixel_values"], output_hidden_states=True, output_attentions=True)
    hooked = HookedVLM(any_llava, embed_scale="text")
    output, cache = hooked.run_with_cache(**batch)
    live = batch["attention_mask"].bool()
    torch.testing.assert_close(output.logits[live], expected.logits[live], atol=1e-5, rtol=1e-5)
    for layer in range(3):
        pattern = cache[f"language.blocks.{layer}.attn.hook_pattern"].transpose(1, 2)[live]
        torch.testing.assert_close(pattern, expected.attentions[layer].transpose(1, 2)[live], atol=1e-5, rtol=1e-5)
        state = cache[f"language.blocks.{layer}.hook_resid_pre"]
        torch.testing.assert_close(state[live], expected.hidden_states[layer][live], atol=1e-5, rtol=1e-5)
    for layer in range(5):
        pattern = cache[f"vision.blocks.{layer}.attn.hook_pattern"]
        torch.testing.assert_close(pattern, seen.attentions[layer], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(cache[f"vision.blocks.{layer}.hook_resid_pre"], seen.hidden_states[layer])
    final = cache["vision.blocks.4.hook_resid_post"]
    torch.testing.assert_close(final, seen.hidden_states[5], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_residual_stream_adds_up(any_llava):
    hooked = HookedVLM(any_llava)
    _, cache = hooked.run_with_cache(**tiny_batch(any_llava))
    for part, layers in (("vision", 5), ("language", 3)):
        for layer in range(layers):
            at = f"{part}.blocks.{layer}.hook_"
            middle = cache[at + "resid_pre"] + cache[at + "attn_out"]
            if at + "resid_mid" in hooked.hook_dict:
                torch.testing.assert_close(middle, cache[at + "resid_mid"])
            torch.testing.assert_close(middle + cache[at + "mlp_out"], cache[at + "resid_post"])


@torch.no_grad()
def test_pattern_times_values_is_z(any_llava):
    hooked = HookedVLM(any_llava)
    _, cache = hooked.run_with_cache(**tiny_batch(any_llava))
    for part in ("vision", "language"):
        at = f"{part}.blocks.1.attn.hook_"
        pattern, value, z = cache[at + "pattern"], cache[at + "v"], cache[at + "z"]
        value = value.repeat_interleave(pattern.shape[1] // value.shape[2], dim=2)
        torch.testing.assert_close(torch.einsum("bhqk,bkhd->bqhd", pattern, value), z)
        torch.testing.assert_close(torch.softmax(cache[at + "attn_scores"], -1), pattern)


@torch.no_grad()
def test_masked_attention_is_zero_and_rows_sum_to_one(any_llava):
    hooked = HookedVLM(any_llava)
    batch = tiny_batch(any_llava, pad=True)
    _, cache = hooked.run_with_cache(**batch, names_filter="*.hook_pattern")
    live = batch["attention_mask"].bool()
    for layer in range(3):
        pattern = cache[f"language.blocks.{layer}.attn.hook_pattern"]
        length = pattern.shape[-1]
        future = torch.ones(length, length).triu(1).bool()
        together = {"paligemma": torch.ones_like(live), "gemma3": batch["input_ids"] == IMAGE_TOKEN}
        both = together.get(any_llava.config.model_type, torch.zeros_like(live))
        ahead = future & ~(both[:, :, None] & both[:, None, :])
        assert (pattern.transpose(0, 1)[:, ahead] == 0).all()
        if both.any() and layer == 1:  # a layer that looks over the whole prompt
            assert (pattern.transpose(0, 1)[:, future & ~ahead & live[:, :, None]] > 0).any()
        assert (pattern.masked_select(~live[:, None, None, :]) == 0).all()
        rows = pattern.sum(-1).transpose(1, 2)
        torch.testing.assert_close(rows[live], torch.ones_like(rows[live]))
        if not both.any():
            assert (rows[~live] == 0).all()
    for layer in range(5):
        rows = cache[f"vision.blocks.{layer}.attn.hook_pattern"].sum(-1)
        torch.testing.assert_close(rows, torch.ones_like(rows))


@torch.no_grad()
@pytest.mark.parametrize("language", ["gemma", "gemma2", "gemma3", "llama", "qwen2"])
def test_generation_with_cache_and_hooks_equals_plain(language):
    model = tiny_llava("clip", language)
    twin: Any = plain_twin(model)
    batch = tiny_batch(model, batch=1)
    options = {"max_new_tokens": 9, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    expected = twin.generate(**batch, **options)
    hooked = HookedVLM(model, embed_scale="text")
    assert torch.equal(hooked.generate(**batch, **options), expected)
    lengths = []
    with hooked.hooks(
        fwd_hooks=[("language.blocks.*.attn.hook_pattern", lambda p, hook: lengths.append(p.shape[-2:]))]
    ):
        assert torch.equal(hooked.generate(**batch, **options), expected)
    prompt = batch["input_ids"].shape[1]
    assert lengths[0] == (prompt, prompt)
    assert lengths[-1][0] == 1, "one query a step once the prompt is cached"


def test_gradients_equal_plain_transformers(any_llava):
    twin = plain_twin(any_llava, implementation="eager")
    batch = tiny_batch(any_llava, pad=True)
    # A padded position predicts nothing: the first real token has no label either.
    before = torch.nn.functional.pad(batch["attention_mask"], (1, 0))[:, :-1]
    labels = batch["input_ids"].clone().masked_fill(before == 0, -100)
    twin(**batch, labels=labels).loss.backward()
    hooked = HookedVLM(any_llava, embed_scale="text")
    with hooked.hooks(fwd_hooks=[("*.hook_pattern", lambda pattern, hook: pattern)]):
        loss = hooked(**batch, labels=labels, return_type="loss")
    loss.backward()
    expected = dict(twin.named_parameters())
    for name, parameter in hooked.hf.named_parameters():
        # The layers behind the selected one are run, being hooked, but nothing reads them.
        if expected[name].grad is not None:
            torch.testing.assert_close(parameter.grad, expected[name].grad, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_vision_layers_behind_the_selected_one_are_spared_unless_hooked():
    model = tiny_llava("clip", "gemma")
    hooked = HookedVLM(model)
    batch = tiny_batch(model)
    sizes = []
    last = model.model.vision_tower.encoder.layers[4].mlp
    handle = last.register_forward_hook(lambda module, args, output: sizes.append(output.shape[:2]))
    idle = hooked(**batch).logits
    _, cache = hooked.run_with_cache(**batch, names_filter="vision.blocks.4.hook_resid_post")
    with_plain = model(**batch)
    handle.remove()
    assert sizes == [(1, 1), (2, 26), (2, 26)]
    assert cache["vision.blocks.4.hook_resid_post"].shape == (2, 26, 39)
    assert torch.equal(with_plain.logits, idle)
