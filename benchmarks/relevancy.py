"""Relevancy at the size of LLaVA-Gemma 2B's sequence: 576 patches, 18 layers, 8 heads.

    python benchmarks/relevancy.py [--repeats 5] [--out relevancy]

Widths are those of a laptop (the attention maps, which relevancy is about, have the real size). Time
and peak memory of `relevancy`, of the dense product over whole matrices, and of a plain forward.
"""

from __future__ import annotations

import argparse

import torch
from measure import interleaved, peak_bytes, ratio, record
from transformers import CLIPVisionConfig, GemmaConfig, LlavaConfig, LlavaForConditionalGeneration

from vlm_probe.attention import token_relevancy
from vlm_probe.hooked import HookedVLM, ModelInputs

LAYERS, HEADS, GRID, PATCH, IMAGE_TOKEN = 18, 8, 24, 2, 499


def build() -> HookedVLM:
    vision = CLIPVisionConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=GRID * PATCH,
        patch_size=PATCH,
    )
    text = GemmaConfig(
        vocab_size=500,
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=1,
        head_dim=32,
    )
    torch.manual_seed(0)
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE_TOKEN)
    return HookedVLM(LlavaForConditionalGeneration(config).eval())


def dense(model: HookedVLM, inputs: ModelInputs) -> torch.Tensor:
    """R as whole matrices: every pattern and gradient kept, then multiplied through."""
    kept: list[torch.Tensor] = []

    def keep(pattern: torch.Tensor, hook: object) -> None:
        pattern.retain_grad()
        kept.append(pattern)

    with model.hooks(fwd_hooks=[("language.blocks.*.attn.hook_pattern", keep)]):
        logits = model(inputs).logits[0, -1]
        logits[int(logits.argmax())].backward()
    model.zero_grad(set_to_none=True)
    relevancy = torch.eye(inputs.layout.length)
    for pattern in kept:
        assert pattern.grad is not None
        relevancy = relevancy + (pattern.grad * pattern.detach()).clamp_min(0).mean(1)[0] @ relevancy
    return relevancy[-1]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", default="relevancy")
    arguments = parser.parse_args()
    model = build()
    ids = torch.tensor([[2, 3, *[IMAGE_TOKEN] * GRID**2, *range(5, 25)]])
    inputs = model.prepare_tensors(ids, torch.randn(1, 3, GRID * PATCH, GRID * PATCH))
    rows = torch.from_numpy(token_relevancy(model, inputs).values)
    difference = float((rows - dense(model, inputs)).abs().max())

    def forward() -> object:
        with torch.no_grad():
            return model(inputs)

    variants = {
        "forward": forward,
        "relevancy": lambda: token_relevancy(model, inputs),
        "dense": lambda: dense(model, inputs),
    }
    times = interleaved(variants, arguments.repeats)
    length = inputs.layout.length
    all_patterns = LAYERS * HEADS * length * length * 4
    record(
        arguments.out,
        {
            "sequence": {"patches": GRID**2, "positions": length, "layers": LAYERS, "heads": HEADS},
            "max_abs_difference_to_dense": difference,
            "seconds": {name: round(sorted(t)[len(t) // 2], 3) for name, t in times.items()},
            "ratio": {
                "relevancy / forward": ratio(times, "relevancy", "forward"),
                "relevancy / dense": ratio(times, "relevancy", "dense"),
            },
            "all_patterns_mib": round(all_patterns / 2**20, 1),
            "peak_mib": {name: round(peak_bytes(run) / 2**20, 1) for name, run in variants.items()},
        },
    )


if __name__ == "__main__":
    main()
