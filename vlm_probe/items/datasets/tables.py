"""Tables of many rows in parts: row groups of Parquet files, batches of Arrow streams."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from vlm_probe.errors import VlmProbeError
from vlm_probe.items.datasets import arrow, parquet
from vlm_probe.items.datasets.dataset import Dataset, Options
from vlm_probe.items.datasets.fields import PATHS, chosen, item_of
from vlm_probe.items.datasets.lines import image_folder
from vlm_probe.items.datasets.reading import MAX_BYTES, Recent, check_plain, picture_file, reading
from vlm_probe.items.entries import BadEntryError, need_texts
from vlm_probe.items.item import Item


class _Form(NamedTuple):
    scan: Callable[[Path], tuple[pa.Schema, list[int], str]]
    load: Callable[[Path, int, tuple[str, ...]], pa.Table]


_FORMS = {"parquet": _Form(parquet.scan, parquet.load), "arrow": _Form(arrow.scan, arrow.load)}
_COLUMNS = ("image", "jpg", "bytes", *PATHS[1:])
"""Where an image may be, the first that is there."""
# Pictures apart from the rest, so that who reads questions alone reads no pictures.
_PICTURES: Recent[pa.Table] = Recent(2)
_REST: Recent[pa.Table] = Recent(2)


def _cells(recent: Recent[pa.Table], form: str, path: Path, part: int, columns: tuple[str, ...]) -> pa.Table:
    return recent.get(path, (form, part, columns), lambda: _FORMS[form].load(path, part, columns))


@dataclass(frozen=True)
class Cell:
    """A picture in a table: a row's binary, or bytes and path as Hugging Face's `Image` has them.

    Of the latter the path is opened where there are no bytes, from `folder` unless it is absolute.
    """

    container: Path
    form: str
    part: int
    row: int
    column: str
    folder: Path

    def __str__(self) -> str:
        return f"{self.container}, part {self.part}, row {self.row}, {self.column}"

    @property
    def file(self) -> Path:
        """The file that holds it: the container, or one that the container names. Raises as `read` does."""
        with reading(self):
            table = _cells(_PICTURES, self.form, self.container, self.part, (self.column,))
            value = _only(table, self.row)[self.column]
        elsewhere = isinstance(value, dict) and value.get("bytes") is None and isinstance(value.get("path"), str)
        return self.folder / value["path"] if elsewhere else self.container

    def read(self) -> bytes:
        """The picture's file; BadEntryError where the cell is empty or the container cannot be read."""
        with reading(self):
            table = _cells(_PICTURES, self.form, self.container, self.part, (self.column,))
            value = _only(table, self.row)[self.column]
            path = None
            if isinstance(value, dict):
                value, path = value.get("bytes"), value.get("path")
            if value is None and isinstance(path, str) and path:
                return picture_file(self.folder / path)
            if not isinstance(value, bytes):
                raise BadEntryError("there is no picture")
            if len(value) > MAX_BYTES:
                raise BadEntryError(f"the image is too large; at most {MAX_BYTES // 10**6} megabytes are read")
            return value


def _only(table: pa.Table, row: int) -> dict[str, Any]:
    """One row; BadEntryError where there are fewer than the file declares."""
    if row >= table.num_rows:
        raise BadEntryError(f"there are {table.num_rows} rows where the file declares more")
    one = table.slice(row, 1)
    # Lengths and offsets are data, too: without this, wrong ones would be followed out of the file.
    one.validate(full=True)
    return one.to_pylist()[0]


class _Layout(NamedTuple):
    """Which columns of a table are read."""

    fields: Mapping[str, str]
    image: str
    packed: bool
    """The image is in the table, and not named by it."""


def _layout(schema: pa.Schema, columns: Mapping[str, str]) -> _Layout:
    """VlmProbeError where a column is missing, comes twice, or cannot hold an image."""
    names = schema.names
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise VlmProbeError(f"it has the column {twice!r} twice")
    fields = chosen(names, columns)
    image = columns.get("image") or next((name for name in _COLUMNS if name in names), None)
    if image is None:
        raise VlmProbeError(f"it has no column of images ({', '.join(_COLUMNS)}), but {', '.join(names) or 'none'}")
    kind = schema.field(image).type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return _Layout(fields, image, False)
    inner = {kind.field(number).name for number in range(kind.num_fields)} if pa.types.is_struct(kind) else set()
    binary = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view)
    if inner & {"bytes", "path"} or any(test(kind) for test in binary):
        return _Layout(fields, image, True)
    raise VlmProbeError(
        f"its column {image!r} holds {str(kind)[:60]}, expected the paths of images, their files' bytes, or "
        "struct<bytes, path>"
    )


@dataclass(frozen=True)
class _Tables:
    files: Sequence[Path]
    layouts: Sequence[_Layout | None]
    """Of each file; None where it cannot be read."""
    ends: np.ndarray
    """After how many rows each part ends."""
    file: np.ndarray
    part: np.ndarray
    before: np.ndarray
    """How many rows of the same file come before the part."""
    bad: Mapping[int, str]

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0


class TableDataset(Dataset[_Tables]):
    """Rows of tables, file after file; a file that cannot be read, or the rest of it, counts as one item.

    A row's id is its number from 1 over all files, where it has none. An image in the table is named by file and row:
    what Hugging Face gives as its path is often the same for several.
    """

    def __init__(self, path: Path, options: Options, form: str, files: Sequence[Path] = ()) -> None:
        super().__init__(path, options)
        self.form, self.files = form, tuple(files)

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"form": self.form, "files": self.files}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.form, self.files = state["form"], state["files"]

    def _indexed(self) -> _Tables:
        known: dict[str, _Layout] = {}
        layouts: list[_Layout | None] = []
        parts: list[tuple[int, int, int, int]] = []  # file, part, rows, rows before
        bad: dict[int, str] = {}
        total = 0
        for number, path in enumerate(self.files):
            rows: list[int] = []
            layout, problem = None, ""
            try:
                with reading(path):
                    check_plain(path)
                    schema, rows, problem = _FORMS[self.form].scan(path)
                    key = schema.to_string(show_field_metadata=False, show_schema_metadata=False)
                    layout = known.get(key) or known.setdefault(key, _layout(schema, self.options.columns))
                problem = problem and f"{path}: after row {sum(rows)} it cannot be read: {problem}"
            except BadEntryError as error:
                rows, problem = [], str(error)
            before = 0
            for part, count in enumerate(rows):
                parts.append((number, part, count, before))
                before += count
            total += before
            layouts.append(layout)
            if problem:
                bad[total] = problem
                parts.append((number, -1, 1, before))
                total += 1
        if total > 1 << 48:
            raise VlmProbeError(f"{self.path} declares {total} rows, which no file holds")
        table = np.array(parts, dtype=np.int64).reshape(-1, 4)
        file, part = table[:, 0].astype(np.int32), table[:, 1].astype(np.int32)
        return _Tables(self.files, layouts, np.cumsum(table[:, 2]), file, part, table[:, 3].copy(), bad)

    def _item(self, index: _Tables, number: int) -> Item:
        at = int(np.searchsorted(index.ends, number, side="right"))
        row = number - (int(index.ends[at - 1]) if at else 0)
        path, layout = index.files[index.file[at]], index.layouts[index.file[at]]
        part, in_file = int(index.part[at]), int(index.before[at]) + row
        with reading(f"{path}, row {in_file + 1}"):
            assert layout is not None  # else its number is among the bad
            wanted = tuple(layout.fields.values()) + (() if layout.packed else (layout.image,))
            cells = _only(_cells(_REST, self.form, path, part, wanted), row) if wanted else {}
            named = {name: cells[column] for name, column in layout.fields.items()}
            folder = image_folder(path, self.options.images)
            if layout.packed:
                image = f"{self._told(path)}/{in_file + 1}"
                source: Path | Cell = Cell(path, self.form, part, row, layout.image, folder)
            else:
                (image,) = need_texts(cells, layout.image)
                source = folder / image
            return item_of(named, image, source, id=str(number + 1), question=self.options.question)

    def _told(self, path: Path) -> str:
        """A file's name, with its folder where the files are of several."""
        return path.name if len({file.parent for file in self.files}) == 1 else str(path)
