"""What Zarr reads of a store that may come from a stranger: its arrays alone, and no chunk that is larger than it says.

A compressed chunk says itself how much memory it wants (Blosc's header); a store that was made to do harm would say
gigabytes. Here it is an error before anything is decompressed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from vlm_probe.errors import VlmProbeError
from vlm_probe.store.places import Place
from vlm_probe.store.records import ARRAYS, StoreAbout

_HEADER = 16
"""Bytes of Blosc's header: at 4 the size when decompressed, at 12 that of the chunk, four bytes each."""


def guarded(where: Place, about: StoreAbout) -> Any:
    """A read-only Zarr store of a place, which checks every chunk's size before it is decompressed."""
    from zarr.abc.store import RangeByteRequest
    from zarr.storage import WrapperStore

    sizes = {name: array.chunk_items * array.item_bytes for name, array in about.arrays.items()}
    whole = {name: about.shard_items // array.chunk_items for name, array in about.arrays.items()}

    class Guarded(WrapperStore[Any]):
        """Of one place."""

        async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
            found = await super().get(f"{ARRAYS}{key}", prototype, byte_range)
            name, chunk, _ = key.partition("/c/")
            if found is None or not chunk:
                return found
            if name not in sizes:
                raise VlmProbeError(f"{where.url} has no array {name!r:.80}")
            if isinstance(byte_range, RangeByteRequest):
                check(key, found.to_bytes(), sizes[name])
            elif byte_range is None:
                data = found.to_bytes()
                for start, length in spans(data, whole[name]):
                    check(key, data[start : start + length], sizes[name], length)
            return found

        async def list_dir(self, prefix: str) -> AsyncIterator[str]:
            # From the description, not from a listing, which an object store may show late.
            for name in () if prefix.strip("/") else ("zarr.json", *sizes):
                yield name

    def check(key: str, chunk: bytes, expected: int, length: int | None = None) -> None:
        wanted, own = (int.from_bytes(chunk[at : at + 4], "little") for at in (4, 12))
        # Blosc takes both at their word: it would make room for the first, and read as far as the second says.
        whole = len(chunk) >= _HEADER and own == len(chunk) and length in (None, len(chunk))
        if not whole or wanted != expected:
            raise VlmProbeError(
                f"{where.url}/{key} holds a chunk of {wanted:,} bytes where {expected:,} are expected, or one that is "
                "cut off; see vlm-probe store verify"
            )

    return Guarded(where.zarr())


def spans(data: bytes, chunks: int) -> list[tuple[int, int]]:
    """Start and length of every chunk in a shard's file, from the index at its end (Zarr v3, sharding codec)."""
    index = data[-(16 * chunks + 4) : -4]
    pairs = [
        (int.from_bytes(index[at : at + 8], "little"), int.from_bytes(index[at + 8 : at + 16], "little"))
        for at in range(0, len(index), 16)
    ]
    return [(start, length) for start, length in pairs if start < 1 << 63]
