"""What the benchmarks share: interleaved timing, peak memory on CPU and GPU, and the record."""

from __future__ import annotations

import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

RESULTS = Path(__file__).parent / "results"


def interleaved(variants: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of every variant, one run each in turn, so that a busy spell hits all alike."""
    for run in variants.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(repeats):
        for name, run in variants.items():
            _synchronize()
            start = time.perf_counter()
            run()
            _synchronize()
            times[name].append(time.perf_counter() - start)
    return times


def ratio(times: dict[str, list[float]], variant: str, base: str) -> dict[str, float]:
    """Median of the paired ratios of one repeat each, with the quartiles."""
    pairs = [a / b for a, b in zip(times[variant], times[base], strict=True)]
    low, middle, high = statistics.quantiles(pairs, n=4)
    return {"median": round(middle, 4), "q25": round(low, 4), "q75": round(high, 4)}


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_bytes(run: Callable[[], object]) -> int:
    """Most bytes that tensors held at once during a run, beyond what was held before (CPU allocator)."""
    run()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as prof:
        kept = run()
    del kept
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        prof.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    memory = sorted((e for e in events if e.get("name") == "[memory]"), key=lambda e: e["ts"])
    held = peak = 0
    for event in memory:
        held += event["args"]["Bytes"]
        peak = max(peak, held)
    return peak


def record(name: str, results: dict[str, Any]) -> Path:
    """Write a result with hardware and versions, and print it."""
    versions = {"python": platform.python_version()}
    for package in ("vlm-probe", "torch", "transformers", "transformer-lens", "nnsight"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    hardware: dict[str, Any] = {"processor": _processor(), "threads": torch.get_num_threads()}
    if torch.cuda.is_available():
        hardware["gpu"] = torch.cuda.get_device_name()
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"hardware": hardware, "versions": versions, **results}, indent=1) + "\n")
    print(path.read_text())
    return path


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return f"{names[0]} x {len(names)}" if names else platform.processor()
