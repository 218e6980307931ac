"""Capturing a dataset: items a second against the bare forward pass, bytes against the values' own, memory over time.

    python benchmarks/capture.py [--items 96] [--repeats 5] [--many 20000] [--layers 10] [--no-ray] [--out capture]

"forward" runs batches that are in memory already, of the same items in the same order, and keeps nothing: what a GPU
would be busy with. "capture" decodes picture files, runs them, and writes the pooled residual stream of every layer as
a store. "one by one" is how a cache is written without batches and shards (as vlm-lens' documentation tells): an
image at a time, a row with a pickled tensor a layer in SQLite, committed each time.
One thread computes, another reads and writes; give `--device cuda` for a GPU. `--many` items of a miniature run in a
process of their own, whose memory is compared between the first tenth and the end.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from measure import interleaved, ratio, record
from shared_prefix import LAYERS, SIDE, build

from vlm_probe.errors import VlmProbeError
from vlm_probe.items import Item
from vlm_probe.scenes import scene_items
from vlm_probe.store import capture
from vlm_probe.store.preparing import batches_of, entry_of, make_ready, picture_of

POINTS = ("vision.blocks.*.hook_resid_post", "connector.hook_out", "language.blocks.*.hook_resid_post")
BATCH = 8


def on_disk(items: list[Item], folder: Path) -> list[Item]:
    """The items with their pictures as PNG files."""
    found = []
    for number, item in enumerate(items):
        picture: Any = item.picture(SIDE)
        picture.save(folder / f"{number}.png")
        found.append(replace(item, source=folder / f"{number}.png"))
    return found


def forward(model: Any, ready: list[Any]) -> None:
    with torch.no_grad():
        for inputs in ready:
            model(inputs, logits_to_keep=1)


def one_by_one(model: Any, items: list[Item], names: list[str], file: Path) -> None:
    """A commit an image, a pickled tensor a row."""
    file.unlink(missing_ok=True)
    with sqlite3.connect(file) as base:
        base.execute("CREATE TABLE tensors (layer TEXT, image TEXT, tensor BLOB)")
        for item in items:
            inputs = model.prepare(picture_of(model, item), item.question)
            with torch.no_grad():
                _, cache = model.run_with_cache(inputs, names_filter=names, logits_to_keep=1)
            for name in names:
                blob = io.BytesIO()
                torch.save(cache[name].mean(1), blob)
                base.execute("INSERT INTO tensors VALUES (?, ?, ?)", (name, item.image, blob.getvalue()))
            base.commit()


MANY = """
import json, sys, psutil, shutil, tempfile
import vlm_probe
from vlm_probe.scenes import scene_items
from vlm_probe.store import capture

class Scenes:
    # Drawn when they are asked for, a hundred at a time, so that the list itself takes no memory.
    def __init__(self, n): self.n, self.block, self.at = n, [], -1
    def __len__(self): return self.n
    def __getitem__(self, i):
        if i // 100 != self.at:
            self.at = i // 100
            self.block = list(scene_items(100, seed=self.at))
        return self.block[i % 100]

n, held, done = int(sys.argv[1]), [], [0]
def watch(k):
    done[0] += k
    held.append((done[0], psutil.Process().memory_info().rss))
model = vlm_probe.load("replica/small-clip", device="cpu")
with tempfile.TemporaryDirectory() as folder:
    points = "language.blocks.*.hook_resid_post"
    found = capture(model, Scenes(n), points, folder + "/s", shard_items=200, progress=watch)
early, most = max(rss for k, rss in held if k <= n // 10), max(rss for k, rss in held)
print(json.dumps({"items": n, "failed": found.failed, "seconds": round(found.seconds, 1),
                  "memory_at_a_tenth_mb": round(early / 2**20, 1), "memory_at_most_mb": round(most / 2**20, 1),
                  "grows_by": round(most / early - 1, 4)}))
"""


def actors(items: int) -> dict[str, float]:
    """Seconds of a capture by one actor of Ray and by two, starting the cluster and opening the models included."""
    took = {}
    for n in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            command = [
                sys.executable,
                "-m",
                "vlm_probe",
                "capture",
                str(items),
                "--out",
                f"{folder}/s",
                "--engine",
                "ray",
            ]
            command += ["--actors", str(n), "-m", "replica/small-clip", "--shard-items", "50"]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            took[f"{n} actors"] = float(done.stdout.split(" in ")[-1].split(" s")[0])
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--many", type=int, default=20_000)
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--no-ray", action="store_true")
    parser.add_argument("--out")
    arguments = parser.parse_args()
    if arguments.items % BATCH:
        raise VlmProbeError(f"--items must be a multiple of {BATCH}")
    torch.set_num_threads(1)
    model = build(arguments.layers).to(arguments.device)
    names = model.match(list(POINTS))
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        items = on_disk(list(scene_items(arguments.items, seed=4)), folder)
        entries = [entry_of(model, items, number) for number in range(len(items))]
        grid = model.inputs.see(picture_of(model, items[0])).grid
        ready: list[Any] = [make_ready(model, batch, grid).inputs for batch in batches_of(entries, BATCH)]
        ready = [inputs.to(model.device, model.dtype) for inputs in ready]
        out = folder / "store"

        def whole() -> None:
            shutil.rmtree(out, ignore_errors=True)
            capture(model, items, names, out, batch_size=BATCH, shard_items=len(items))

        variants: dict[str, Callable[[], object]] = {
            "forward": lambda: forward(model, ready),
            "capture": whole,
            "one by one": lambda: one_by_one(model, items, names, folder / "tensors.db"),
        }
        times = interleaved(variants, arguments.repeats, clock=time.perf_counter)
        raw = sum(4 * values for values in widths(out)) * len(items)
        results: dict[str, Any] = {
            "items": len(items),
            "batch": BATCH,
            "points": len(names),
            "parameters": sum(p.numel() for p in model.hf.parameters()),
            "items_per_second": {
                name: round(len(items) / sorted(own)[len(own) // 2], 2) for name, own in times.items()
            },
            "bytes": {
                "values": raw,
                "store": sum(path.stat().st_size for path in out.rglob("*") if path.is_file()),
                "one by one": (folder / "tensors.db").stat().st_size,
            },
        }
    if arguments.many:
        command = [sys.executable, "-c", MANY, str(arguments.many)]
        ran = subprocess.run(command, check=True, capture_output=True, text=True)
        results["many"] = json.loads(ran.stdout.splitlines()[-1])
    if not arguments.no_ray:
        results["ray_seconds"] = actors(2000)
    results["rows"] = [
        {
            "task": "all residual streams of a dataset to disk",
            "library": "vlm_probe",
            "against": base,
            "time": ratio(times, "capture", base),
            "goals": goals,
        }
        for base, goals in (("forward", {"time": 1.05}), ("one by one", {"time": 1.0}))
    ]
    record("capture", results, arguments.out)


def widths(store: Path) -> list[int]:
    """Features of every point of a store."""
    from vlm_probe.store import open_store

    return [values.shape[-1] for values in open_store(store).data_vars.values()]


if __name__ == "__main__":
    main()
