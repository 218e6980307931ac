"""A shard's values: batches through the model, the rows that are kept picked where they are, one shard in memory."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from vlm_probe.errors import VlmProbeError, VlmProbeWarning
from vlm_probe.hooked.anatomy import is_pooled, patches_of, whole_pictures
from vlm_probe.items.datasets import Items
from vlm_probe.store.picking import Pick, pooled
from vlm_probe.store.places import Place
from vlm_probe.store.preparing import Entry, Ready, batches_of, entry_of, make_ready, out_of_memory, running_ahead
from vlm_probe.store.records import Commit, StoreAbout
from vlm_probe.store.shards import write_shard

POSITION, TOKEN, PATCH = "sequence_position", "token_id", "patch_number"
"""Arrays beside the values, where an item's rows are not all of one grid: the position of each in the unpadded prompt,
its token, the number of each patch in the grid, row by row. -1: none."""


class _EnoughError(Exception):
    """Raised by the last point that is kept: nothing behind it needs to be computed."""


@torch.no_grad()
def run_kept(model: Any, inputs: Any, names: Sequence[str], keep: Callable[[str, Tensor], Tensor]) -> dict[str, Tensor]:
    """What `keep` makes of the activations of some points; the model is run no further than the last of them.

    names: in the order in which they fire. Raises VlmProbeError for one that did not.
    """
    kept: dict[str, Tensor] = {}

    def at(x: Tensor, hook: Any) -> None:
        name = str(hook.name)
        kept[name] = keep(name, x.detach())
        if name == names[-1] and len(kept) == len(names):
            raise _EnoughError

    with suppress(_EnoughError):
        model.run_with_hooks(inputs, fwd_hooks=[(name, at) for name in names], logits_to_keep=1)
    if missing := [name for name in names if name not in kept]:
        raise VlmProbeError(f"{missing[0]} did not fire")
    return kept


@dataclass
class _Block:
    """A shard that is being filled."""

    number: int
    entries: list[Entry]
    arrays: dict[str, np.ndarray]

    def at(self, entry: Entry) -> int:
        return entry.number - self.entries[0].number


class ShardWorker:
    """Does shards, by their numbers: reads their items, runs them, writes what is kept. Doing one again is harmless.

    readers: threads that open pictures. strict: an item that fails is an error.
    """

    def __init__(
        self,
        model: Any,
        items: Items,
        about: StoreAbout,
        place: Place,
        *,
        batch_size: int,
        strict: bool = False,
        readers: int = 2,
    ):
        self.model, self.items, self.about, self.place = model, items, about, place
        self.batch_size, self.strict, self.readers = batch_size, strict, readers
        self.pick = Pick.of(about.fingerprint["positions"])
        self.points: list[str] = list(about.fingerprint["points"])
        self.widest = max((shape[1] for shape in (a.shape for a in about.arrays.values()) if len(shape) > 2), default=1)
        grid = about.fingerprint["grid"]
        self.grid: tuple[int, int] | None = None if grid is None else (int(grid[0]), int(grid[1]))

    def __call__(self, number: int) -> Commit:
        return next(self.run([number]))

    def run(self, numbers: Sequence[int]) -> Iterator[Commit]:
        """Shards one after the other: while one is run the next is read, and the one before is written."""
        writer = ThreadPoolExecutor(1, thread_name_prefix="vlm-probe-writer")
        written: list[Future[Commit]] = []
        try:
            with running_ahead(numbers, self._plan, self._ready, readers=self.readers) as shards:
                for number, entries, batches in shards:
                    block = _Block(number, entries, self._empty(entries))
                    pending: list[Future[None]] = []
                    for ready in batches:
                        for part, kept, where in self._kept(ready):
                            pending.append(writer.submit(self._put, block, part, kept, where))
                            pending = _short(pending)
                    for one in pending:
                        one.result()
                    self._check_strict(block)
                    written.append(writer.submit(self._write, block))
                    while len(written) > 1:
                        yield written.pop(0).result()
            while written:
                yield written.pop(0).result()
        finally:
            writer.shutdown(wait=True, cancel_futures=True)

    def _plan(self, number: int) -> tuple[list[Entry], list[list[Entry]]]:
        entries = [entry_of(self.model, self.items, index) for index in self.about.span(number)]
        return entries, batches_of(entries, self.batch_size)

    def _ready(self, entries: list[Entry]) -> Ready:
        return make_ready(self.model, entries, self.grid)

    def _empty(self, entries: list[Entry]) -> dict[str, np.ndarray]:
        made = {}
        for name, array in self.about.arrays.items():
            made[name] = np.full((len(entries), *array.shape[1:]), array.fill, dtype=array.dtype)
        return made

    def _check_strict(self, block: _Block) -> None:
        failed = [entry for entry in block.entries if entry.error]
        if failed and self.strict:
            raise VlmProbeError(f"item {failed[0].row['id'] or failed[0].number}: {failed[0].error} (strict)")

    # --- running a batch ----------------------------------------------------------------------

    def _kept(self, ready: Ready) -> Iterator[tuple[list[Entry], dict[str, Tensor], dict[str, list[np.ndarray]]]]:
        """What is kept of a batch, in one piece, or in several where memory does not suffice for one."""
        entries = ready if ready.too_many else self._placed(ready)
        if entries is None or not entries.entries:
            return
        if not entries.too_many:
            try:
                yield self._run(entries)
                return
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        if len(entries.entries) == 1:
            entries.entries[0].fail("it does not fit into memory, alone in its batch")
            return
        half = len(entries.entries) // 2
        if half < self.batch_size:
            self.batch_size = half
            said = f"out of memory with {len(entries.entries)} items at once: going on with {half}"
            warnings.warn(said, VlmProbeWarning, stacklevel=2)
        for part in (entries.entries[:half], entries.entries[half:]):
            yield from self._kept(make_ready(self.model, part, self.grid))

    def _placed(self, ready: Ready) -> Ready | None:
        """The batch without the items that have none of the positions that are kept; those say so."""
        if ready.inputs is None:
            return None
        for entry, layout in zip(ready.entries, ready.inputs.layouts, strict=True):
            assert entry.item is not None
            try:
                places = self.pick.places(layout, entry.item)
                if not (self.pick.single or self.pick.whole_image) and len(places) > self.widest:
                    raise VlmProbeError(f"{len(places)} positions are more than the {self.widest} that were counted")
                if self.pick.mean:
                    self.pick.weights(layout, entry.item, places, len(places))
            except VlmProbeError as error:
                entry.fail(error)
        left = [entry for entry in ready.entries if not entry.error]
        return ready if len(left) == len(ready.entries) else make_ready(self.model, left, self.grid)

    def _run(self, ready: Ready) -> tuple[list[Entry], dict[str, Tensor], dict[str, list[np.ndarray]]]:
        """Values by point, on the device, the rows of all items one behind the other; and where each item's go."""
        assert ready.inputs is not None
        inputs = ready.inputs.to(self.model.device, self.model.dtype)
        layouts = ready.inputs.layouts
        items: list[Any] = [entry.item for entry in ready.entries]
        places = [self.pick.places(*pair) for pair in zip(layouts, items, strict=True)]
        counts: dict[str, list[np.ndarray]] = {}

        def keep(name: str, x: Tensor) -> Tensor:
            if not name.startswith("language.") and len(x) != len(layouts):
                x = x[whole_pictures(layouts)]  # tiles stand among them
            if self.pick.where != "all" and is_pooled(name, layouts):
                x = patches_of(name, x, layouts)
            rows = [self.pick.rows(name, *each, x.shape[1]) for each in zip(layouts, items, places, strict=True)]
            counts[name] = rows
            if not self.pick.mean:
                return pooled(x, rows, None)
            each = zip(layouts, items, places, map(len, rows), strict=True)
            return pooled(x, rows, [self.pick.weights(*one) for one in each])

        kept = run_kept(self.model, inputs, self.points, keep)
        where = {name: [np.arange(len(own)) for own in rows] for name, rows in counts.items()}
        self._describe(ready, inputs.input_ids.cpu().numpy(), places, where)
        return ready.entries, kept, where

    def _describe(
        self, ready: Ready, ids: Int[np.ndarray, "item position"], places: list[np.ndarray], where: dict[str, Any]
    ) -> None:
        """Where the rows stand, and which tokens they are, for the arrays beside the values."""
        assert ready.inputs is not None
        padding = (ready.inputs.attention_mask == 0).sum(1).tolist()
        for row, entry in enumerate(ready.entries):
            entry.row["tokens"] = int(ids.shape[1] - padding[row])
        if POSITION in self.about.arrays:
            where[POSITION] = [own - before for own, before in zip(places, padding, strict=True)]
            where[TOKEN] = [ids[row, own] for row, own in enumerate(places)]
        if PATCH in self.about.arrays:
            spans = [layout.image().positions for layout in ready.inputs.layouts]
            where[PATCH] = [np.searchsorted(span, own) for span, own in zip(spans, places, strict=True)]

    # --- in the writer's thread ---------------------------------------------------------------

    def _put(
        self, block: _Block, entries: list[Entry], kept: dict[str, Tensor], where: dict[str, list[np.ndarray]]
    ) -> None:
        """A batch's values into the shard; an item with values that are no numbers, or too large, has none."""
        values = {name: x.cpu().float().numpy() for name, x in kept.items()}
        for name, found in values.items():
            with np.errstate(over="ignore"):
                stored = found.astype(self.about.arrays[name].dtype, copy=False)
            fine = np.asarray(np.isfinite(stored).reshape(len(stored), -1).all(axis=1))
            start = 0
            for entry, own in zip(entries, where[name], strict=True):
                stop = start + (1 if self.pick.mean else len(own))
                if not entry.error and not fine[start:stop].all():
                    narrow = bool(np.isfinite(found[start:stop]).all())
                    entry.fail(f"{name} has {'values beyond float16; store float32' if narrow else NOT_NUMBERS}")
                start = stop
            values[name] = stored
        for name, found in values.items():
            start = 0
            for entry, own in zip(entries, where[name], strict=True):
                stop = start + (1 if self.pick.mean else len(own))
                if not entry.error:
                    self._set(block, name, entry, found[start:stop])
                start = stop
        for name in (POSITION, TOKEN, PATCH):
            for entry, own in zip(entries, where.get(name, []), strict=False):
                if not entry.error:
                    self._set(block, name, entry, own)

    def _set(self, block: _Block, name: str, entry: Entry, rows: np.ndarray) -> None:
        own = block.arrays[name][block.at(entry)]
        if self.pick.single or self.pick.whole_image:
            own[...] = rows.reshape(own.shape)
        else:
            own[: len(rows)] = rows

    def _write(self, block: _Block) -> Commit:
        for entry in block.entries:  # of one that failed in its last point, what came before
            if entry.error:
                for name, values in block.arrays.items():
                    values[block.at(entry)] = self.about.arrays[name].fill
        return write_shard(self.place, self.about, block.number, block.arrays, [entry.row for entry in block.entries])


NOT_NUMBERS = "values that are not numbers (NaN or infinite)"


def _short(pending: list[Future[None]]) -> list[Future[None]]:
    """Those that are not done; at most two, so that a slow writer holds the model up and not the memory."""
    while len(pending) > 2:
        pending.pop(0).result()
    return pending
