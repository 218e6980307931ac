"""Parquet files, a row group at a time."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from vlm_probe.items.entries import BadEntryError

MAX_GROUP = 4_000_000_000
"""Bytes of one row group, whose pictures are read at once."""


def scan(path: Path) -> tuple[pa.Schema, list[int], str]:
    """The columns, the rows of every row group, and "": a file whose end is missing cannot be read at all.

    Raises what pyarrow does.
    """
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        groups = file.metadata.num_row_groups
        rows = [file.metadata.row_group(group).num_rows for group in range(groups)]
        if any(number < 0 for number in rows):
            raise BadEntryError("it declares fewer than no rows")
        return file.schema_arrow, rows, ""


def load(path: Path, group: int, columns: tuple[str, ...]) -> pa.Table:
    """Some columns of a row group; BadEntryError where they would take too much memory, and what pyarrow raises."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        # Not of the columns alone: a broken file's `RowGroupMetaData.column` ends the process (pyarrow 26).
        size = file.metadata.row_group(group).total_byte_size
        if size > MAX_GROUP:
            raise BadEntryError(
                f"row group {group} has {size // 10**6} megabytes, and at most {MAX_GROUP // 10**6} are read at once; "
                "write the file with smaller row groups (pyarrow: row_group_size=1000)"
            )
        return file.read_row_group(group, columns=list(columns), use_threads=False)
