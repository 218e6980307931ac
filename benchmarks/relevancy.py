"""Relevancy at the size of LLaVA-Gemma 2B's sequence: 576 patches, 18 layers, 8 heads.

    python benchmarks/relevancy.py [--repeats 5] [--layers 18] [--out NAME]

Widths are those of a laptop (the attention maps, which relevancy is about, have the real size). Against the dense
computation as LVLM-Interpret has it, re-made from its description (arXiv:2404.03118, section 3.3) and its published
formulas: eager attention, every pattern and gradient kept, whole matrices multiplied through, and gradients of all
weights, which it leaves on. The same without those is beside it, for what is due to freezing alone. Then the same here,
and with `recompute=True`, whose memory grows with depth by one residual stream a layer, and a plain forward pass.
"""

from __future__ import annotations

import argparse
import copy
from functools import partial
from typing import Any

import torch
from measure import MIB, Task, Way, measure, peak_bytes, record
from torch import Tensor
from transformers import CLIPVisionConfig, GemmaConfig, LlavaConfig, LlavaForConditionalGeneration

from vlm_probe.attention import token_relevancy
from vlm_probe.hooked import HookedVLM, ModelInputs

LAYERS, HEADS, GRID, PATCH, IMAGE_TOKEN = 18, 8, 24, 2, 499


def build(layers: int, grid: int = GRID, hidden: int = 256) -> Any:
    vision = CLIPVisionConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=grid * PATCH,
        patch_size=PATCH,
    )
    text = GemmaConfig(
        vocab_size=500,
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        num_key_value_heads=1,
        head_dim=hidden // HEADS,
    )
    torch.manual_seed(0)
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE_TOKEN)
    return LlavaForConditionalGeneration(config).eval()


def inputs_of(model: HookedVLM, grid: int = GRID) -> ModelInputs:
    ids = torch.tensor([[2, 3, *[IMAGE_TOKEN] * grid**2, *range(5, 25)]])
    generator = torch.Generator().manual_seed(0)
    return model.prepare_tensors(ids, torch.randn(1, 3, grid * PATCH, grid * PATCH, generator=generator))


def ours(model: HookedVLM, inputs: ModelInputs, *, recompute: bool = False) -> Tensor:
    return torch.from_numpy(token_relevancy(model, inputs, recompute=recompute).values)


def dense(model: Any, batch: dict[str, Any]) -> Tensor:
    output = model(**batch, output_attentions=True)
    for pattern in output.attentions:
        pattern.retain_grad()
    output.logits[0, -1].max().backward()
    relevancy = torch.eye(batch["input_ids"].shape[1])
    for pattern in output.attentions:
        attended = (pattern.grad * pattern.detach()).clamp_min(0).mean(1)[0]
        relevancy = relevancy + attended @ relevancy
    model.zero_grad()
    return relevancy[-1]


def frozen_dense(model: Any, batch: dict[str, Any]) -> Tensor:
    """As `dense`, with what that leaves undone: no parameter asks for a gradient, and the encoder for none either."""

    def begin(_module: Any, _args: Any, output: Tensor) -> Tensor:
        return output.detach().requires_grad_()

    asked = [p for p in model.parameters() if p.requires_grad]
    handle = model.model.multi_modal_projector.register_forward_hook(begin)
    try:
        for p in asked:
            p.requires_grad_(False)
        return dense(model, batch)
    finally:
        handle.remove()
        for p in asked:
            p.requires_grad_(True)


def forward(model: HookedVLM, inputs: ModelInputs) -> None:
    with torch.no_grad():
        model(inputs, use_cache=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--out")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    plain = build(arguments.layers)
    model = HookedVLM(copy.deepcopy(plain))
    plain.set_attn_implementation("eager")
    # What vlm_probe restores, and transformers of today leaves out, is left out here too: one model.
    model.embed_scale = "text"
    inputs = inputs_of(model)
    task = Task(
        "relevancy of every token",
        {
            "LVLM-Interpret, re-made": Way(partial(dense, plain, {**inputs.tensors, "use_cache": False}), dense),
            "the same, weights frozen": Way(
                partial(frozen_dense, plain, {**inputs.tensors, "use_cache": False}), frozen_dense
            ),
            "vlm_probe": Way(partial(ours, model, inputs), ours),
            "vlm_probe, recompute=True": Way(partial(ours, model, inputs, recompute=True), ours),
            "forward pass alone": Way(partial(forward, model, inputs)),
        },
        {"time": 0.5, "memory": 0.5},
        agree=1e-5,
    )
    length = inputs.layout.length
    depths = {n: HookedVLM(build(n)) for n in (arguments.layers // 3, arguments.layers)}
    peaks = {n: peak_bytes(partial(ours, one, inputs_of(one), recompute=True)) / MIB for n, one in depths.items()}
    few, many = peaks.values()
    record(
        "relevancy",
        {
            "sequence": {"patches": GRID**2, "positions": length, "layers": arguments.layers, "heads": HEADS},
            "all_patterns_mib": round(arguments.layers * HEADS * length**2 * 4 / MIB, 1),
            "recompute": {
                "peak_mib_by_layers": {str(n): round(peak, 2) for n, peak in peaks.items()},
                "mib_a_layer": round((many - few) / (arguments.layers - arguments.layers // 3), 3),
                "residual_stream_mib": round(length * model.hf.config.text_config.hidden_size * 4 / MIB, 3),
            },
            "rows": measure(task, arguments.repeats),
        },
        arguments.out,
    )


if __name__ == "__main__":
    main()
