"""Maps, summaries, sinks and rollout: worked by hand, and against dense computation."""

import dataclasses

import numpy as np
import pytest
import torch
from tiny import tiny_batch, tiny_llava

from vlm_probe import VlmProbeError
from vlm_probe.attention import (
    encoder_attention,
    encoder_distance,
    head_summary,
    image_attention,
    points_at_box,
    rollout,
    share_in_box,
    sinks,
    union_coverage,
)
from vlm_probe.hooked import HookedVLM
from vlm_probe.layout import ImageSpan, TokenLayout
from vlm_probe.trace import Trace

LENGTH = 11
SPAN = ImageSpan(np.arange(1, 7), (2, 3), np.zeros(0, dtype=np.int64))
LAYOUT = TokenLayout(
    length=LENGTH,
    images=(SPAN,),
    text_positions=np.array([0, 7, 8, 9, 10]),
    question_positions=np.array([8, 9]),
    answer_position=10,
    tokens=tuple("BiiiiiisQqA"),
)


def handmade(patterns: torch.Tensor) -> Trace:
    """A trace whose language attention is given, [layer, head, query, key]."""
    names = [f"language.blocks.{i}.attn.hook_pattern" for i in range(len(patterns))]
    return Trace(
        {n: p[None] for n, p in zip(names, patterns, strict=True)},
        LAYOUT,
        torch.zeros(LENGTH, 3),
        {"model": "handmade"},
        depth={"language": len(patterns), "vision": 0},
    )


def even_causal(layers: int = 1, heads: int = 2) -> torch.Tensor:
    mask = torch.ones(LENGTH, LENGTH).tril()
    return (mask / mask.sum(-1, keepdim=True)).expand(layers, heads, LENGTH, LENGTH).clone()


def test_image_attention_picks_the_query_row_and_the_patches():
    patterns = even_causal()
    patterns[0, 1, 10] = torch.arange(11.0) / 55
    maps = image_attention(handmade(patterns))
    assert maps.dims == ("layer", "head", "row", "col")
    np.testing.assert_allclose(maps[0, 0], np.full((2, 3), 1 / 11), rtol=1e-6)
    np.testing.assert_allclose(maps[0, 1], np.arange(1, 7).reshape(2, 3) / 55, rtol=1e-6)
    question = image_attention(handmade(patterns), "question")
    np.testing.assert_allclose(question[0, 0], np.full((2, 3), (1 / 9 + 1 / 10) / 2), rtol=1e-6)
    at_8 = image_attention(handmade(patterns), 8)
    np.testing.assert_allclose(at_8[0, 0], np.full((2, 3), 1 / 9), rtol=1e-6)
    for wrong in ("anser", 11, []):
        with pytest.raises(VlmProbeError, match="query"):
            image_attention(handmade(patterns), wrong)


def test_head_summary_by_hand():
    patterns = even_causal()
    patterns[0, 1, 10] = 0
    patterns[0, 1, 10, 1] = 0.75
    patterns[0, 1, 10, 10] = 0.25
    summary = head_summary(handmade(patterns))
    np.testing.assert_allclose(summary.image_mass[0], [6 / 11, 0.75], rtol=1e-6)
    entropies = [np.log(11), -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))]
    np.testing.assert_allclose(summary.entropy[0], entropies, rtol=1e-5)
    np.testing.assert_allclose(summary.mean_distance[0], [5.0, 0.75 * 9], rtol=1e-6)
    assert (summary.sink_mass == 0).all()


def test_a_planted_sink_is_named_and_set_apart():
    patterns = even_causal(layers=3)
    for query in range(2, LENGTH):
        patterns[1, :, query, : query + 1] = 0.1 / query
        patterns[1, :, query, 2] = 0.9
    found = sinks(handmade(patterns), factor=4)
    assert found[["layer", "position", "token", "kind"]].to_numpy().tolist() == [[1, 2, "i", "image"]]
    np.testing.assert_allclose(found["received"], (0.9 * 8) / 8, rtol=1e-6)
    summary = head_summary(handmade(patterns), sink_factor=4)
    np.testing.assert_allclose(summary.sink_mass[:, 0], [0, 0.9, 0], atol=1e-6)
    np.testing.assert_allclose(summary.image_mass_without_sinks[1, 0], 0.05, rtol=1e-5)
    assert sinks(handmade(even_causal())).empty


def test_even_attention_in_a_sliding_window_has_no_sinks():
    window = even_causal()
    for query in range(LENGTH):
        window[:, :, query] = 0
        window[:, :, query, max(0, query - 2) : query + 1] = 1 / min(query + 1, 3)
    assert sinks(handmade(window), factor=1.01).empty


def test_summaries_of_several_queries_are_means_over_them():
    itself = torch.eye(LENGTH).expand(1, 2, LENGTH, LENGTH).clone()
    summary = head_summary(handmade(itself), [3, 9])
    assert (summary.mean_distance == 0).all()
    assert (summary.entropy == 0).all()
    np.testing.assert_allclose(summary.image_mass, 0.5)


def test_a_kept_register_that_is_a_sink_is_called_one():
    span = ImageSpan(np.arange(2, 7), (1, 5), np.array([1]))
    patterns = even_causal()
    for query in range(2, LENGTH):
        patterns[0, :, query, : query + 1] = 0.1 / query
        patterns[0, :, query, 1] = 0.9
    trace = handmade(patterns)
    trace.layout = dataclasses.replace(LAYOUT, images=(span,))
    assert sinks(trace, factor=3)[["position", "kind"]].to_numpy().tolist() == [[1, "register"]]


def test_rollout_equals_the_dense_product(any_llava):
    model = HookedVLM(any_llava)
    batch = tiny_batch(any_llava, batch=1)
    trace = model.trace(model.prepare_tensors(batch["input_ids"], batch["pixel_values"]))
    for part, read in (("language", 3), ("vision", model.vision_layers_read)):
        stacked = trace.stack(part, "attn.hook_pattern")[:read, 0].mean(1)
        dense = torch.eye(stacked.shape[-1])
        for layer in stacked:
            dense = (0.5 * layer + 0.5 * torch.eye(len(layer))) @ dense
        torch.testing.assert_close(dense.sum(-1), torch.ones(len(dense)))
        if part == "language":
            expected = dense[-1, trace.layout.image_positions]
            np.testing.assert_allclose(rollout(trace).values.ravel(), expected, atol=1e-6)
        else:
            n = len(dense) // 25 * 25
            if len(dense) > n:
                np.testing.assert_allclose(rollout(trace, part, "cls").values.ravel(), dense[0, -n:], atol=1e-6)
            np.testing.assert_allclose(rollout(trace, part).values.ravel(), dense[-n:, -n:].mean(0), atol=1e-6)


def test_encoder_maps_leave_cls_and_registers_out():
    model = HookedVLM(tiny_llava("registers"))
    batch = tiny_batch(model.hf, batch=1)
    trace = model.trace(model.prepare_tensors(batch["input_ids"], batch["pixel_values"]))
    pattern = trace["vision.blocks.2.attn.hook_pattern"][0]
    np.testing.assert_allclose(encoder_attention(trace)[2].values.reshape(3, 25), pattern[:, 0, 3:])
    mean = encoder_attention(trace, "mean")[2].values.reshape(3, 25)
    np.testing.assert_allclose(mean, pattern[:, 3:, 3:].mean(1), rtol=1e-5)
    assert trace.layout.image().extra_positions.tolist() == [3, 4]
    assert encoder_distance(trace).shape == (5, 3)


def test_encoder_distance_of_known_patterns():
    model = HookedVLM(tiny_llava("clip"))
    batch = tiny_batch(model.hf, batch=1)
    trace = model.trace(model.prepare_tensors(batch["input_ids"], batch["pixel_values"]))
    name = "vision.blocks.0.attn.hook_pattern"
    itself = torch.eye(26).expand(1, 3, 26, 26)
    right = torch.zeros(1, 3, 26, 26)
    for patch in range(25):
        right[..., patch + 1, 1 + (patch + 1 if patch % 5 < 4 else patch - 1)] = 1
    right[..., 0, 0] = 1
    trace.activations[name] = itself
    assert (encoder_distance(trace)[0] == 0).all()
    trace.activations[name] = right
    np.testing.assert_allclose(encoder_distance(trace)[0], 1.0)


def test_share_in_box_and_pointing_game_by_hand():
    import xarray as xr

    coverage = np.array([[0.0, 0.5, 1.0], [0.0, 0.0, 0.0]])
    map_ = xr.DataArray(np.array([[1.0, 2.0, 3.0], [4.0, 0.0, 0.0]]), dims=("row", "col"))
    assert float(share_in_box(map_, coverage)) == pytest.approx((1.0 + 3.0) / 10)
    assert points_at_box(map_, coverage) == 0.0
    assert points_at_box(map_ * [1, 3, 1], coverage) == 1.0
    even = xr.DataArray(np.ones((2, 3)), dims=("row", "col"))
    assert float(share_in_box(even, coverage)) == pytest.approx(coverage.mean())
    assert np.isnan(float(share_in_box(even * 0, coverage)))
    assert np.isnan(points_at_box(even * 0, coverage)), "a map without mass points nowhere"
    np.testing.assert_array_equal(union_coverage([coverage, coverage]), np.clip(2 * coverage, 0, 1))
    with pytest.raises(VlmProbeError, match="the map has 2 x 3 patches"):
        share_in_box(map_, np.ones((3, 2)))


def test_a_trace_without_attention_says_what_to_capture():
    model = HookedVLM(tiny_llava())
    batch = tiny_batch(model.hf, batch=1)
    trace = model.trace(model.prepare_tensors(batch["input_ids"], batch["pixel_values"]), capture=["connector.*"])
    with pytest.raises(VlmProbeError, match=r"capture language\.blocks\.\*\.attn\.hook_pattern"):
        image_attention(trace)
