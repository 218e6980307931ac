"""Relevancy against an independent dense implementation, on plain transformers."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from tiny import tiny_batch, tiny_llava

from vlm_probe import VlmProbeError
from vlm_probe.attention import relevancy, token_relevancy
from vlm_probe.causal import Knockout, applied
from vlm_probe.hooked import HookedVLM, attention


def dense_relevancy(hf, batch, target: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """R of the language model and of the encoder's read layers, as whole matrices (Chefer et al. 2021)."""
    hf.set_attn_implementation("eager")
    kept = {}

    def keep(name):
        def hook(module, args, output):
            output[1].retain_grad()
            kept[name] = output[1]

        return hook

    for i, layer in enumerate(hf.model.language_model.layers):
        layer.self_attn.register_forward_hook(keep(("language", i)))
    encoder = getattr(hf.model.vision_tower, "towers", [hf.model.vision_tower])[0].encoder
    for i, layer in enumerate(encoder.layers if hasattr(encoder, "layers") else encoder.layer):
        module = layer.self_attn if hasattr(layer, "self_attn") else layer.attention
        module.register_forward_hook(keep(("vision", i)))
    logits = hf(**batch).logits[0, -1]
    logits[int(logits.argmax()) if target is None else target].backward()
    result = []
    read = 4 if hf.config.model_type in ("llava", "prismatic") else 5
    for part, layers in (("language", 3), ("vision", read)):
        n = kept[part, 0].shape[-1]
        r = torch.eye(n)
        for i in range(layers):
            a = kept[part, i]
            r = r + (a.grad * a).clamp(min=0).mean(1)[0].detach() @ r
        result.append(r)
    return result[0], result[1]


@pytest.mark.parametrize("target", [None, 17])
def test_equals_the_dense_product(any_llava, target):
    batch = tiny_batch(any_llava, batch=1)
    language, vision = dense_relevancy(copy.deepcopy(any_llava), batch, target)
    model = HookedVLM(any_llava, embed_scale="text")
    inputs = model.prepare_tensors(batch["input_ids"], batch["pixel_values"])
    span = inputs.layout.image()
    row = language[-1]
    np.testing.assert_allclose(token_relevancy(model, inputs, target=target), row, atol=1e-5)
    np.testing.assert_allclose(relevancy(model, inputs, target=target), row[span.positions].reshape(5, 5), atol=1e-5)
    received = torch.zeros(vision.shape[0])
    kept = [*span.extra_positions, *span.positions]
    k = span.pooled
    if k == 1:
        received[-len(kept) :] = row[kept]
    else:  # the mean that pools owes each of its patches a share
        each = row[span.positions].reshape(5, 5).repeat_interleave(k, 0).repeat_interleave(k, 1)
        received[:] = each.ravel() / k**2
    expected = (received @ vision)[-25 * k**2 :].reshape(5, k, 5, k).sum((1, 3))
    np.testing.assert_allclose(relevancy(model, inputs, target=target, through_encoder=True), expected, atol=1e-5)


@pytest.mark.parametrize("through_encoder", [False, True])
def test_a_few_queries_at_a_time_give_what_all_at_once_do(any_llava, monkeypatch, through_encoder):
    """Under causal masks and others; what is left out is nothing that any of the queries sees."""
    batch = tiny_batch(any_llava, batch=1)
    model = HookedVLM(any_llava)
    inputs = model.prepare_tensors(batch["input_ids"], batch["pixel_values"])
    whole = relevancy(model, inputs, target=5, through_encoder=through_encoder)
    made, looked_at = attention._head_pattern, set()

    def counted(head, query, key, *rest):
        looked_at.add((query.shape[2], key.shape[2]))
        return made(head, query, key, *rest)

    monkeypatch.setattr(attention, "QUERIES", {"cpu": 3})
    monkeypatch.setattr(attention, "_head_pattern", counted)
    np.testing.assert_allclose(relevancy(model, inputs, target=5, through_encoder=through_encoder), whole, atol=1e-7)
    text = any_llava.config.get_text_config()
    capped = getattr(text, "attn_logit_softcapping", None) is not None  # explicit: all queries' patterns are there
    assert {queries for queries, _ in looked_at} >= ({3} if through_encoder or not capped else set())
    if not capped and any_llava.config.model_type == "llava":
        assert len({keys for _, keys in looked_at}) > 2


def test_recomputed_activations_give_the_same(any_llava):
    batch = tiny_batch(any_llava, batch=1)
    model = HookedVLM(any_llava)
    inputs = model.prepare_tensors(batch["input_ids"], batch["pixel_values"])
    for through in (False, True):
        kept = relevancy(model, inputs, through_encoder=through)
        assert np.array_equal(kept, relevancy(model, inputs, through_encoder=through, recompute=True))
    assert np.array_equal(token_relevancy(model, inputs), token_relevancy(model, inputs, recompute=True))


def saved_shapes(run) -> list[tuple[int, ...]]:
    """Of what autograd kept for the backward pass, but for what checkpointing makes again."""
    kept = []

    def pack(x):
        kept.append(tuple(x.shape))
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        run()
    return kept


def test_no_pattern_is_kept_and_recomputing_keeps_nothing_of_a_layer():
    model = HookedVLM(tiny_llava())
    batch = tiny_batch(model.hf, batch=1)
    inputs = model.prepare_tensors(batch["input_ids"], batch["pixel_values"])
    length, width = inputs.layout.length, model.hf.config.text_config.intermediate_size
    plain = saved_shapes(partial(token_relevancy, model, inputs))
    assert (1, length, width) in plain
    assert not [shape for shape in plain if shape[-2:] == (length, length)]
    again = saved_shapes(partial(token_relevancy, model, inputs, recompute=True))
    assert (1, length, width) not in again
    assert len(again) < len(plain) / 3


def through_patterns(model, inputs, target: int) -> torch.Tensor:
    """The row of the dense product, from patterns that are hooked and so in the graph themselves."""
    kept = []

    def keep(pattern, hook):
        pattern.retain_grad()
        kept.append(pattern)

    with model.hooks(fwd_hooks=[("language.blocks.*.attn.hook_pattern", keep)]):
        model(inputs).logits[0, -1, target].backward()
    model.zero_grad()
    r = torch.eye(inputs.layout.length)
    for pattern in kept:
        r = r + (pattern.grad * pattern).clamp(min=0).mean(1)[0].detach() @ r
    return r[-1]


def test_patterns_are_those_that_were_used(any_llava):
    """With edges cut SDPA has another mask; where a pattern is edited attention is explicit."""
    batch = tiny_batch(any_llava, batch=1)
    model = HookedVLM(any_llava)
    inputs = model.prepare_tensors(batch["input_ids"], batch["pixel_values"])
    plain = token_relevancy(model, inputs, target=5)
    with applied(model, inputs, [Knockout("question", "image", layer) for layer in range(2)]):
        cut = token_relevancy(model, inputs, target=5)
        np.testing.assert_allclose(cut, through_patterns(model, inputs, 5), atol=1e-6)
    with model.hooks(fwd_hooks=[("language.blocks.1.attn.hook_pattern", lambda pattern, hook: pattern**2)]):
        edited = token_relevancy(model, inputs, target=5)
        np.testing.assert_allclose(edited, through_patterns(model, inputs, 5), atol=1e-6)
    assert not np.allclose(plain, cut, atol=1e-4)
    assert not np.allclose(plain, edited, atol=1e-4)


def test_an_edit_in_place_at_z_is_one_that_is_returned(any_llava):
    batch = tiny_batch(any_llava, batch=1)
    model = HookedVLM(any_llava)
    inputs = model.prepare_tensors(batch["input_ids"], batch["pixel_values"])

    def in_place(z, hook):
        z[:, 3] *= 0.5

    def returned(z, hook):
        return torch.cat([z[:, :3], z[:, 3:4] * 0.5, z[:, 4:]], dim=1)

    found = []
    for edit in (in_place, returned):
        with model.hooks(fwd_hooks=[("language.blocks.1.attn.hook_z", edit)]):
            found.append(token_relevancy(model, inputs, target=5))
    np.testing.assert_allclose(*found, atol=1e-7)


def test_what_was_dropped_has_no_part(any_llava):
    """In training, with dropout, the pattern is the one that was used: as of hooked patterns, under the same seed."""
    batch = tiny_batch(any_llava, batch=1)
    any_llava.config.get_text_config().attention_dropout = 0.3
    for layer in any_llava.model.language_model.layers:
        layer.self_attn.attention_dropout = 0.3
    model = HookedVLM(any_llava)
    inputs = model.prepare_tensors(batch["input_ids"], batch["pixel_values"])
    for layer in any_llava.model.language_model.layers:
        layer.self_attn.train()
    torch.manual_seed(3)
    dropped = token_relevancy(model, inputs, target=5)
    torch.manual_seed(3)
    np.testing.assert_allclose(dropped, through_patterns(model, inputs, 5), atol=1e-6)


def test_what_is_watched_twice_is_reported_to_the_first_again():
    module = HookedVLM(tiny_llava()).hf.model.language_model.layers[0].self_attn
    with attention.watch_gradients(module, first := lambda heads: None):
        with attention.watch_gradients(module, lambda heads: None):
            assert attention._watched[module] is not first
        assert attention._watched[module] is first
    assert module not in attention._watched


def test_recomputing_leaves_no_proof_of_the_next_run():
    model = HookedVLM(tiny_llava())
    batch = tiny_batch(model.hf, batch=1)
    inputs = model.prepare_tensors(batch["input_ids"], batch["pixel_values"])
    token_relevancy(model, inputs, recompute=True)
    model.hf.set_attn_implementation("sdpa")
    with (
        applied(model, inputs, [Knockout("answer", "image", 1)]),
        pytest.raises(VlmProbeError, match="attention is computed by 'sdpa' now"),
    ):
        model.hf(**inputs.tensors)


def test_nothing_stays_behind_an_error():
    model = HookedVLM(tiny_llava())
    batch = tiny_batch(model.hf, batch=1)
    inputs = model.prepare_tensors(batch["input_ids"], batch["pixel_values"])
    with pytest.raises(VlmProbeError, match="outside the vocabulary"):
        relevancy(model, inputs, target=97, through_encoder=True, recompute=True)
    assert not attention._watched
    assert not any("forward" in module.__dict__ for module in model.hf.modules())


def test_does_not_depend_on_what_was_asked_before():
    model = HookedVLM(tiny_llava())
    batch = tiny_batch(model.hf, batch=1)
    inputs = model.prepare_tensors(batch["input_ids"], batch["pixel_values"])
    forwards = [relevancy(model, inputs, target=t).values for t in (5, 17, 60)]
    backwards = [relevancy(model, inputs, target=t).values for t in (60, 17, 5)][::-1]
    for a, b in zip(forwards, backwards, strict=True):
        assert np.array_equal(a, b)
    assert not np.allclose(forwards[0], forwards[1])


def test_leaves_no_gradient_no_hook_and_parameters_as_they_were():
    model = HookedVLM(tiny_llava())
    frozen = next(model.hf.parameters())
    frozen.requires_grad_(False)
    batch = tiny_batch(model.hf, batch=1)
    inputs = model.prepare_tensors(batch["input_ids"], batch["pixel_values"])
    relevancy(model, inputs, through_encoder=True)
    with pytest.raises(VlmProbeError, match="target token 97 is outside the vocabulary of 97"):
        relevancy(model, inputs, target=97)
    assert all(p.grad is None for p in model.hf.parameters())
    assert not frozen.requires_grad
    assert sum(not p.requires_grad for p in model.hf.parameters()) == 1
    assert not any(p._forward_hooks or p._backward_hooks for p in model.hook_points())


def test_later_answer_tokens_are_asked_at_their_own_position():
    hf = tiny_llava()
    batch = tiny_batch(hf, batch=1)
    longer_batch = {**batch, "input_ids": torch.cat([batch["input_ids"], torch.tensor([[9, 8]])], dim=1)}
    longer_batch.pop("attention_mask")
    language, _ = dense_relevancy(copy.deepcopy(hf), longer_batch, 3)
    model = HookedVLM(hf, embed_scale="text")
    longer = model.prepare_tensors(batch["input_ids"], batch["pixel_values"]).with_answer([9, 8])
    assert longer.layout.answer_position == batch["input_ids"].shape[1] + 1
    np.testing.assert_allclose(token_relevancy(model, longer, target=3), language[-1], atol=1e-5)


def test_a_target_that_is_no_token_is_refused(replica):
    from vlm_probe.scenes import sample_scene, scene_image

    inputs = replica.prepare(scene_image(sample_scene(1), 64), "How many objects are there?")
    assert relevancy(replica, inputs, target="red").attrs["title"] == "Relevancy for 'red'"
    for wrong in ("", "xyzzy"):
        with pytest.raises(VlmProbeError, match="does not begin with a token of this model's vocabulary"):
            relevancy(replica, inputs, target=wrong)


def test_each_image_of_a_prompt_has_its_own_map(any_llava):
    model = HookedVLM(any_llava)
    batch = tiny_batch(any_llava, batch=2)
    ids = batch["input_ids"].flatten()[None]
    inputs = model.prepare_tensors(ids, batch["pixel_values"])
    maps = [relevancy(model, inputs, image=i, through_encoder=t).values for i in (0, 1) for t in (False, True)]
    assert all(m.shape == (5, 5) for m in maps)
    assert not np.allclose(maps[0], maps[2])
    whole = token_relevancy(model, inputs).values
    assert np.array_equal(maps[2].ravel(), whole[inputs.layout.image(1).positions])
    with pytest.raises(VlmProbeError, match="image 2 was asked for, the prompt has 2"):
        relevancy(model, inputs, image=2)


def test_a_batch_is_refused():
    model = HookedVLM(tiny_llava())
    batch = tiny_batch(model.hf)
    with pytest.raises(VlmProbeError, match="this batch has 2 layouts"):
        relevancy(model, model.prepare_tensors(batch["input_ids"], batch["pixel_values"]))
