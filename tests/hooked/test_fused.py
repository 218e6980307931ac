"""Encoders side by side: a Prismatic model of DINOv2 and SigLIP, by their hook points."""

import numpy as np
import pytest
import torch
from tiny import GRID, PATCHES, tiny_vlm, untyped

from vlm_probe import VlmProbeError
from vlm_probe.attention import encoder_attention, encoder_distance, relevancy, rollout
from vlm_probe.causal import Knockout, run
from vlm_probe.embedding import features
from vlm_probe.findings.engine import generated_items
from vlm_probe.hooked import HookedVLM
from vlm_probe.hooked.anatomy import patches_of
from vlm_probe.hooked.verifying import verify
from vlm_probe.names import dimensions, layer_of, part_of
from vlm_probe.store import plan
from vlm_probe.trace import Trace

PICTURE = np.random.default_rng(4).integers(0, 255, (19, 15, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def fused() -> HookedVLM:
    """Five layers of 39 and two register tokens beside four layers of 33."""
    return tiny_vlm("prismatic_fused", "llama")


def test_each_is_a_part_and_globs_name_both(fused):
    assert fused.layers == {"vision.0": 5, "vision.1": 4, "language": 3}
    assert [fused.layers_read(part) for part in fused.layers] == [4, 3, 3]
    both = fused.match("vision.*.hook_resid_post")
    assert both == [f"vision.{i}.blocks.{j}.hook_resid_post" for i, n in ((0, 5), (1, 4)) for j in range(n)]
    assert fused.match("vision.1.hook_embed") == ["vision.1.hook_embed"]
    with pytest.raises(VlmProbeError, match="no hook point 'vision.hook_embed'"):
        fused.match("vision.hook_embed")
    assert (part_of(both[0]), layer_of(both[-1]), dimensions(both[0])[-1]) == ("vision.0", 3, "d_vision")
    with pytest.raises(VlmProbeError, match=r"part must be 'language' or 'vision\.1' or 'vision\.0', got 'vision'"):
        run(fused, fused.prepare(PICTURE, "what?"), [Knockout("all", "all", part="vision")])


def test_it_is_the_plain_model(fused):
    table = verify(fused)
    assert untyped(table["ok"]).all(), table
    assert {"vision.0: MLP", "vision.1: edits reach the logits"} <= set(table["check"])


def test_a_bright_patch_lights_its_rows_in_both(fused):
    side = fused.image_size
    plain = np.zeros((side, side, 3), dtype=np.uint8)
    bright = plain.copy()
    bright[9:12, 3:6] = 255  # row 3, column 1
    names = ["vision.0.hook_embed", "vision.1.hook_embed", "connector.hook_in"]
    before, after = (fused.trace(one, "what?", capture=names) for one in (plain, bright))
    for name, leading in (("vision.0.hook_embed", 3), ("vision.1.hook_embed", 0)):
        change = (after[name] - before[name])[0].norm(dim=-1)
        assert change.nonzero().flatten().tolist() == [leading + 3 * GRID + 1]
        assert patches_of(name, before[name], [before.layout]).shape[1] == PATCHES
    assert after["connector.hook_in"].shape == (1, PATCHES, 39 + 33)


def test_attention_of_one_is_named(fused, tmp_path):
    trace = fused.trace(PICTURE, "what?", capture=["vision.*.hook_pattern", "language.*.hook_pattern"])
    trace.save(tmp_path / "trace.safetensors")
    trace = Trace.load(tmp_path / "trace.safetensors")
    first, second = (encoder_attention(trace, "mean", part=f"vision.{i}") for i in (0, 1))
    assert (first.shape, second.shape) == ((5, 3, GRID, GRID), (4, 3, GRID, GRID))
    np.testing.assert_allclose(second.sum(("row", "col")), 1.0, rtol=1e-5)
    assert (first.sum(("row", "col")) < 1).all(), "CLS and registers take some"
    assert encoder_attention(trace, "cls", part="vision.0").shape == first.shape
    with pytest.raises(VlmProbeError, match="this encoder has no CLS token"):
        encoder_attention(trace, "cls", part="vision.1")
    assert encoder_distance(trace, part="vision.1").shape == (4, 3)
    assert rollout(trace, "vision.0").shape == (GRID, GRID)
    dense = torch.eye(PATCHES)
    for layer in trace.stack("vision.1", "attn.hook_pattern")[:3, 0].mean(1):  # the fourth is not read
        dense = (0.5 * layer + 0.5 * torch.eye(PATCHES)) @ dense
    np.testing.assert_allclose(rollout(trace, "vision.1").values.ravel(), dense.mean(0), atol=1e-6)
    with pytest.raises(VlmProbeError, match="the trace holds no vision attention"):
        encoder_attention(trace, "mean")
    with pytest.raises(VlmProbeError, match=r"one encoder, and this model has several: vision\.0, vision\.1"):
        relevancy(fused, fused.prepare(PICTURE, "what?"), through_encoder=True)


def test_a_knockout_and_an_edit_in_one_encoder(fused):
    inputs = fused.prepare(PICTURE, "what?")
    with torch.no_grad():
        idle = fused(inputs).logits[0, -1]
    for part, heads in (("vision.0", 3), ("vision.1", 3)):
        cut = run(fused, inputs, [Knockout("image", [0, 1, 2], part=part, layers=[1])])
        assert not torch.allclose(cut[0].logits[0, -1], idle, atol=1e-5), part
        assert fused.config_of(part).num_attention_heads == heads
    with pytest.raises(VlmProbeError, match="layer"):
        run(fused, inputs, [Knockout("image", "image", part="vision.1", layers=[3])])


def test_features_and_the_plan_of_a_capture(fused):
    items = generated_items(6)
    points = ["vision.0.blocks.2.hook_resid_post", "vision.1.blocks.2.hook_resid_post", "connector.hook_pre"]
    found = features(fused, items, points, pool="mean")
    widths = [found[name].shape[-1] for name in points]
    assert widths == [39, 33, 4 * (39 + 33)]
    table = plan(fused.hf.config, points, "mean", 10)
    assert int(table["item_bytes"].iloc[0]) == 4 * sum(widths)
