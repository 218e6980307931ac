"""A shard on disk: values as Zarr's files, the item table as Parquet, and last the commit that makes it be there."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vlm_probe.errors import VlmProbeError
from vlm_probe.store.places import Place
from vlm_probe.store.records import (
    ARRAYS,
    ArrayAbout,
    Commit,
    StoreAbout,
    array_file,
    commit_name,
    digest,
    table_name,
)

CODECS = {"sharding_indexed", "bytes", "blosc", "crc32c"}
"""What Zarr may use to read a store: nothing of a stranger's."""


def _array(store: Any, name: str, about: ArrayAbout, shard_items: int) -> Any:
    """An array of a Zarr group, without values."""
    import zarr
    from zarr.codecs import BloscCodec

    rest = about.shape[1:]
    return zarr.create_array(
        store,
        name=name,
        shape=about.shape,
        shards=(shard_items, *rest),
        chunks=(about.chunk_items, *rest),
        dtype=about.dtype,
        compressors=BloscCodec(cname="zstd", clevel=1, shuffle="shuffle"),
        fill_value=about.fill,
        dimension_names=about.dims,
        zarr_format=3,
        overwrite=True,
    )


def _memory() -> Any:
    from zarr.storage import MemoryStore

    return MemoryStore()


def _files(store: Any) -> dict[str, bytes]:
    """What a Zarr store in memory holds, by the names that its files have in ours."""
    return {f"{ARRAYS}{name}": value.to_bytes() for name, value in store._store_dict.items()}


def metadata(about: StoreAbout) -> dict[str, bytes]:
    """The `zarr.json` of the group and of every array."""
    import zarr

    store = _memory()
    zarr.create_group(store, zarr_format=3)
    for name, array in about.arrays.items():
        _array(store, name, array, about.shard_items)
    return _files(store)


def encoded(name: str, about: StoreAbout, number: int, values: np.ndarray) -> dict[str, bytes]:
    """The file of a shard's values of one array: none where all of them are missing.

    values: [item of the shard, ...] in the array's dtype.
    """
    array = about.arrays[name]
    # A store of this shard alone: where it stands among the others changes nothing in its file.
    alone = ArrayAbout(array.dims, (len(values), *array.shape[1:]), array.dtype, array.chunk_items)
    store = _memory()
    _array(store, name, alone, about.shard_items)[...] = values
    zero = array_file(name, 0, len(array.dims))
    return {array_file(name, number, len(array.dims)): data for key, data in _files(store).items() if key == zero}


def item_table(rows: list[dict[str, Any]]) -> bytes:
    """A shard's item table as Parquet: the same rows, the same bytes."""
    table = pa.Table.from_pylist(rows, schema=ITEMS)
    out = io.BytesIO()
    pq.write_table(table, out, compression="zstd")
    return out.getvalue()


LABELS = ("object", "color", "shape", "row", "column", "position", "count", "existence")
"""Of generated scenes (`embedding.scene_labels`); empty for items from files."""
ITEMS = pa.schema(
    [
        *(("number", pa.int64()), ("bytes", pa.int64()), ("modified", pa.int64()), ("tokens", pa.int32())),
        *((name, pa.string()) for name in ("id", "image", "sha256", "family", "kind", "question", "answer", "error")),
        *((f"label_{name}", pa.string()) for name in LABELS),
    ]
)
"""Columns of an item table."""


def _most_bytes(items: int) -> int:
    return (1 << 26) + (1 << 16) * items


def _text_bytes(column: pa.ChunkedArray) -> int:
    """Bytes of a column's texts when each row has its own: one text may stand for all rows in the file."""
    total = 0
    for chunk in column.chunks:
        lengths = pc.call_function("binary_length", [chunk.dictionary]).to_numpy(zero_copy_only=False)
        counts = np.bincount(chunk.indices.to_numpy(zero_copy_only=False), minlength=len(lengths))
        total += int((counts * lengths).sum())
    return total


def read_item_table(data: bytes, name: str, expected: int) -> pd.DataFrame:
    """A shard's item table; VlmProbeError for one that is damaged, or larger than its items could make it."""
    try:
        texts = [field.name for field in ITEMS if field.type == pa.string()]
        file = pq.ParquetFile(io.BytesIO(data), read_dictionary=texts)
        about = file.metadata
        size = sum(about.row_group(i).total_byte_size for i in range(about.num_row_groups))
        if about.num_rows != expected or size > _most_bytes(expected):
            raise ValueError(f"{about.num_rows} rows in {size} bytes, {expected} expected")
        table = file.read()
        if table.schema.names != ITEMS.names:
            raise ValueError(f"columns {', '.join(table.schema.names)}")
        if (size := sum(_text_bytes(table[name]) for name in texts)) > _most_bytes(expected):
            raise ValueError(f"its texts have {size:,} bytes")
        return table.cast(ITEMS).to_pandas()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise VlmProbeError(f"{name} is no item table of a store: {error!s:.200}") from error


def write_shard(
    place: Place, about: StoreAbout, number: int, arrays: Mapping[str, np.ndarray], rows: list[dict[str, Any]]
) -> Commit:
    """Write a shard's files and then, once all of them are, its commit. Doing it again writes the same bytes.

    Raises VlmProbeError where the shard was committed before with other content: another writer, or another machine's
    arithmetic.
    """
    files: dict[str, dict[str, Any]] = {}

    def put(name: str, data: bytes) -> None:
        place.put(name, data)
        files[name] = {"bytes": len(data), "sha256": digest(data)}

    for name, values in arrays.items():
        for file, data in encoded(name, about, number, values).items():
            put(file, data)
    put(table_name(number), item_table(rows))
    commit = Commit(about.digest, number, len(rows), sum(bool(row["error"]) for row in rows), files)
    if not place.create(commit_name(number), commit.written()) and place.read(commit_name(number)) != commit.written():
        raise VlmProbeError(
            f"shard {number} of {place.url} was committed by another writer, with other values; see vlm-probe store "
            "verify"
        )
    return commit


def check_metadata(place: Place, about: StoreAbout) -> list[str]:
    """What is wrong with the `zarr.json` files: they must describe what `store.json` does, in codecs that we use."""
    wrong = []
    ours = metadata(about)
    for name, data in ours.items():
        try:
            theirs = place.read(name)
        except FileNotFoundError:
            wrong.append(f"{name} is missing")
            continue
        if theirs == data:
            continue
        try:
            found = _same_array(json.loads(theirs), json.loads(data))
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            found = f"it cannot be read ({error!s:.80})"
        if found:
            wrong.append(f"{name}: {found}")
    return wrong


def _same_array(theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    """In what two `zarr.json` differ that matters; another version of Zarr may write more fields."""
    fields = ("zarr_format", "node_type", "shape", "data_type", "chunk_grid", "chunk_key_encoding", "fill_value")
    for field in (*fields, "dimension_names", "storage_transformers", "attributes"):
        if theirs.get(field) != ours.get(field):
            return f"{field} is {theirs.get(field)!s:.80}, store.json says {ours.get(field)!s:.80}"
    foreign = set(_codec_names(theirs.get("codecs", []))) - CODECS
    if foreign:
        return f"it asks for codecs that no capture uses: {', '.join(sorted(foreign))!s:.80}"
    return "" if _same_codecs(theirs.get("codecs"), ours.get("codecs")) else "its codecs are not those of a capture"


def _same_codecs(theirs: Any, ours: Any) -> bool:
    """Whether codecs are the same, in the same order; a later Zarr may write settings that an earlier one did not."""
    if theirs is None or ours is None or len(theirs) != len(ours):
        return theirs == ours
    for one, other in zip(theirs, ours, strict=True):
        mine, yours = one.get("configuration", {}), other.get("configuration", {})
        if one["name"] != other["name"] or not set(mine) <= set(yours):
            return False
        for key, value in mine.items():
            same = _same_codecs(value, yours[key]) if key in ("codecs", "index_codecs") else value == yours[key]
            if not same:
                return False
    return True


def _codec_names(codecs: Any) -> list[str]:
    names = []
    for codec in codecs:
        names.append(str(codec["name"]))
        inside = codec.get("configuration", {})
        names += _codec_names(inside.get("codecs", [])) + _codec_names(inside.get("index_codecs", []))
    return names
