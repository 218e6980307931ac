"""Equal to TransformerLens's own LLaVA bridge, CLIP with Llama, on the same weights."""

import copy

import pytest
import torch
from tiny import tiny_batch, tiny_llava

from vlm_probe.hooked import HookedVLM

builder = pytest.importorskip("transformer_lens.model_bridge.sources._bridge_builder")


@torch.no_grad()
def test_patterns_and_residuals_equal_the_bridge():
    model = tiny_llava("clip", "llama")
    model.config.architectures = ["LlavaForConditionalGeneration"]
    twin = copy.deepcopy(model)
    twin.set_attn_implementation("eager")
    bridge = builder.build_bridge_from_module(
        twin, "LlavaForConditionalGeneration", hf_config=twin.config, tokenizer=None
    )
    batch = tiny_batch(model)
    rest = {"pixel_values": batch["pixel_values"], "attention_mask": batch["attention_mask"]}
    theirs_logits, theirs = bridge.run_with_cache(batch["input_ids"], **rest)
    hooked = HookedVLM(model)
    ours_output, ours = hooked.run_with_cache(**batch)
    torch.testing.assert_close(ours_output.logits, theirs_logits, atol=1e-5, rtol=1e-5)
    names = [
        "attn.hook_pattern",
        "hook_resid_pre",
        "hook_resid_mid",
        "hook_resid_post",
        "hook_attn_out",
        "hook_mlp_out",
    ]
    names += ["attn.hook_q", "attn.hook_k", "attn.hook_v", "attn.hook_z", "attn.hook_rot_q"]
    for layer in range(3):
        for name in names:
            mine, other = ours[f"language.blocks.{layer}.{name}"], theirs[f"blocks.{layer}.{name}"]
            assert mine.shape == other.shape, name
            torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    for layer in range(5):
        for name in ("attn.hook_pattern", "hook_resid_pre", "hook_resid_post"):
            torch.testing.assert_close(
                ours[f"vision.blocks.{layer}.{name}"],
                theirs[f"vision_encoder.encoder_layers.{layer}.{name}"],
                atol=1e-5,
                rtol=1e-5,
            )
    torch.testing.assert_close(ours["connector.hook_out"], theirs["vision_projector.hook_out"], atol=1e-5, rtol=1e-5)
