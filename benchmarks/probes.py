"""Probing many layers, and nearest tokens over a real vocabulary: time and peak memory.

    python benchmarks/probes.py [--device cuda] [--layers 20 --items 2000 --features 2048]

Probes: `probe_layers` over random features with planted labels, against a plain scikit-learn loop that
does the same nested cross-validation (labels, shuffled and control labels) one probe at a time. The loop is
timed on `--loop-layers` of the layers and scaled, since its layers take alike; memory is what the process
grew by. Nearest tokens: 576 vectors of 2,048 features against 256,000 rows; memory is what tensors held at
once, the two tables left out. Each part runs in a process of its own, or one's peak would hide the other's.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
import xarray as xr
from measure import peak_bytes, record

CLASSES = 6


def _data(layers: int, items: int, features: int) -> xr.Dataset:
    """Random features; the label shows in some directions of each layer, more in later ones."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, CLASSES, items)
    table = rng.normal(size=(CLASSES, features))
    points = {
        f"layer {i}": (
            ("item", "feature"),
            (rng.normal(size=(items, features)) + (0.02 + 0.08 * i / layers) * table[label]).astype(np.float32),
        )
        for i in range(layers)
    }
    names = np.asarray(["red", "green", "blue", "yellow", "purple", "cyan"])[label]
    return xr.Dataset(points, coords={"color": ("item", names), "image": ("item", np.arange(items) // 2)})


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _child(send: Any, work: Callable[..., dict[str, Any]], arguments: tuple[Any, ...]) -> None:
    send.send(work(*arguments))


def _apart(work: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """What `work` returns, run in a fresh process."""
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(send, work, arguments))
    process.start()
    send.close()
    try:
        return receive.recv()
    finally:
        process.join()


def probe(solver: str, layers: int, items: int, features: int, device: str) -> dict[str, Any]:
    """Seconds, growth of the process and scores of probing so many layers."""
    from vlm_probe.embedding import probe_layers

    data = _data(layers, items, features)
    warm = data.isel(item=slice(0, 120)).map(lambda a: a[:, :7])
    probe_layers(warm, ["color"], solver=solver, device=device, folds=2)
    before = _peak()
    # As in measure.interleaved: other programs count little in the processor's time.
    clock = time.perf_counter if device == "cuda" else time.process_time
    start = clock()
    table = probe_layers(data, ["color"], solver=solver, device=device)
    seconds = clock() - start
    grown = _peak() - before
    if device == "cuda":
        grown = torch.cuda.max_memory_allocated()
    return {"seconds": seconds, "bytes": grown, "scores": table["score"].tolist(), "layers": layers}


def nearest(rows: int, vectors: int, features: int, device: str) -> dict[str, Any]:
    """Seconds and memory of `nearest_rows`, and the bytes of the dense way: all comparisons and the rows in float32."""
    from vlm_probe.embedding import nearest_rows

    generator = torch.Generator().manual_seed(0)
    table = torch.empty(rows, features, dtype=torch.bfloat16)
    for part in table.split(8192):
        part.copy_(torch.randn(part.shape, generator=generator))
    v = torch.randn(vectors, features, generator=generator)
    table, v = table.to(device), v.to(device)
    nearest_rows(v[:2], table[:9000], k=5)
    out: dict[str, Any] = {"dense_bytes": 4 * rows * (vectors + features)}
    for metric in ("cosine", "euclidean"):
        start = time.perf_counter()
        nearest_rows(v, table, k=5, metric=metric)
        if device == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            held = torch.cuda.memory_allocated()
            nearest_rows(v, table, k=5, metric=metric)
            grown = torch.cuda.max_memory_allocated() - held
        else:
            grown = peak_bytes(partial(nearest_rows, v, table, k=5, metric=metric))
        out[metric] = {"seconds": seconds, "bytes": grown}
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description="Time and memory of probes and nearest tokens.")
    parser.add_argument("--layers", type=int, default=20)
    parser.add_argument("--items", type=int, default=2000)
    parser.add_argument("--features", type=int, default=2048)
    parser.add_argument("--loop-layers", type=int, default=2, help="layers of the scikit-learn loop")
    parser.add_argument("--rows", type=int, default=256_000)
    parser.add_argument("--vectors", type=int, default=576)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out")
    arguments = parser.parse_args()
    size = (arguments.items, arguments.features)
    ours = _apart(probe, "torch", arguments.layers, *size, arguments.device)
    loop = _apart(probe, "sklearn", arguments.loop_layers, *size, "cpu")
    each = ours["seconds"] / ours["layers"], loop["seconds"] / loop["layers"]
    # Layers differ in how much they tell: the same ones are compared.
    scores = _apart(probe, "torch", arguments.loop_layers, *size, arguments.device)["scores"]
    result = {
        "shape": {"layers": arguments.layers, "items": size[0], "features": size[1]},
        "what": "seconds a layer of probe_layers over those of a plain scikit-learn loop",
        "probes": ours,
        "loop": loop,
        "nearest": {
            "rows": arguments.rows,
            "vectors": arguments.vectors,
            "features": size[1],
            **_apart(nearest, arguments.rows, arguments.vectors, size[1], arguments.device),
        },
    }
    row = {
        "task": "probes of every layer, nested cross-validation",
        "library": "vlm_probe",
        "against": "a loop of scikit-learn",
        "time": {"median": round(each[0] / each[1], 4)},
        "memory": round(ours["bytes"] / max(1, loop["bytes"]), 4),
        "difference": float(np.abs(np.subtract(scores, loop["scores"])).max()),
        "goals": {"time": 0.2},
    }
    nearest_row = {
        "task": f"nearest of {arguments.rows:,} tokens for {arguments.vectors} vectors",
        "library": "vlm_probe",
        "against": "dense comparisons",
        "memory": round(result["nearest"]["cosine"]["bytes"] / result["nearest"]["dense_bytes"], 4),
        "goals": {"memory": 0.1},
    }
    record("probes", {**result, "rows": [row, nearest_row]}, arguments.out)


if __name__ == "__main__":
    main()
