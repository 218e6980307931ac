"""How time and memory grow with image tokens, layers, batch, vocabulary and items: fitted exponents.

    python benchmarks/scaling.py [--repeats 3] [--small] [--out NAME]

Each size is varied alone. The exponent is the slope of a line through logarithms (least squares), of the sizes' upper
half, where what is fixed weighs less; beside it the one that the method itself has. Memory is what tensors held at
most beyond what they held before. One thread.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import relevancy
import torch
from measure import MIB, interleaved, peak_bytes, record

from vlm_probe.hooked import HookedVLM, ModelInputs
from vlm_probe.lens.logit_lens import stream_lens
from vlm_probe.scenes import scene_items
from vlm_probe.store import capture

RESIDUALS = "language.blocks.*.hook_resid_post"


def exponent(sizes: list[int], values: list[float]) -> float:
    """Of the larger half of the sizes."""
    half = len(sizes) // 2
    x, y = np.log(sizes[half:]), np.log(np.maximum(values[half:], 1e-9))
    return round(float(np.polyfit(x, y, 1)[0]), 3)


def model_of(layers: int = 4, grid: int = 8, hidden: int = 128) -> tuple[HookedVLM, ModelInputs]:
    model = HookedVLM(relevancy.build(layers, grid, hidden))
    return model, relevancy.inputs_of(model, grid)


def batch_of(model: HookedVLM, inputs: ModelInputs, n: int) -> ModelInputs:
    ids, pixels = inputs.tensors["input_ids"], inputs.pixel_values
    assert pixels is not None
    return model.prepare_tensors(ids.repeat(n, 1), pixels.repeat(n, 1, 1, 1))


def cached(model: HookedVLM, inputs: ModelInputs) -> None:
    with torch.no_grad():
        model.run_with_cache(inputs, names_filter=RESIDUALS, logits_to_keep=1, use_cache=False)


def one_pattern(model: HookedVLM, inputs: ModelInputs) -> None:
    with torch.no_grad():
        names = "language.blocks.1.attn.hook_pattern"
        model.run_with_cache(inputs, names_filter=names, logits_to_keep=1, use_cache=False)


def to_disk(model: HookedVLM, n: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        capture(model, list(scene_items(n, seed=4)), RESIDUALS, Path(folder) / "s", batch_size=8, shard_items=32)


def lens_of(vocabulary: int) -> Callable[[], object]:
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(vocabulary, 256, generator=generator)
    hidden = [torch.randn(16, 256, generator=generator) for _ in range(6)]
    return partial(stream_lens, hidden, table)


def varied(small: bool) -> Iterable[tuple[str, str, float, Mapping[int, Callable[[], object]]]]:
    """(task, what is varied, the method's own exponent of time, runs by size)."""
    grids = (8, 12, 16, 24) if small else (8, 12, 16, 24, 32, 48)
    pictures = {grid**2: model_of(grid=grid) for grid in grids}
    # Attention is quadratic in positions, all else linear.
    yield "residual streams", "image tokens", 2.0, {n: partial(cached, *own) for n, own in pictures.items()}
    yield "one pattern", "image tokens", 2.0, {n: partial(one_pattern, *own) for n, own in pictures.items()}
    yield "relevancy", "image tokens", 2.0, {n: partial(relevancy.ours, *own) for n, own in pictures.items()}
    depths = {layers: model_of(layers) for layers in (2, 4, 8, 16, 32)}
    yield "residual streams", "layers", 1.0, {n: partial(cached, *own) for n, own in depths.items()}
    yield "relevancy", "layers", 1.0, {n: partial(relevancy.ours, *own) for n, own in depths.items()}
    recomputed = {n: partial(relevancy.ours, *own, recompute=True) for n, own in depths.items()}
    yield "relevancy, recompute=True", "layers", 1.0, recomputed
    model, inputs = model_of()
    batches = {n: batch_of(model, inputs, n) for n in (1, 2, 4, 8, 16)}
    yield "residual streams", "batch", 1.0, {n: partial(cached, model, own) for n, own in batches.items()}
    rows = (8_000, 16_000, 32_000) if small else (32_000, 64_000, 128_000, 256_000)
    yield "logit lens", "vocabulary", 1.0, {n: lens_of(n) for n in rows}
    import vlm_probe

    replica = vlm_probe.load("replica/small-clip", device="cpu")
    yield "capture to disk", "items", 1.0, {n: partial(to_disk, replica, n) for n in (16, 32, 64, 128)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="smaller sizes, to try the script")
    parser.add_argument("--out")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = []
    for task, what, own, runs in varied(arguments.small):
        times = interleaved({str(n): run for n, run in runs.items()}, arguments.repeats)
        sizes, seconds = list(runs), [min(times[str(n)]) for n in runs]
        peaks = [peak_bytes(run) / MIB for run in runs.values()]
        one: dict[str, Any] = {"task": task, "varied": what, "sizes": sizes}
        one |= {"seconds": [round(s, 4) for s in seconds], "peak_mib": [round(p, 2) for p in peaks]}
        one |= {"time_exponent": exponent(sizes, seconds), "memory_exponent": exponent(sizes, peaks)}
        one |= {"time_exponent_of_the_method": own}
        found.append(one)
        print(task, what, one["time_exponent"], one["memory_exponent"], file=sys.stderr, flush=True)
    record("scaling", {"curves": found, "rows": []}, arguments.out)


if __name__ == "__main__":
    main()
