"""Arrow streams, as `datasets.Dataset.save_to_disk` of Hugging Face writes them, mapped into memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from vlm_probe.errors import VlmProbeError, first_line
from vlm_probe.items.datasets.reading import Recent
from vlm_probe.items.entries import json_object, listed

STATE, SPLITS = "state.json", "dataset_dict.json"
"""Files that tell a saved dataset, and a folder of several."""
_MAPPED: Recent[tuple[pa.Schema, list[pa.RecordBatch], str]] = Recent(32)
"""Files: what is mapped takes no memory but for a few numbers a batch."""


def stream_files(folder: Path) -> list[Path]:
    """The files of a saved dataset, in their order.

    Raises VlmProbeError for a folder of splits, rows that are chosen by an index, and names that are no plain names.
    """
    if (folder / SPLITS).is_file() and not (folder / STATE).is_file():
        splits = [str(name) for name in listed(_object(folder / SPLITS), "splits", folder / SPLITS)]
        raise VlmProbeError(
            f"{folder} holds several splits ({', '.join(splits) or 'none'}): name one, such as "
            f"{folder / (splits or ['train'])[0]}"
        )
    state = _object(folder / STATE)
    if state.get("_indices_data_files") or state.get("_indices_files"):
        raise VlmProbeError(f"{folder} was saved with an index of rows; call flatten_indices() and save it anew")
    found: list[Path] = []
    for one in listed(state, "_data_files", folder / STATE):
        name = one.get("filename") if isinstance(one, dict) else one
        # The name is data: it must not lead out of the folder.
        if not isinstance(name, str) or name in ("", ".", "..") or set(name) & {"/", "\\", "\0"}:
            raise VlmProbeError(f"{folder / STATE} names the file {name!r:.60}, expected a plain name")
        found.append(folder / name)
    return found


def _object(path: Path) -> dict[str, Any]:
    try:
        return json_object(path)
    except RecursionError as error:
        raise VlmProbeError(f"{path}: no JSON (nested too deep)") from error


def scan(path: Path) -> tuple[pa.Schema, list[int], str]:
    """The columns, the rows of every batch that can be read, and what is wrong after them; raises what pyarrow does."""
    schema, batches, problem = _mapped(path)
    return schema, [batch.num_rows for batch in batches], problem


def load(path: Path, part: int, columns: tuple[str, ...]) -> pa.Table:
    """Some columns of a batch; raises what pyarrow does."""
    table = pa.Table.from_batches([_mapped(path)[1][part].select(list(columns))])
    table.validate()
    return table


def _mapped(path: Path) -> tuple[pa.Schema, list[pa.RecordBatch], str]:
    return _MAPPED.get(path, None, lambda: _map(path))


def _map(path: Path) -> tuple[pa.Schema, list[pa.RecordBatch], str]:
    batches: list[pa.RecordBatch] = []
    reader = pa.ipc.open_stream(pa.memory_map(str(path)))
    while True:
        try:
            batches.append(reader.read_next_batch())
        except StopIteration:
            return reader.schema, batches, ""
        except (pa.ArrowException, OSError, MemoryError, ValueError) as error:
            return reader.schema, batches, first_line(error)
