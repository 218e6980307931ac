"""The exact shapes of LLaVA-Gemma 2B and 7B, with random weights in bfloat16, at 336 pixels.

    python benchmarks/real_size.py --device cpu --shapes 2b          # 10 GB of memory, some ten minutes
    python benchmarks/real_size.py --device cuda                     # 2b and 7b, `make bench-gpu`

Times are seconds of the wall. Beside them is the share that the counted floating-point operations of matrix products
are of what the machine does with a bare product of the 2B's MLP, and the share that the bytes that operators read and
write (each tensor once an operator) are of what it copies: the larger one says what bounds a task. Peaks are those of
the process (CPU) or of the allocator (GPU), the weights included. No weights are downloaded. What a shape that does not
fit would take is computed from the same shape with two language layers and with three, and said to be: operations,
bytes, and the weights with what tensors hold beside them; seconds are not, for a layer more is less than their spread.
`--shapes tiny` tries the script itself anywhere.
"""

from __future__ import annotations

import argparse
import gc
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from measure import peak_bytes, record
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPImageProcessor, CLIPVisionConfig, GemmaConfig, LlavaConfig, LlavaForConditionalGeneration

from vlm_probe import causal
from vlm_probe.attention import relevancy
from vlm_probe.causal import Knockout
from vlm_probe.embedding import probe_layers
from vlm_probe.hooked import HookedVLM, ModelInputs
from vlm_probe.inputs.images import ImagePreparer
from vlm_probe.lens.logit_lens import lens
from vlm_probe.scenes import scene_items
from vlm_probe.store import capture
from vlm_probe.training.loop import return_memory
from vlm_probe.training.packing import IMAGE, PROMPT, build_tokenizer
from vlm_probe.zoo.cells import VOCABULARY

QUESTION = "What color is the star, and is it on the left or on the right of the picture?"
GIB = 2**30

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
            "vocab_size": 1024,
            "hidden_size": 48,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
            "head_dim": 12,
        },
    ),
}


def build(shape: str, device: str, layers: int | None = None) -> HookedVLM:
    """Weights made on the device in bfloat16; with fewer layers of the language model, a part of the shape."""
    vision, text = SHAPES[shape]
    if layers is not None:
        text = {**text, "num_hidden_layers": layers}
    tokenizer = build_tokenizer(VOCABULARY)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**vision),
        text_config=GemmaConfig(**text, eos_token_id=1, pad_token_id=0, bos_token_id=2),
        image_token_index=int(tokenizer.get_vocab()[IMAGE]),
        vision_feature_layer=-2,
    )
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = LlavaForConditionalGeneration(config).eval()
    finally:
        torch.set_default_dtype(before)
    side = vision["image_size"]
    processor = CLIPImageProcessor(size={"height": side, "width": side}, do_center_crop=False)
    preparer = ImagePreparer(processor, pad=True)
    return HookedVLM(model, tokenizer=tokenizer, preparer=preparer, prompt=PROMPT, name=f"random {shape}")


def matrix_rate(device: str) -> float:
    """Floating-point operations a second of the 2B's MLP up-projection, 600 positions, bfloat16."""
    x = torch.randn(600, 2048, dtype=torch.bfloat16, device=device)
    w = torch.randn(16_384, 2048, dtype=torch.bfloat16, device=device)
    torch.mm(x, w.T)
    return 2 * 600 * 2048 * 16_384 / statistics.median(_timed(lambda: torch.mm(x, w.T), device) for _ in range(20))


def memory_rate(device: str) -> float:
    """Bytes a second that a copy of 512 MiB reads and writes."""
    x = torch.empty(2**28, dtype=torch.bfloat16, device=device).zero_()
    y = torch.empty_like(x)
    y.copy_(x)
    return 2 * x.nbytes / statistics.median(_timed(lambda: y.copy_(x), device) for _ in range(5))


def _timed(run: Callable[[], object], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _peak(run: Callable[[], object], device: str) -> int:
    """Bytes that the process held at most meanwhile: on a GPU what its allocator did, on Linux resident memory.

    What the task before has freed is given back first: the heap would keep it, and this one would seem to hold it."""
    gc.collect()
    return_memory()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated()
    cleared = Path("/proc/self/clear_refs")
    try:
        cleared.write_text("5")
    except OSError:  # then it is the most since the process began
        run()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    run()
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024


class _Moved(TorchDispatchMode):
    """Counts the bytes that operators read and write; what only looks at a tensor otherwise moves none."""

    _READ_IN_PART = ("embedding", "index", "index_select", "gather")

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if not func.is_view:
            given, made = (_bytes(x) for x in ((args, kwargs or {}), found))
            self.bytes += made + (made if func.overloadpacket.__name__ in self._READ_IN_PART else given)
        return found


def _bytes(tree: Any) -> int:
    """Of all tensors in it; one that is expanded is read as it lies."""
    tensors = (x for x in tree_leaves(tree) if isinstance(x, torch.Tensor) and x.device.type != "meta")
    return sum(min(x.nbytes, x.untyped_storage().nbytes()) for x in tensors)


def _features(layers: int, items: int, width: int) -> xr.Dataset:
    """Activations as a probe gets them, with a label planted in each layer."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, items)
    table = rng.normal(size=(3, width))
    points = {
        f"layer {i}": (
            ("item", "feature"),
            (rng.normal(size=(items, width)) + 0.05 * table[label]).astype(np.float32),
        )
        for i in range(layers)
    }
    names = np.asarray(["red", "green", "blue"])[label]
    return xr.Dataset(points, coords={"color": ("item", names), "image": ("item", np.arange(items) // 2)})


def tasks(model: HookedVLM, inputs: ModelInputs, batch: int, device: str) -> dict[str, Callable[[], object]]:
    """What is measured; only forward passes and captures take a batch of several."""
    text = model.hf.config.text_config
    layers, width = text.num_hidden_layers, text.hidden_size
    several = inputs if batch == 1 else model.prepare([model.picture(i) for i in items(batch)], [QUESTION] * batch)
    middle = range(layers // 3, 2 * layers // 3)

    @torch.no_grad()
    def forward() -> None:
        model(several, logits_to_keep=1, use_cache=False)

    @torch.no_grad()
    def kept(names: str) -> None:
        model.run_with_cache(several, names_filter=names, logits_to_keep=1, use_cache=False)

    found: dict[str, Callable[[], object]] = {
        "forward": forward,
        "all residual streams": lambda: kept("*.hook_resid_post"),
        "one pattern": lambda: kept(f"language.blocks.{layers // 2}.attn.hook_pattern"),
    }
    if batch > 1:
        return found
    data = _features(layers, 200, width)

    @torch.no_grad()
    def knockout() -> None:
        causal.run(model, inputs, [Knockout("answer", "image", middle)], logits_to_keep=1)

    def to_disk() -> None:
        with tempfile.TemporaryDirectory() as folder:
            capture(model, items(4), "language.blocks.*.hook_resid_post", f"{folder}/store", batch_size=2)

    return found | {
        "all patterns": lambda: kept("*.hook_pattern"),
        "relevancy": lambda: relevancy(model, inputs),
        "relevancy, recompute=True": lambda: relevancy(model, inputs, recompute=True),
        "relevancy through the encoder": lambda: relevancy(model, inputs, through_encoder=True),
        "lens, all layers, question and answer": lambda: lens(model, inputs, positions="question"),
        "knockout in a third of the layers": knockout,
        "probes of all layers, 200 items": lambda: probe_layers(data, ["color"], device=device),
        "capture of 4 items to disk": to_disk,
    }


def items(n: int) -> list[Any]:
    return list(scene_items(n, seed=4))


def measure(shape: str, device: str, batch: int, repeats: int, rates: tuple[float, float]) -> dict[str, Any]:
    """Seconds, floating-point operations, bytes and peaks of every task of a shape.

    rates: floating-point operations of a matrix product, and bytes of a copy, a second.
    """
    model = build(shape, device)
    inputs = model.prepare(model.picture(items(1)[0]), QUESTION)
    weights = sum(p.nbytes for p in model.hf.parameters())
    rows = {}
    for name, run in tasks(model, inputs, batch, device).items():
        with FlopCounterMode(display=False) as counted, _Moved() as moved:
            peak = _peak(run, device)  # and warm
        seconds = statistics.median(_timed(run, device) for _ in range(repeats))
        operations = counted.get_total_flops()
        rows[name] = {
            "seconds": round(seconds, 4),
            "teraflop": round(operations / 1e12, 4),
            "gib": round(moved.bytes / GIB, 3),
            "of_matrix_rate": round(operations / seconds / rates[0], 3),
            "of_copy_rate": round(moved.bytes / seconds / rates[1], 3),
            "peak_gib": round(peak / GIB, 3),
        }
        print(shape, name, rows[name], file=sys.stderr, flush=True)
    about: dict[str, Any] = {
        "parameters": sum(p.numel() for p in model.hf.parameters()),
        "weights_gib": round(weights / GIB, 3),
    }
    if batch == 1:
        about["fits"] = cards(about["parameters"], rows, shape)
    return {**about, "positions": inputs.layout.length, "batch": batch, "tasks": rows}


def part(shape: str, device: str, layers: int) -> dict[str, dict[str, float]]:
    """Floating-point operations, bytes, and what tensors hold beside the weights, of every task of a shape that has so
    many language layers: counted, and so the same every time."""
    model = build(shape, device, layers)
    rows = {}
    for name, run in tasks(model, model.prepare(model.picture(items(1)[0]), QUESTION), 1, device).items():
        with FlopCounterMode(display=False) as counted, _Moved() as moved:
            run()
        held = peak_bytes(run) / GIB
        rows[name] = {"teraflop": counted.get_total_flops() / 1e12, "gib": moved.bytes / GIB, "held_gib": held}
        print(shape, layers, name, rows[name], file=sys.stderr, flush=True)
    return rows


def computed(shape: str, device: str) -> dict[str, Any]:
    """What a shape that does not fit takes: counted with two language layers and three, the rest in proportion."""
    depth = SHAPES[shape][1]["num_hidden_layers"]
    few, more = (_free(part(shape, device, n)) for n in (2, 3))
    with torch.device("meta"):
        text, vision = GemmaConfig(**SHAPES[shape][1]), CLIPVisionConfig(**SHAPES[shape][0])
        whole = LlavaForConditionalGeneration(LlavaConfig(vision_config=vision, text_config=text))
    weights = sum(p.numel() * 2 for p in whole.parameters())
    rows = {}
    for name, own in few.items():
        found = {k: round(own[k] + (depth - 2) * (more[name][k] - own[k]), 3) for k in own}
        held = found.pop("held_gib")
        rows[name] = {**found, "peak_gib": round(weights / GIB + held, 3)}
    return {
        "what": f"computed for {depth} language layers from what was counted with 2 and 3, the encoder whole",
        "parameters": sum(p.numel() for p in whole.parameters()),
        "weights_gib": round(weights / GIB, 3),
        "tasks": rows,
        "fits": cards(sum(p.numel() for p in whole.parameters()), rows, shape),
    }


def cards(parameters: int, rows: dict[str, dict[str, float]], shape: str) -> dict[str, Any]:
    """GiB that `inspect` and a report take of a shape, beside the cards that they are to fit.

    Peaks of the tasks they are made of; with 4 bit, matrices of layers take 4.5 bits a weight (bitsandbytes' NF4, a
    scale of 32 bits for 64 of them), computed, and the vocabulary stays in bfloat16.
    """
    looks = max(row["peak_gib"] for name, row in rows.items() if not name.startswith(("probes", "capture")))
    text = SHAPES[shape][1]
    matrices = parameters - text["vocab_size"] * text["hidden_size"]
    return {
        "inspect, bfloat16": {"gib": round(looks, 2), "card": 24},
        "inspect, 4 bit": {"gib": round(looks - matrices * (2 - 4.5 / 8) / GIB, 2), "card": 12},
        "report, bfloat16": {"gib": round(max(row["peak_gib"] for row in rows.values()), 2), "card": 80},
    }


def _free(found: dict[str, Any]) -> dict[str, Any]:
    """The model is gone with its function; its memory must be, too, before the next one."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="*", choices=sorted(SHAPES), default=["2b", "7b"])
    parser.add_argument("--computed", nargs="*", choices=sorted(SHAPES), default=[], help="shapes that do not fit")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batches", nargs="+", type=int, default=[1])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no CUDA device here: run this where there is one, or try --shapes tiny --device cpu")
    device = arguments.device
    rates = (matrix_rate(device), memory_rate(device))
    results: dict[str, Any] = {
        "matrix_teraflop_a_second": round(rates[0] / 1e12, 4),
        "copied_gib_a_second": round(rates[1] / GIB, 2),
    }
    for shape in arguments.shapes:
        for batch in arguments.batches:
            found = _free(measure(shape, device, batch, arguments.repeats, rates))
            results[shape if batch == 1 else f"{shape}, batch {batch}"] = found
    for shape in arguments.computed:
        results[f"{shape}, computed"] = _free(computed(shape, device))
    record("real_size", {**results, "rows": []}, arguments.out)


if __name__ == "__main__":
    main()
