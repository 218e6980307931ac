"""Items made ready to run while others do: pictures read and decoded, prompts encoded, batches of like length."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import Any, TypeVar

import torch
from PIL import Image

from vlm_probe.embedding.features import scene_labels
from vlm_probe.errors import VlmProbeError
from vlm_probe.files import DISK_ERRORS
from vlm_probe.inputs.images import MAX_BYTES, open_image
from vlm_probe.inputs.model_inputs import ModelInputs
from vlm_probe.items.datasets import Items
from vlm_probe.items.item import Item
from vlm_probe.running.protocol import Runs
from vlm_probe.store.shards import LABELS

T = TypeVar("T")
AHEAD = 3
"""Batches that are ready, or being made so, before they are run."""
_NEIGHBOURS = 8
"""Batches among whose items those of like length are put together."""


@dataclass
class Entry:
    """An item on its way through a shard."""

    number: int
    """Among all items."""
    item: Item | None
    """None where it could not be read."""
    tokens: int = 0
    """Positions of its text."""
    row: dict[str, Any] = field(default_factory=dict)
    """Its row of the item table."""

    @property
    def error(self) -> str:
        return self.row["error"]

    def fail(self, why: object) -> None:
        self.row["error"] = " ".join(str(why).split())[:1000] or type(why).__name__


@dataclass
class Ready:
    """Items that can be run together; those that cannot are told by their entries."""

    entries: list[Entry]
    inputs: ModelInputs | None
    """None where there is no item left, or too many for the memory."""
    too_many: bool = False


def entry_of(model: Runs, items: Items, number: int) -> Entry:
    """An item, its prompt's length and what its row says; an item that cannot be read says so in its row."""
    row: dict[str, Any] = {"number": number, "bytes": 0, "modified": 0, "tokens": 0, "error": "", "sha256": ""}
    row |= dict.fromkeys(("id", "image", "family", "kind", "question", "answer"), "")
    row |= dict.fromkeys((f"label_{name}" for name in LABELS), "")
    entry = Entry(number, None, 0, row)
    try:
        entry.item = item = items[number]
        row |= {name: getattr(item, name) for name in ("id", "image", "family", "kind", "question", "answer")}
        row |= {f"label_{name}": value for name, value in scene_labels(item).items()}
        ids, *_ = model.inputs.encode(item.question, [0] if model.vision_config is not None else [])
        entry.tokens = len(ids)
    except VlmProbeError as error:
        entry.fail(error)
    for name, value in row.items():
        try:
            str(value).encode()
        except UnicodeEncodeError:  # half of a surrogate pair, which JSON can spell
            row[name] = str(value).encode(errors="replace").decode()
            entry.fail(f"its {name} is no text that UTF-8 can hold")
    return entry


def batches_of(entries: Sequence[Entry], batch_size: int) -> list[list[Entry]]:
    """Entries without an error in batches, those of like length together: little padding.

    Among some batches' worth of neighbours: tables keep their pictures in groups, which would be read again and again.
    """
    fine, made = [entry for entry in entries if not entry.error], []
    for first in range(0, len(fine), _NEIGHBOURS * batch_size):
        near = sorted(fine[first : first + _NEIGHBOURS * batch_size], key=lambda e: (e.tokens, e.number))
        made += [near[start : start + batch_size] for start in range(0, len(near), batch_size)]
    return made


def stamp(item: Item) -> tuple[int, int]:
    """Bytes of the file that holds an item's picture, and when it was changed (ns); zeros for what is drawn."""
    source: Any = item.source
    path = source if isinstance(source, Path) else getattr(source, "file", None)
    return (0, 0) if path is None else file_stamp(Path(path))


def file_stamp(path: Path) -> tuple[int, int]:
    about = path.stat()
    return about.st_size, about.st_mtime_ns


def picture_of(model: Any, item: Item, row: dict[str, Any] | None = None) -> Image.Image:
    """An item's picture, read once: its row gets the digest of the file's bytes (of the pixels, where it is drawn).

    Raises VlmProbeError for a picture that is missing, too large or cannot be decoded.
    """
    row = {} if row is None else row
    held: Any = item.picture(model.image_size)
    try:
        if isinstance(held, Path) and not held.is_file():
            raise VlmProbeError(f"no image file at {str(held)!r}")
        row["bytes"], row["modified"] = stamp(item)
        if isinstance(held, Path):
            if row["bytes"] > MAX_BYTES:
                raise VlmProbeError(f"{held.name!r} is too large; at most {MAX_BYTES // 10**6} megabytes are read")
            held = held.read_bytes()
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        raise VlmProbeError(f"{item.image} cannot be read: {error.strerror}") from error
    if isinstance(held, bytes):
        row["sha256"] = sha256(held).hexdigest()
        named = io.BytesIO(held)
        named.name = item.image.rsplit("/", 1)[-1]  # what messages call it
        return open_image(named)
    picture = open_image(held)
    row["sha256"] = sha256(picture.tobytes()).hexdigest()
    return picture


def make_ready(model: Any, entries: list[Entry], grid: tuple[int, int] | None) -> Ready:
    """Open pictures and make inputs of a batch; an item that cannot be is told by its entry, and the others go on.

    grid: rows and columns of patches that every picture must come to; None without an encoder.
    """
    given: list[tuple[Entry, Item, Any]] = []
    for entry in entries:
        item = entry.item
        assert item is not None
        try:
            given.append((entry, item, None if grid is None else picture_of(model, item, entry.row)))
        except VlmProbeError as error:
            entry.fail(error)
    try:
        inputs = _inputs(model, given)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        return Ready([entry for entry, *_ in given], None, too_many=True)
    except VlmProbeError:
        given = [one for one in given if _can_be_seen(model, *one, grid)]
        inputs = _inputs(model, given)
    if inputs is not None and grid is not None and any(layout.grid != grid for layout in inputs.layouts):
        given = [one for one in given if _can_be_seen(model, *one, grid)]
        inputs = _inputs(model, given)
    return Ready([entry for entry, *_ in given], inputs)


def _inputs(model: Any, given: list[tuple[Entry, Item, Any]]) -> ModelInputs | None:
    if not given:
        return None
    pictures: Any = [picture for *_, picture in given]
    made = model.inputs.prepare(pictures, [item.question for _, item, _ in given])
    made.images = []  # they are not needed again, and large
    if model.device.type == "cuda" and made.pixel_values is not None:
        made.pixel_values = made.pixel_values.pin_memory()
    return made


def _can_be_seen(model: Any, entry: Entry, item: Item, picture: Any, grid: tuple[int, int] | None) -> bool:
    """Whether an item alone makes inputs that go with the others'; else its entry says why not."""
    try:
        layout = model.inputs.prepare(picture, item.question).layout
        if grid is not None and layout.grid != grid:
            (rows, columns), (wanted_rows, wanted_columns) = layout.grid, grid
            raise VlmProbeError(
                f"its picture makes {rows} x {columns} patches, the store's have {wanted_rows} x {wanted_columns}"
            )
    except VlmProbeError as error:
        entry.fail(error)
    return not entry.error


@contextmanager
def running_ahead(
    shards: Sequence[int], plan: Callable[[int], tuple[list[Entry], list[list[Entry]]]],
    ready: Callable[[list[Entry]], Ready], *, readers: int,
) -> Iterator[Iterator[tuple[int, list[Entry], Iterator[Ready]]]]:  # fmt: skip
    """Shards in order, each with its entries and its batches, which threads make ready a few ahead of their use.

    The batches of a shard must be used up before the next one is asked for. Leaving ends the threads.
    """
    over, line = Event(), Queue[Any](maxsize=AHEAD)
    pool = ThreadPoolExecutor(readers, thread_name_prefix="vlm-probe-reader")

    def put(thing: Any) -> bool:
        while not over.is_set():
            try:
                line.put(thing, timeout=0.1)
                return True
            except Full:
                continue
        return False

    def feed() -> None:
        try:
            for number in shards:
                entries, batches = plan(number)
                if not put((number, entries, len(batches))):
                    return
                for batch in batches:
                    if not put(pool.submit(ready, batch)):
                        return
        except BaseException as error:  # it is raised where the shards are used
            put(error)

    def take() -> Any:
        while True:
            try:
                thing = line.get(timeout=5)
            except Empty:
                if not thread.is_alive() and line.empty():
                    raise RuntimeError("the thread that reads ahead ended without a word") from None
                continue
            if isinstance(thing, BaseException):
                raise thing
            return thing.result() if isinstance(thing, Future) else thing

    def use() -> Iterator[tuple[int, list[Entry], Iterator[Ready]]]:
        for _ in shards:
            number, entries, count = take()
            yield number, entries, (take() for _ in range(count))

    thread = Thread(target=feed, name="vlm-probe-feeder", daemon=True)
    thread.start()
    try:
        yield use()
    finally:
        over.set()
        pool.shutdown(wait=True, cancel_futures=True)
        thread.join()


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device, or this machine, has no memory left."""
    said = str(error).lower()
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and ("out of memory" in said or "not enough memory" in said)
    )
