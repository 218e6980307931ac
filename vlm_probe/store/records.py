"""What a store says of itself, in JSON: what it is (`store.json`), what each shard wrote (`commits/`), and all of it
once more when it is whole (`manifest.json`).

Every record is canonical (sorted keys, no spaces) and ends with a digest of the rest: a byte that changed is found.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from math import nan, prod
from typing import Any

from vlm_probe.errors import VlmProbeError

FORMAT = 1
STORE, MANIFEST = "store.json", "manifest.json"
ARRAYS = "arrays/"
"""The folder that is a Zarr group, for whoever has xarray alone."""
_MOST_SHARDS = 1_000_000
DTYPES = {"float32": 4, "float16": 2, "int32": 4}
"""What values are kept as -> bytes of one."""
_NAME = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")
_LARGEST_CHUNK = 1 << 28
"""Bytes that one chunk may take in memory; ours take `layout.CHUNK_BYTES`, or one item where that is larger."""


def commit_name(number: int) -> str:
    return f"commits/{number:06d}.json"


def table_name(number: int) -> str:
    """The item table of a shard."""
    return f"items/{number:06d}.parquet"


def array_file(array: str, number: int, dims: int) -> str:
    """The file of a shard's values of one array, as Zarr names it."""
    return f"{ARRAYS}{array}/c/{'/'.join([str(number), *['0'] * (dims - 1)])}"


@dataclass(frozen=True)
class ArrayAbout:
    """One array of a store."""

    dims: tuple[str, ...]
    """"item" first."""
    shape: tuple[int, ...]
    dtype: str
    chunk_items: int
    """Items of one chunk, which is compressed and read alone; a shard's file holds some of them."""

    @property
    def item_bytes(self) -> int:
        return DTYPES[self.dtype] * prod(self.shape[1:])

    @property
    def fill(self) -> int | float:
        """What stands for a value that is not there."""
        return -1 if self.dtype == "int32" else nan


@dataclass(frozen=True)
class StoreAbout:
    """What a store is: what must agree for a capture to go on, and the shapes that follow from it."""

    fingerprint: dict[str, Any]
    """Model, weights, points, positions, dtype, items, versions."""
    items: int
    shard_items: int
    arrays: dict[str, ArrayAbout]
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def shards(self) -> int:
        return -(-self.items // self.shard_items)

    def span(self, number: int) -> range:
        """The items of a shard."""
        return range(number * self.shard_items, min(self.items, (number + 1) * self.shard_items))

    @property
    def item_bytes(self) -> int:
        """Bytes of one item's values, before they are compressed."""
        return sum(array.item_bytes for array in self.arrays.values())

    @property
    def metadata_names(self) -> list[str]:
        """The names of Zarr's own files."""
        return [f"{ARRAYS}zarr.json", *(f"{ARRAYS}{name}/zarr.json" for name in self.arrays)]

    def written(self) -> bytes:
        return canonical({"format": FORMAT, **asdict(self)})

    @cached_property
    def digest(self) -> str:
        """Of the description, by which commits know their store."""
        return digest(self.written())

    def owns(self, commit: Commit, number: int) -> bool:
        """Whether a commit is that of a shard of this store."""
        return (commit.store, commit.shard, commit.items) == (self.digest, number, len(self.span(number)))

    @classmethod
    def read(cls, data: bytes, url: str) -> StoreAbout:
        """Raises VlmProbeError for what is no description of a store, or promises what cannot be."""
        record = record_of(data, f"{url}/{STORE}")
        try:
            if record["format"] != FORMAT:
                raise VlmProbeError(f"{url} is a store of format {record['format']!r:.40}, this version reads {FORMAT}")
            arrays = {
                str(name): ArrayAbout(
                    tuple(map(str, about["dims"])), tuple(map(_size, about["shape"])), str(about["dtype"]),
                    _size(about["chunk_items"]),
                )
                for name, about in record["arrays"].items()
            }  # fmt: skip
            whole = cls(
                dict(record["fingerprint"]), _size(record["items"]), _size(record["shard_items"]), arrays,
                dict(record["provenance"]),
            )  # fmt: skip
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise VlmProbeError(
                f"{url}/{STORE} is no description of a store: {type(error).__name__} {error}"
            ) from error
        _check_fingerprint(whole, url)
        for name, array in arrays.items():
            _check_array(name, array, whole, url)
        return whole


def _size(value: Any) -> int:
    if type(value) is not int or not 0 < value < 1 << 40:
        raise ValueError(f"a size must be a positive number, got {value!r:.40}")
    return value


def _check_fingerprint(store: StoreAbout, url: str) -> None:
    """VlmProbeError for a description without what a reader rests on, or of more shards than anybody has."""
    told, grid = store.fingerprint, store.fingerprint.get("grid")
    points = told.get("points")
    fits = (
        isinstance(points, list)
        and points
        and set(points) <= set(store.arrays)
        and all(isinstance(told.get(name), str) for name in ("positions", "dtype", "items", "weights"))
        and (grid is None or (isinstance(grid, list) and len(grid) == 2 and all(type(n) is int for n in grid)))
        and all(isinstance(name, str) for name in store.provenance)
        and store.shards <= _MOST_SHARDS
    )
    if not fits:
        raise VlmProbeError(f"{url}/{STORE} is no description that a capture writes: {told!s:.200}")


def _check_array(name: str, array: ArrayAbout, store: StoreAbout, url: str) -> None:
    """VlmProbeError for an array that we would not write: a store may come from anybody."""
    fits = (
        _NAME.fullmatch(name)
        and array.dtype in DTYPES
        and array.dims[:1] == ("item",)
        and len(array.dims) == len(array.shape) == len(set(array.dims))
        and array.shape[0] == store.items
        and store.shard_items % array.chunk_items == 0
        and (array.chunk_items == 1 or array.chunk_items * array.item_bytes <= _LARGEST_CHUNK)
        and array.item_bytes <= 1 << 36
    )
    if not fits:
        raise VlmProbeError(
            f"{url}/{STORE} describes an array {name!r:.80} that no capture makes: {asdict(array)!s:.200}"
        )


def canonical(record: Mapping[str, Any]) -> bytes:
    """A record as it is written: with the digest of the rest as its `check`.

    >>> canonical({"b": 1, "a": (2, 3)})
    b'{"a":[2,3],"b":1,"check":"2aae3bfa906be395"}\\n'
    """
    text = _compact({name: value for name, value in record.items() if name != "check"})
    check = hashlib.sha256(text.encode()).hexdigest()[:16]
    return f"{_compact({**record, 'check': check})}\n".encode()


def _compact(record: Mapping[str, Any]) -> str:
    return json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False)


def record_of(data: bytes, name: str) -> dict[str, Any]:
    """A record that `canonical` wrote; VlmProbeError for anything else."""
    try:
        record = json.loads(data)
        if not isinstance(record, dict) or canonical(record) != data:
            raise ValueError("its check does not agree with the rest")
        json.dumps(record, ensure_ascii=False).encode()  # half of a surrogate pair is no text
    except (ValueError, RecursionError, TypeError) as error:
        raise VlmProbeError(f"{name} is damaged: {error!s:.120}; see vlm-probe store repair") from error
    return record


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class Commit:
    """What one shard wrote. A shard without a commit is not there."""

    store: str
    """Digest of the store's description: a shard of another store is none of this one's."""
    shard: int
    items: int
    failed: int
    files: dict[str, dict[str, Any]]
    """Name -> bytes and sha256."""

    def written(self) -> bytes:
        return canonical(asdict(self))

    @classmethod
    def read(cls, data: bytes, name: str) -> Commit:
        return cls.of(record_of(data, name), name)

    @classmethod
    def of(cls, record: Any, name: str) -> Commit:
        """Raises VlmProbeError for a record that is none of a shard's."""
        try:
            files = {
                str(file): {"bytes": int(a["bytes"]), "sha256": str(a["sha256"])} for file, a in record["files"].items()
            }
            return cls(str(record["store"]), int(record["shard"]), int(record["items"]), int(record["failed"]), files)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise VlmProbeError(f"{name} is no commit of a shard: {type(error).__name__} {error}") from error


def manifest(about: StoreAbout, metadata: Mapping[str, bytes], commits: list[Commit]) -> bytes:
    """The whole store in one record, written when its last shard is. metadata: Zarr's own files."""
    return canonical(
        {
            "store": about.digest,
            "metadata": {name: digest(data) for name, data in metadata.items()},
            "items": sum(one.items for one in commits),
            "failed": sum(one.failed for one in commits),
            "shards": [asdict(one) for one in sorted(commits, key=lambda one: one.shard)],
        }
    )
