"""What a capture will be, before it begins: the shapes of its arrays, its shards, and what must agree to go on."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b, sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from vlm_probe.errors import VlmProbeError
from vlm_probe.items.datasets import Items
from vlm_probe.items.item import Item, Packed
from vlm_probe.store.computing import PATCH, POSITION, TOKEN, run_kept
from vlm_probe.store.picking import Pick
from vlm_probe.store.preparing import entry_of, make_ready, picture_of
from vlm_probe.store.records import ArrayAbout, StoreAbout

CHUNK_BYTES, SHARD_BYTES = 1 << 20, 1 << 27
"""What a chunk of one array, and a shard of all of them, take in memory at most, unless one item takes more."""
MOST, FEWEST, PARTS = 1024, 16, 16
"""Items of a shard: at most; and of a short list so many that it makes some shards, but not fewer than so many."""
VALUES = ("float32", "float16")
"""What activations can be kept as."""
_TRIED = 100
"""Items that may fail before it is said that none can be captured."""


@dataclass(frozen=True)
class Shapes:
    """What one item came to."""

    rows: dict[str, int]
    """Point -> rows of its activation, of one image or one sequence."""
    features: dict[str, int]
    grid: tuple[int, int] | None
    """Rows and columns of patches; None without an encoder."""
    image: int
    """Positions that the image takes in the prompt."""


def measure_shapes(model: Any, items: Items, names: Sequence[str], pick: Pick) -> Shapes:
    """The shapes of activations, from the first item that can be run and has the positions.

    Raises VlmProbeError where none of the first items can.
    """
    said = "there is no item"
    for number in range(min(len(items), _TRIED)):
        entry = entry_of(model, items, number)
        grid = None
        if not entry.error and entry.item is not None and model.vision_config is not None:
            try:
                grid = model.inputs.see(picture_of(model, entry.item)).grid
            except VlmProbeError as error:
                entry.fail(error)
        ready = make_ready(model, [entry], grid) if not entry.error else None
        if ready is None or ready.inputs is None:
            said = f"item {entry.row['id'] or number}: {entry.error}"
            continue
        try:
            assert entry.item is not None
            pick.places(ready.inputs.layout, entry.item)
        except VlmProbeError as error:
            said = f"item {entry.row['id']}: {error}"
            continue
        shapes: dict[str, tuple[int, int]] = {}

        def keep(name: str, x: Tensor, shapes: dict[str, tuple[int, int]] = shapes) -> Tensor:
            shapes[name] = (x.shape[1], x[0, 0].numel())
            return x[:0]

        run_kept(model, ready.inputs.to(model.device, model.dtype), names, keep)
        layout = ready.inputs.layout
        image = sum(len(span.positions) + len(span.extra_positions) for span in layout.images)
        return Shapes({n: s[0] for n, s in shapes.items()}, {n: s[1] for n, s in shapes.items()}, grid, image)
    raise VlmProbeError(f"no item can be captured, of the first {min(len(items), _TRIED)}; the last: {said}")


def digest_of(items: Items, each: Callable[[Item], None] = lambda item: None) -> str:
    """One pass over all items, without their pictures: a digest of them all, and of what is drawn.

    each: is given every item that can be read. Raises VlmProbeError for two items of one id.
    """
    read, seen = sha256(), array("Q")
    for number in range(len(items)):
        name = f"item {number} cannot be read"
        try:
            item = items[number]
        except VlmProbeError as error:  # it fails again when its turn comes, and is told then
            read.update(f"{number} {error}\n".encode(errors="surrogatepass"))
        else:
            name = f"id {item.id}"
            # Of a file the row says what it was; what is drawn by who has no words of its own cannot be told.
            drawn = not isinstance(item.source, Path | Packed) and type(item.source).__repr__ is not object.__repr__
            read.update(f"{item!r} {item.source if drawn else ''}\n".encode(errors="surrogatepass"))
            each(item)
        seen.append(int.from_bytes(blake2b(name.encode(errors="surrogatepass"), digest_size=8).digest()))
    _check_differ(items, np.asarray(seen, dtype=np.uint64))
    return read.hexdigest()


def lengths_of(model: Any, items: Items, image: int, pick: Pick) -> tuple[int, str]:
    """The most rows that an item has, and the items' digest."""
    longest = [1]
    counts = [image] if model.vision_config is not None else []

    def look(item: Item) -> None:
        with suppress(VlmProbeError):
            ids, asked, _ = model.inputs.encode(item.question, counts)
            longest[0] = max(longest[0], pick.longest(len(ids), len(asked), image))

    read = digest_of(items) if pick.single or pick.whole_image else digest_of(items, look)
    return longest[0], read


def _check_differ(items: Items, ids: np.ndarray) -> None:
    """VlmProbeError where two items have one id. ids: eight bytes of a digest of each, since there may be millions."""
    order = np.argsort(ids, kind="stable")
    twice = np.flatnonzero(ids[order][1:] == ids[order][:-1])
    if len(twice):
        one, two = (int(number) for number in order[twice[0] : twice[0] + 2])
        raise VlmProbeError(f"item ids must differ, {items[one].id!r} comes twice (items {one} and {two}, from 0)")


def arrays_of(
    pick: Pick, names: Sequence[str], shapes: Shapes, items: int, longest: int, dtype: str, shard_items: int | None
) -> tuple[dict[str, ArrayAbout], int]:
    """The arrays of a store, and the items of a shard."""
    patches = 0 if shapes.grid is None else shapes.grid[0] * shapes.grid[1]
    width = {"row": shapes.grid and shapes.grid[0], "col": shapes.grid and shapes.grid[1], "patch": patches}
    parts: dict[str, tuple[tuple[str, ...], tuple[int, ...], str]] = {}
    for name in names:
        dims = pick.dims(name)
        own = [width.get(dim) or (longest if dim == "position" else shapes.rows[name]) for dim in dims]
        parts[name] = (("item", *dims, f"{name} feature"), (*own, shapes.features[name]), dtype)
    used = {dim for dims, *_ in parts.values() for dim in dims}
    if "position" in used:
        parts |= dict.fromkeys((POSITION, TOKEN), (("item", "position"), (longest,), "int32"))
    if "patch" in used:
        parts[PATCH] = (("item", "patch"), (patches,), "int32")
    whole = sum(ArrayAbout(d, (items, *s), kind, 1).item_bytes for d, s, kind in parts.values())
    if shard_items is None:
        several = max(FEWEST, _power(items // PARTS))
        shard_items = max(1, min(MOST, several, _power(SHARD_BYTES // whole)))
    if shard_items < 1:
        raise VlmProbeError(f"a shard has 1 item or more, got {shard_items}")
    made = {}
    for name, (dims, shape, kind) in parts.items():
        about = ArrayAbout(dims, (items, *shape), kind, 1)
        fits = max(1, CHUNK_BYTES // about.item_bytes)
        chunk = max(n for n in range(1, min(fits, shard_items) + 1) if shard_items % n == 0)
        made[name] = ArrayAbout(dims, about.shape, kind, chunk)
    return made, shard_items


def _power(n: int) -> int:
    """The largest power of two up to a number; 1 for less."""
    return 1 << max(0, n.bit_length() - 1)


def describe(
    model: Any,
    items: Items,
    names: Sequence[str],
    *,
    positions: str,
    dtype: str,
    shard_items: int | None,
    batch_size: int,
) -> StoreAbout:
    """What a store of these items will be.

    Raises VlmProbeError for positions and points that do not go together, a dtype that is none, and where no item can
    be captured.
    """
    pick = Pick.of(positions)
    pick.check(names)
    if dtype not in VALUES:
        raise VlmProbeError(f"values are kept as {' or '.join(VALUES)}, got {dtype!r}")
    if not names:
        raise VlmProbeError("no hook point is named")
    if batch_size < 1:
        raise VlmProbeError(f"a batch has 1 item or more, got {batch_size}")
    if model.vision_config is None and not pick.text_only and pick.where != "all":
        raise VlmProbeError(f"{model.name} is a language model without an encoder: it has no positions {positions!r}")
    shapes = measure_shapes(model, items, names, pick)
    longest, read = lengths_of(model, items, shapes.image, pick)
    arrays, shard_items = arrays_of(pick, names, shapes, len(items), longest, dtype, shard_items)
    provenance = model.provenance()
    fingerprint = {
        "revision": model.revision,
        "weights": model.weights_digest(),
        "hooks": [name for name, point in model.hook_dict.items() if point.fwd_hooks],
        "points": list(names),
        "positions": f"mean({pick.where})" if pick.mean else pick.where,
        "grid": None if shapes.grid is None else list(shapes.grid),
        "dtype": dtype,
        "batch_size": batch_size,
        "items": read,
        **{name: provenance.get(name) for name in ("embed_scale", "prompt_template", "device")},
        **{f"version of {name}": version(name) for name in VERSIONS},
        "model_dtype": provenance["dtype"],
    }
    return StoreAbout(fingerprint, len(items), shard_items, arrays, provenance)


VERSIONS = ("vlm-probe", "torch", "transformers", "zarr", "numcodecs", "pyarrow")
"""Packages that values, or the bytes they are kept as, rest on."""


def stated(about: StoreAbout) -> str:
    """What a capture will take, in a line."""
    arrays = about.fingerprint["points"]
    total = about.item_bytes * about.items
    return (
        f"{about.items:,} items, {len(arrays)} points: {human(about.item_bytes)} an item, {human(total)} in all before "
        f"compression, in {about.shards:,} shards of {about.shard_items} items"
    )


def human(size: int | float) -> str:
    """Bytes for people.

    >>> human(1536), human(5 << 40)
    ('1.5 kB', '5.0 TB')
    """
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TB"
