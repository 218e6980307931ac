"""What the benchmarks share: interleaved timing, peak memory, agreement between ways, and the record."""

from __future__ import annotations

import inspect
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

RESULTS = Path(__file__).parent / "results"
PINNED = (*("vlm-probe", "torch", "transformers", "transformer-lens"), *("nnsight", "pyvene", "captum", "scikit-learn"))
MIB = 2**20


@dataclass
class Way:
    """One way to do a task: with a library, or by hand."""

    run: Callable[[], Any]
    """What is timed. Returns what the ways must agree in: a tensor, or several; None where there is nothing."""
    written: Callable | None = None
    """The function whose lines count: its body, from the first statement on. None: nothing was written for it."""


@dataclass
class Task:
    """The same thing done in several ways, each against one of them."""

    what: str
    ways: dict[str, Way]
    """By library, or by what it is; the first is what all are held against."""
    goals: dict[str, float] = field(default_factory=dict)
    """Of vlm_probe: "time" and "memory" (ratios to the first way) and "upper" (of time, the upper quartile)."""
    agree: float = 1e-3
    """Largest difference between what the ways give, or the benchmark stops."""


def measure(task: Task, repeats: int, *, clock: Callable[[], float] | None = None) -> list[dict[str, Any]]:
    """A row a way: agreement first, then interleaved times, then the peak of memory.

    Times are ratios to the task's first way: the median of the repeats' ratios, with quartiles. Memory is what tensors
    held at most beyond what they held before, in MiB, and its ratio.

    Raises SystemExit where the ways do not agree, which are then not the same task.
    """
    base = next(iter(task.ways))
    given = {name: _tensors(way.run()) for name, way in task.ways.items()}
    apart = {name: _difference(own, given[base]) for name, own in given.items()}
    for name, value in apart.items():
        if value is not None and not value <= task.agree:
            raise SystemExit(f"{task.what}: {name} is {value:.2g} from {base}, more than {task.agree:.2g}")
    del given
    times = interleaved({name: way.run for name, way in task.ways.items()}, repeats, clock=clock)
    peaks = {name: peak_bytes(way.run) for name, way in task.ways.items()}
    rows = []
    for name, way in task.ways.items():
        row: dict[str, Any] = {"task": task.what, "library": name, "against": base}
        row["time"] = ratio(times, name, base)
        row["seconds"] = round(statistics.median(times[name]), 5)
        row["peak_mib"] = round(peaks[name] / MIB, 2)
        row["memory"] = round(peaks[name] / peaks[base], 4) if peaks[base] else None
        row["difference"] = apart[name]
        row["lines"] = None if way.written is None else lines_of(way.written)
        row["goals"] = task.goals if name == "vlm_probe" else {}
        rows.append(row)
        said = f"{row['time']['median']:.3f} of {base}, {row['peak_mib']} MiB"
        print(f"{task.what}: {name} {said}", file=sys.stderr, flush=True)
    return rows


def _tensors(given: Any) -> list[torch.Tensor]:
    found = given if isinstance(given, (list, tuple)) else [given]
    return [x.detach().float().cpu().clone() for x in found if isinstance(x, torch.Tensor)]


def _difference(own: list[torch.Tensor], base: list[torch.Tensor]) -> float | None:
    """Largest absolute difference; infinite where they are not of one shape."""
    if not own:
        return None
    if [x.shape for x in own] != [x.shape for x in base]:
        return float("inf")
    return max(float((a - b).abs().max()) for a, b in zip(own, base, strict=True))


def lines_of(written: Callable) -> int:
    """Lines of a function's body that hold code."""
    body = inspect.getsource(written).strip().splitlines()[1:]
    return len([line for line in body if line.strip() and not line.strip().startswith(("#", '"""'))])


def interleaved(
    variants: dict[str, Callable[[], object]], repeats: int, *, clock: Callable[[], float] | None = None
) -> dict[str, list[float]]:
    """Seconds of every variant, one run each in turn, so that a busy spell hits all alike.

    clock: by default what the processor spent on this process, which other programs count little in; on a GPU the
    clock on the wall, which is also what to give where a variant waits (for a disk, for other processes).
    """
    clock = clock or (time.perf_counter if torch.cuda.is_available() else time.process_time)
    for run in variants.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(repeats):
        # Back and forth: whatever runs behind another finds its caches.
        for name in list(variants)[:: 1 if turn % 2 == 0 else -1]:
            _synchronize()
            start = clock()
            variants[name]()
            _synchronize()
            times[name].append(clock() - start)
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
    """Most bytes that tensors held at once during a run, beyond what was held before (GPU, or else CPU allocator)."""
    run()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
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


def machine() -> str:
    """A name for this machine's record: its GPU's, or else its processor's and how many cores it has."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{processor()} {os.cpu_count()} cores"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def record(section: str, results: dict[str, Any], out: str | None = None) -> Path:
    """Write a section of a machine's record, with hardware, versions and the command, and print it.

    out: name of the record in `results/`, or a path without ".json"; by default the machine's.
    """
    versions = {"python": platform.python_version()}
    for package in PINNED:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    hardware: dict[str, Any] = {"processor": f"{processor()} x {os.cpu_count()}", "threads": torch.get_num_threads()}
    if torch.cuda.is_available():
        hardware["gpu"] = torch.cuda.get_device_name()
    command = " ".join(["python", os.path.relpath(sys.argv[0], RESULTS.parents[1]), *sys.argv[1:]])
    made = {"command": command, "commit": commit(), "hardware": hardware, "versions": versions}
    path = RESULTS / f"{out or machine()}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    held = json.loads(path.read_text()) if path.exists() else {}
    held[section] = {**made, **results}
    path.write_text(json.dumps(dict(sorted(held.items())), indent=1) + "\n")
    print(json.dumps(held[section], indent=1))
    return path


def commit() -> str:
    """The checkout's; "" where it is none."""
    asked = ["git", "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(asked, cwd=RESULTS.parent, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()
