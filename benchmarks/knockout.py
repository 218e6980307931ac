"""One attention knockout three ways: here, with TransformerLens's bridge and with nnsight, on the same weights.

    python benchmarks/knockout.py [--repeats 7] [--out knockout]

The last position does not see the image in four of eight layers. The bridge sets scores to minus infinity, which takes
attention in its explicit form; with nnsight the layers get another mask, which takes transformers' eager attention,
since SDPA is given none. Largest differences of logits, seconds as ratios within one run, and lines of code (of the
function that does it, without its first line).
"""

from __future__ import annotations

import argparse
import copy
import inspect
from collections.abc import Callable
from typing import Any

import torch
from hooks import build, inputs
from measure import interleaved, ratio, record
from torch import Tensor

from vlm_probe import causal
from vlm_probe.causal import Knockout
from vlm_probe.hooked import HookedVLM, ModelInputs

LAYERS = range(2, 6)


def with_vlm_probe(model: HookedVLM, batch: ModelInputs) -> Tensor:
    return causal.run(model, batch, [Knockout("answer", "image", LAYERS)])[0].logits


def with_bridge(bridge: Any, batch: dict[str, Any], image: Tensor) -> Tensor:
    def cut(scores: Tensor, hook: Any) -> Tensor:
        scores[:, :, -1, image] = -torch.inf
        return scores

    hooks = [(f"blocks.{layer}.attn.hook_attn_scores", cut) for layer in LAYERS]
    return bridge.run_with_hooks(batch["input_ids"], fwd_hooks=hooks, **{k: batch[k] for k in REST})


def with_nnsight(wrapped: Any, batch: dict[str, Any], image: Tensor) -> Tensor:
    with wrapped.trace(**batch):
        for layer in LAYERS:
            block = wrapped.model.language_model.layers[layer]
            given, named = block.inputs
            mask = named["attention_mask"].clone()
            mask[:, :, -1, image] = torch.finfo(mask.dtype).min
            block.inputs = (given, {**named, "attention_mask": mask})
        logits = wrapped.output.logits.save()
    return logits


REST = ("pixel_values", "attention_mask")


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", default="knockout")
    arguments = parser.parse_args()
    plain, batch = build(), inputs()
    hooked = HookedVLM(copy.deepcopy(plain))
    ours = hooked.prepare_tensors(batch["input_ids"], batch["pixel_values"], batch["attention_mask"])
    image = torch.as_tensor(ours.layout.image_positions)

    from nnsight import NNsight
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

    twin: Any = copy.deepcopy(plain)
    bridge: Any = build_bridge_from_module(twin, "LlavaForConditionalGeneration", hf_config=twin.config, tokenizer=None)
    eager: Any = copy.deepcopy(plain)
    eager.set_attn_implementation("eager")
    wrapped: Any = NNsight(eager)
    ways: dict[str, Callable[[], Tensor]] = {
        "vlm_probe": lambda: with_vlm_probe(hooked, ours),
        "bridge": lambda: with_bridge(bridge, batch, image),
        "nnsight": lambda: with_nnsight(wrapped, batch, image),
        "no knockout": lambda: hooked(ours).logits,
    }
    logits = {name: way()[0, -1] for name, way in ways.items()}
    times = interleaved({**ways}, arguments.repeats)
    written = (with_vlm_probe, with_bridge, with_nnsight)
    lines = {way.__name__: len(inspect.getsource(way).strip().splitlines()) - 1 for way in written}
    record(
        arguments.out,
        {
            "what": "the last position does not see the image in four of eight layers",
            "largest_difference_to_vlm_probe": {
                name: float((own - logits["vlm_probe"]).abs().max()) for name, own in logits.items()
            },
            "ratio": {f"{name} / no knockout": ratio(times, name, "no knockout") for name in list(ways)[:3]},
            "lines_of_code": lines,
        },
    )


if __name__ == "__main__":
    main()
