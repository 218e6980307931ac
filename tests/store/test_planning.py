"""What a capture is said to take is what it takes."""

from typing import Any

import pytest
from storing import scenes
from tiny import PAIRS, tiny_language, tiny_vlm
from transformers import CLIPVisionConfig, GemmaConfig, LlavaConfig

from vlm_probe.errors import VlmProbeError
from vlm_probe.store import plan
from vlm_probe.store.describing import describe
from vlm_probe.store.planning import points_of

EVERY = ["vision.*", "connector.*", "language.*"]


def vectors(names):
    """The points that have a feature vector a position."""
    return [name for name in names if not name.endswith(("attn_scores", "pattern", "hook_scale", "hook_logits"))]


@pytest.mark.parametrize(("tower", "language"), PAIRS)
def test_points_are_those_of_the_model(tower, language):
    model = tiny_vlm(tower, language)
    assert points_of(model.hf.config) == list(model.hook_dict)


def test_points_of_a_language_model_alone():
    model = tiny_language("gemma2")
    assert points_of(model.hf.config) == list(model.hook_dict)


@pytest.mark.parametrize("positions", ["mean", "image", "all", "mean(box)"])
def test_bytes_are_those_of_a_capture(replica, positions):
    items = [item for item in scenes(7) if item.boxes]
    names = vectors(replica.hook_dict)
    about = describe(replica, items, names, positions=positions, dtype="float32", shard_items=None, batch_size=2)
    longest = max(len(replica.inputs.encode(item.question, [0])[0]) for item in items)
    said = plan(replica.hf.config, names, positions, 1000, text_tokens=longest).iloc[0]
    beside = 8 * about.arrays["sequence_position"].shape[1] if positions == "all" else 0
    assert said["item_bytes"] == about.item_bytes - beside
    assert said["bytes"] == 1000 * said["item_bytes"]


def gemma_2b():
    eyes: dict[str, Any] = {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
    }
    text: dict[str, Any] = {
        "hidden_size": 2048,
        "num_hidden_layers": 18,
        "intermediate_size": 16_384,
        "num_attention_heads": 8,
    }
    return LlavaConfig(
        vision_config=CLIPVisionConfig(**eyes, image_size=336, patch_size=14),
        text_config=GemmaConfig(**text, num_key_value_heads=1, head_dim=256, vocab_size=256_000),
    )


def test_hours_are_operations_over_speed():
    config = gemma_2b()
    whole = plan(config, "language.blocks.*.hook_resid_post", "answer", images=10**6).iloc[0]
    # 2.5e9 parameters less the 256,000 x 2048 that are looked up, twice for multiply and add, and 624 positions.
    blocks = 18 * (2048 * 2048 * 2 + 2 * 2048 * 256 + 3 * 2048 * 16_384)
    eyes = 2 * 576 * (24 * (4 * 1024**2 + 2 * 1024 * 4096) + 1024 * 2048 + 2048**2)
    assert whole["flops_per_item"] == pytest.approx(2 * 624 * blocks + eyes, rel=0.1)
    assert whole["gpu_hours"] == pytest.approx(1e6 * whole["flops_per_item"] / (989e12 * 0.4) / 3600)
    assert whole["item_bytes"] == 18 * 2048 * 4
    half = plan(config, "language.blocks.8.hook_resid_post", "answer").iloc[0]
    assert (half["flops_per_item"] - eyes) / (whole["flops_per_item"] - eyes) == pytest.approx(0.5, abs=0.05)
    seen = plan(config, "connector.hook_out", "image", dtype="float16").iloc[0]
    assert seen["flops_per_item"] == pytest.approx(eyes, rel=0.15)
    assert seen["item_bytes"] == 576 * 2048 * 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"points": "language.blocks.99.*"}, "no hook point 'language.blocks.99"),
        ({"points": "connector.hook_out", "positions": "question"}, "connector.hook_out has no positions"),
        ({"points": "*.hook_pattern"}, "no feature vector per position"),
        ({"points": "language.hook_embed", "dtype": "int8"}, "values are kept as"),
    ],
)
def test_what_cannot_be_planned_is_said(change, message):
    with pytest.raises(VlmProbeError, match=message):
        plan(gemma_2b(), change.pop("points"), **change)
