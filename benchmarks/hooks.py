"""What hooks cost: idle, capturing all residual streams, and one layer's pattern.

    python benchmarks/hooks.py [--repeats 9] [--out hooks]

Each figure is a ratio within one run, variants interleaved, beside TransformerLens's bridge and
nnsight on the same weights. The model has 146M parameters (CLIP with Llama, the pair that
TransformerLens's bridge knows) and 256 image tokens. Goals: idle <= 1.02, residual streams <= 1.05,
one pattern <= 1.03 with added peak memory of at most 1.2 patterns.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from typing import Any

import torch
from measure import interleaved, peak_bytes, ratio, record
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from vlm_probe.hooked import HookedVLM

SIDE, PATCH, IMAGE_TOKEN = 224, 14, 7999


def build() -> LlavaForConditionalGeneration:
    vision = CLIPVisionConfig(
        hidden_size=512,
        intermediate_size=2048,
        num_hidden_layers=8,
        num_attention_heads=8,
        image_size=SIDE,
        patch_size=PATCH,
    )
    text = LlamaConfig(
        vocab_size=8000,
        hidden_size=1024,
        intermediate_size=2816,
        num_hidden_layers=8,
        num_attention_heads=16,
        num_key_value_heads=16,
        pad_token_id=0,
    )
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE_TOKEN)
    config.architectures = ["LlavaForConditionalGeneration"]
    torch.manual_seed(0)
    return LlavaForConditionalGeneration(config).eval()


def inputs() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    patches = (SIDE // PATCH) ** 2
    text = torch.randint(1, IMAGE_TOKEN, (24,), generator=generator).tolist()
    ids = torch.tensor([[*text[:4], *[IMAGE_TOKEN] * patches, *text[4:]]])
    pixels = torch.randn(1, 3, SIDE, SIDE, generator=generator)
    return {"input_ids": ids, "pixel_values": pixels, "attention_mask": torch.ones_like(ids)}


def peers(model: LlavaForConditionalGeneration, batch: dict[str, Any]) -> dict[str, Callable[[], object]]:
    """TransformerLens's bridge and nnsight, where they are installed."""
    found: dict[str, Callable[[], object]] = {}
    ids, rest = batch["input_ids"], {k: v for k, v in batch.items() if k != "input_ids"}
    try:
        from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

        twin = copy.deepcopy(model)
        bridge: Any = build_bridge_from_module(
            twin, "LlavaForConditionalGeneration", hf_config=twin.config, tokenizer=None
        )
        found["bridge idle"] = lambda: bridge(ids, **rest)
        names = [f"blocks.{i}.hook_resid_post" for i in range(8)]
        names += [f"vision_encoder.encoder_layers.{i}.hook_resid_post" for i in range(8)]
        found["bridge residuals"] = lambda: bridge.run_with_cache(ids, names_filter=lambda n: n in names, **rest)
    except Exception as error:
        print(f"TransformerLens's bridge is left out: {error!r}")
    try:
        from nnsight import NNsight

        wrapped: Any = NNsight(copy.deepcopy(model))

        def traced(save: bool) -> object:
            kept = []
            with wrapped.trace(**batch):
                if save:
                    for layer in wrapped.model.vision_tower.encoder.layers:
                        kept.append(layer.output.save())
                    for layer in wrapped.model.language_model.layers:
                        kept.append(layer.output.save())
                logits = wrapped.output.logits.save()
            return kept, logits

        traced(True)
        found["nnsight idle"] = lambda: traced(False)
        found["nnsight residuals"] = lambda: traced(True)
    except Exception as error:
        print(f"nnsight is left out: {error!r}")
    return found


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--out", default="hooks")
    arguments = parser.parse_args()
    plain, batch = build(), inputs()
    hooked = HookedVLM(copy.deepcopy(plain))
    residuals = ["vision.blocks.*.hook_resid_post", "language.blocks.*.hook_resid_post"]
    pattern = "language.blocks.4.attn.hook_pattern"

    variants: dict[str, Callable[[], object]] = {
        "plain": lambda: plain(**batch),
        "hooked idle": lambda: hooked(**batch),
        "hooked idle, all vision layers": lambda: hooked.hf(**batch),
        "plain output_hidden_states": lambda: plain(**batch, output_hidden_states=True),
        "hooked residuals of the language model": lambda: hooked.run_with_cache(**batch, names_filter=residuals[1]),
        "hooked residuals of both towers": lambda: hooked.run_with_cache(**batch, names_filter=residuals),
        "hooked one pattern": lambda: hooked.run_with_cache(**batch, names_filter=pattern),
        **peers(plain, batch),
    }
    times = interleaved(variants, arguments.repeats)
    length = batch["input_ids"].shape[1]
    heads = hooked.hf.config.text_config.num_attention_heads
    one_pattern = heads * length * length * 4
    added = peak_bytes(variants["hooked one pattern"]) - peak_bytes(variants["hooked idle"])
    record(
        arguments.out,
        {
            "model": {
                "parameters": sum(p.numel() for p in plain.parameters()),
                "image_tokens": (SIDE // PATCH) ** 2,
                "positions": length,
            },
            "repeats": arguments.repeats,
            "seconds_plain": round(sorted(times["plain"])[len(times["plain"]) // 2], 4),
            "ratio_to_plain": {name: ratio(times, name, "plain") for name in variants if name != "plain"},
            "ratio_to_output_hidden_states": {
                name: ratio(times, name, "plain output_hidden_states") for name in variants if "residuals" in name
            },
            "pattern_bytes": one_pattern,
            "added_peak_over_one_pattern": round(added / one_pattern, 3),
        },
    )


if __name__ == "__main__":
    main()
