"""`capture`: activations of many items into a store, which a killed run goes on with, and which loses nothing."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import psutil

from vlm_probe.errors import VlmProbeError, VlmProbeWarning
from vlm_probe.hooked import HookedVLM
from vlm_probe.items.datasets import Items
from vlm_probe.opening import load as open_model
from vlm_probe.running.scheduling import Engine, run_shards
from vlm_probe.store.checking import changed_pictures
from vlm_probe.store.computing import ShardWorker
from vlm_probe.store.describing import describe, human, stated
from vlm_probe.store.places import Place, place
from vlm_probe.store.reading import commits_of, errors_of, write_manifest
from vlm_probe.store.records import STORE, Commit, StoreAbout
from vlm_probe.store.shards import metadata

Model = str | HookedVLM


@dataclass
class Captured:
    """What a capture came to."""

    path: str
    items: int
    failed: int
    """Items that could not be captured, of all runs."""
    done: int
    """Items that this run did, failed ones included; the others were there already."""
    seconds: float
    errors: pd.DataFrame = field(repr=False)
    """A row a failed item: number, id, image, error."""


def capture(
    model: Model,
    items: Items,
    points: str | Sequence[str],
    out: str | Path | Place,
    *,
    positions: str = "mean",
    dtype: str = "float32",
    shard_items: int | None = None,
    batch_size: int = 16,
    strict: bool = False,
    anyway: bool = False,
    readers: int = 2,
    engine: Engine | None = None,
    load: Callable[[str], HookedVLM] = open_model,
    storage_options: Mapping[str, Any] | None = None,
    told: Callable[[str], None] = lambda text: None,
    progress: Callable[[int], None] = lambda n: None,
) -> Captured:
    """Run items through a model and keep what some hook points give, as Zarr that `open_store` and xarray read.

    A run that was killed, at any moment, goes on where it stopped when it is called again with the same arguments, and
    ends with the same bytes as one that was not; an item is never done twice. One writer at a time.

    Parameters
    ----------
    model: a model, or the name of one (which `load` opens). engine "ray" takes a name.
    items: each with one image; a list, or a lazy sequence (`items.open_dataset`), of which a shard at a time is read.
    points: hook names or globs, of points with a feature vector a position.
    out: a local folder, or any URL that fsspec knows (s3://...). A store of other arguments is refused.
    positions: a group or a combination of groups (`layout.groups`): "all", "image", "answer", "box", "box | answer"
        ..., or "mean" (over the image's patches, as `embedding.features` pools) and "mean(question)", "mean(box)" (by
        how much of each patch the first box covers), "mean(other)". Rows that an item does not have are NaN.
    dtype: "float32" loses nothing of what a model in half precision computes; "float16" takes half of it. An item with
        values beyond float16 fails.
    shard_items: items that are written, and lost by a kill, together; None: so many that a shard takes up to 128 MB.
    batch_size: items run at once, those of like length together. Halved, with a warning, where memory does not suffice:
        then alone may the last bits differ from those of another run.
    strict: the first item that fails is an error; else it is in `Captured.errors`, and all go on.
    anyway: begin though the disk may not have room.
    readers: threads that open pictures while the model runs.
    storage_options: for fsspec.
    told: called with lines for people: what it will take, and after the first shard how long. progress: with the number
        of items just done (those that were there already first).

    Returns
    -------
    `Captured`. The model is run no further than the last point that is kept.

    Raises
    ------
    VlmProbeError: two items of one id; points or positions there are none of; no item that can be captured; a folder
        with another store, or of another writer; pictures that changed since they were captured; a disk that is full,
        or would be.
    """
    began = time.monotonic()
    engine = engine or Engine()
    if readers < 1:
        raise VlmProbeError(f"there must be 1 reader or more, got {readers}")
    where = place(out, storage_options=storage_options)
    opened = load(model) if isinstance(model, str) else model
    if engine.name != "local" and not isinstance(model, str):
        raise VlmProbeError(f"with the engine {engine.name} a model is given by its name: each worker opens its own")
    names = opened.match(points if isinstance(points, str) else list(points), image=opened.vision_config is not None)
    about = describe(
        opened, items, names, positions=positions, dtype=dtype, shard_items=shard_items, batch_size=batch_size
    )
    told(stated(about))
    _refuse_foreign(where, about)
    with where.lock() as held:
        about, there = take_up(where, about)
        if gone := changed_pictures(where, there, items, about):
            raise VlmProbeError(
                f"pictures changed since they were captured into {where.url}: {len(gone)}, the first is {gone[0][1]!r};"
                " vlm-probe store repair --data drops their shards, which are then done again"
            )
        todo = [number for number in range(about.shards) if number not in there]
        _check_room(where, about, todo, anyway)
        progress(sum(commit.items for commit in there.values()))
        watch = _Watch(about, len(todo), told, progress, there, held)
        options: dict[str, Any] = {"batch_size": batch_size, "strict": strict, "readers": readers}
        if todo and engine.name == "local":
            for commit in ShardWorker(opened, items, about, where, **options).run(todo):
                watch(commit.shard, commit)
        elif todo:
            del opened
            run_shards(
                todo, partial(_worker, load, str(model), where, about, items, options), engine=engine, done=watch
            )
        write_manifest(where, about, there)
    table = errors_of(where, about, there)
    return Captured(
        where.url, about.items, len(table), sum(there[n].items for n in todo), time.monotonic() - began, table
    )


def _worker(
    load: Callable[[str], HookedVLM],
    model: str,
    where: Place,
    about: StoreAbout,
    items: Items,
    options: Mapping[str, Any],
) -> ShardWorker:
    """What does shards in a process of its own."""
    opened = load(model)
    if (here := opened.provenance()["dtype"]) != (there := about.provenance["dtype"]):
        raise VlmProbeError(f"{model} is {here} here and {there} where the capture was begun; name one (--dtype)")
    if opened.weights_digest() != about.fingerprint["weights"]:
        raise VlmProbeError(f"{model} has other weights here than where the capture was begun")
    return ShardWorker(opened, items, about, where, **options)


def _refuse_foreign(where: Place, about: StoreAbout) -> None:
    """VlmProbeError for a folder of something else."""
    ours = set(about.metadata_names)
    if where.size(STORE) is None and (others := [name for name in where.names() if name not in ours]):
        raise VlmProbeError(
            f"{where.url} holds {others[0]!r} and no store; give a folder of its own, which need not be there yet"
        )


def take_up(where: Place, about: StoreAbout) -> tuple[StoreAbout, dict[int, Commit]]:
    """Begin a store, or go on with one that is the same: what it is, as it was first described, and its shards.

    Raises VlmProbeError where a store of something else is.
    """
    try:
        before = where.read(STORE)
    except FileNotFoundError:
        # Zarr's own files first: where store.json is, a reader finds all of them.
        for name, data in metadata(about).items():
            where.put(name, data)
        where.put(STORE, about.written())
        return about, {}
    held = StoreAbout.read(before, where.url)
    # The model's name may differ, which is a path as often as not: its weights are the same.
    if replace(held, provenance=about.provenance).written() == about.written():
        for name in where.partials():  # of writers that were killed: the lock is ours
            where.remove(name)
        return held, commits_of(where, held)
    ours, theirs = about.fingerprint, held.fingerprint
    other = [name for name in ours if theirs.get(name) != ours[name]]
    if held.shard_items != about.shard_items:
        other.append("shard_items")
    told = ", ".join(
        f"{name} ({_short(theirs.get(name))}, now {_short(ours.get(name))})" for name in other if name in ours
    )
    raise VlmProbeError(f"{where.url} is a store of another {told or 'shape'}; give another folder, or delete it")


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _check_room(where: Place, about: StoreAbout, todo: Sequence[int], anyway: bool) -> None:
    """VlmProbeError where the disk, or the memory, would not hold what comes."""
    need = about.item_bytes * sum(len(about.span(number)) for number in todo)
    free = where.free()
    if free is not None and need > free and not anyway:
        raise VlmProbeError(
            f"it takes up to {human(need)} and {human(free)} are free at {where.url}; keep fewer points or positions, "
            "float16, or go on with anyway=True (--anyway): what is done stays when the disk is full"
        )
    shard, memory = about.item_bytes * about.shard_items, psutil.virtual_memory().available
    if todo and 2 * shard > memory and not anyway:  # one is filled while the one before is written
        raise VlmProbeError(
            f"a shard of {about.shard_items} items takes {human(shard)}, {human(memory)} of memory are free; give a "
            "smaller shard_items (--shard-items)"
        )


class _Watch:
    """Hears of shards that are done, and says how long the rest will take."""

    def __init__(
        self, about: StoreAbout, todo: int, told: Callable[[str], None], progress: Callable[[int], None],
        there: dict[int, Commit], lock: Any,
    ):  # fmt: skip
        self.about, self.todo, self.told, self.progress, self.there = about, todo, told, progress, there
        self.lock, self.began, self.heard = lock, time.monotonic(), 0

    def __call__(self, number: int, commit: Commit) -> None:
        self.lock.check()
        self.there[number] = commit
        self.heard += 1
        self.progress(commit.items)
        if commit.failed == commit.items and self.heard == 1 and self.todo > 1:
            warnings.warn(
                f"all {commit.items} items of the first shard failed; see Captured.errors",
                VlmProbeWarning,
                stacklevel=2,
            )
        if self.heard in (1, 4) and self.heard < self.todo:
            took = time.monotonic() - self.began
            left = took / self.heard * (self.todo - self.heard)
            written = sum(about["bytes"] for one in self.there.values() for about in one.files.values())
            size = written / len(self.there) * self.about.shards
            self.told(
                f"{self.heard} of {self.todo} shards: about {_clock(left)} to go, {human(size)} on disk in the end"
            )


def _clock(seconds: int | float) -> str:
    """
    >>> _clock(50), _clock(600), _clock(90000)
    ('50 s', '10 min', '25.0 h')
    """
    return (
        f"{seconds:.0f} s"
        if seconds < 100
        else f"{seconds / 60:.0f} min"
        if seconds < 6000
        else f"{seconds / 3600:.1f} h"
    )
