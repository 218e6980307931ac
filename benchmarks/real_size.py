"""The exact shapes of LLaVA-Gemma 2B and 7B, with random weights, at 336 pixels [GPU].

    python benchmarks/real_size.py [--shapes 2b 7b] [--device cuda] [--out real_size]

Records time and peak memory of a forward pass, of capturing every residual stream, of capturing
every attention pattern, and of relevancy (through the language model, and through the encoder). No
weights are downloaded. `--shapes tiny --device cpu` tries the script itself anywhere.
"""

from __future__ import annotations

import argparse
import gc
import statistics
from collections.abc import Callable
from typing import Any

import torch
from measure import interleaved, record
from transformers import CLIPVisionConfig, GemmaConfig, LlavaConfig, LlavaForConditionalGeneration

from vlm_probe.attention import relevancy
from vlm_probe.hooked import HookedVLM

# openai/clip-vit-large-patch14-336, and Gemma with LLaVA-Gemma's 64 padding rows.
_CLIP_L: dict[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}
_TINY = {
    **_CLIP_L,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 56,
}
SHAPES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "2b": (
        _CLIP_L,
        {
            "vocab_size": 256_064,
            "hidden_size": 2048,
            "intermediate_size": 16_384,
            "num_hidden_layers": 18,
            "num_attention_heads": 8,
            "num_key_value_heads": 1,
            "head_dim": 256,
        },
    ),
    "7b": (
        _CLIP_L,
        {
            "vocab_size": 256_064,
            "hidden_size": 3072,
            "intermediate_size": 24_576,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "num_key_value_heads": 16,
            "head_dim": 256,
        },
    ),
    "tiny": (
        _TINY,
        {
            "vocab_size": 512,
            "hidden_size": 48,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
            "head_dim": 12,
        },
    ),
}


def build(shape: str, device: str) -> HookedVLM:
    vision, text = SHAPES[shape]
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**vision),
        text_config=GemmaConfig(**text),
        image_token_index=text["vocab_size"] - 64,
    )
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = LlavaForConditionalGeneration(config).eval()
    finally:
        torch.set_default_dtype(before)
    return HookedVLM(model, name=f"random {shape}")


def measure(shape: str, device: str, repeats: int) -> dict[str, Any]:
    model = build(shape, device)
    config = model.hf.config
    side, patch = config.vision_config.image_size, config.vision_config.patch_size
    ids = torch.tensor([[2, 3, *[config.image_token_id] * (side // patch) ** 2, *range(5, 35)]])
    inputs = model.prepare_tensors(ids, torch.randn(1, 3, side, side))

    @torch.no_grad()
    def forward() -> object:
        return model(inputs).logits.shape

    variants: dict[str, Callable[[], object]] = {
        "forward": forward,
        "residual streams": lambda: model.trace(inputs, capture=["*.hook_resid_post"]) and None,
        "all patterns": lambda: model.trace(inputs, capture=["*.hook_pattern"]) and None,
        "relevancy": lambda: relevancy(model, inputs),
        "relevancy through the encoder": lambda: relevancy(model, inputs, through_encoder=True),
    }
    seconds = {name: round(statistics.median(t), 4) for name, t in interleaved(variants, repeats).items()}
    peaks = {}
    if device == "cuda":
        for name, run in variants.items():
            torch.cuda.reset_peak_memory_stats()
            run()
            peaks[name] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    parameters = sum(p.numel() for p in model.hf.parameters())
    result = {"parameters": parameters, "positions": inputs.layout.length, "seconds": seconds, "peak_gib": peaks}
    return result


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--shapes", nargs="+", choices=sorted(SHAPES), default=["2b", "7b"])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--out", default="real_size")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no CUDA device here: run this where there is one, or try --shapes tiny --device cpu")
    results = {}
    for shape in arguments.shapes:
        results[shape] = measure(shape, arguments.device, arguments.repeats)
        # The model is gone with its function; its memory must be, too, before the next one.
        gc.collect()
        torch.cuda.empty_cache()
    record(arguments.out, results)


if __name__ == "__main__":
    main()
