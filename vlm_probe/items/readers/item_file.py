"""Item files: a user's own, and those that `vlm-probe scenes export` writes."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from vlm_probe.errors import VlmProbeError
from vlm_probe.items.entries import BadEntryError, Parse, json_lines, need_texts, parquet_of, text_of
from vlm_probe.items.item import Item, item_from_row
from vlm_probe.items.readers.reader import Entry, Reader
from vlm_probe.items.rules import plain

REQUIRED = ("image", "question", "answer")
"""Fields that every item must have; the others are filled in or empty."""
OWN = "own"
"""The family of an item that names none."""
LISTS = ("answers", "also", "parts", "distractors", "boxes", "others")
"""Fields that hold lists: JSON in a cell of a CSV file."""
NAMES = ("items.parquet", "items.jsonl", "items.csv")
"""What the table in a folder of pictures is called; or it is the only one there."""


def _plain(value: Any) -> Any:
    """Parquet's arrays, and arrays in arrays, as lists."""
    return [_plain(one) for one in value] if isinstance(value, np.ndarray) else value


def read(path: Path, images: Path | None) -> Iterator[Entry]:
    """A table with a row an item: JSON Lines, CSV or Parquet.

    image (a file's name in the folder of images, in `images/` beside the table, or beside it), question and answer
    must be there. id (the row's number if not given), family ("own"), kind ("question"), group (the id) and what else
    an `Item` has may be.
    """
    beside = path.parent / "images"
    folder = images or (beside if beside.is_dir() else path.parent)

    def item(parse: Parse, number: int) -> Item:
        row = parse()
        # What is not there is None, empty, or in a table's column NaN, which is not itself.
        try:
            need_texts(row, *REQUIRED)
        except BadEntryError as error:
            raise BadEntryError(f"{error}; an item has {', '.join(REQUIRED[:-1])} and {REQUIRED[-1]}") from None
        named = {name: value for name, value in row.items() if value not in (None, "") and value == value}
        id = str(named.get("id", number))
        whole = {"id": id, "family": OWN, "kind": "question", "group": id, **named}
        need_texts(whole, "family", "kind")
        return item_from_row(whole, folder)

    names = named_in(path) or []
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise VlmProbeError(f"{path} has the column {twice[0]!r} twice")
    for number, parse in _rows(path):
        yield number, lambda parse=parse, number=number: item(parse, number)


def _rows(path: Path) -> Iterator[tuple[int, Parse]]:
    """Every row's number, and what parses it."""
    if path.suffix == ".parquet":
        for number, row in enumerate(parquet_of(path).to_dict("records"), start=1):
            named = {str(key): _plain(value) for key, value in row.items()}
            yield number, lambda named=named: named
    elif path.suffix.lower() == ".csv":
        for number, cells in enumerate(csv.DictReader(io.StringIO(text_of(path), newline="")), start=2):
            yield number, lambda cells=cells: _of_cells(cells)
    else:
        yield from json_lines(path)


def _of_cells(cells: dict[Any, Any]) -> dict[str, Any]:
    """A row of a CSV file: text, but for what is a list."""
    if None in cells:
        raise BadEntryError(f"there are {len(cells[None])} cells more than names in the first line")
    row: dict[str, Any] = {}
    for name, text in cells.items():
        row[name] = text
        if name in LISTS and text:
            try:
                row[name] = json.loads(text)
            except json.JSONDecodeError as error:
                raise BadEntryError(f"{name} must be a list as JSON has it, got {text!r:.60}") from error
    return row


def table_in(folder: Path) -> list[Path]:
    """The item table in a folder of pictures, or nothing."""
    for name in NAMES:
        if (folder / name).is_file():
            return [folder / name]
    tables = sorted(path for path in folder.glob("*") if path.suffix in (".parquet", ".jsonl", ".csv"))
    if len(tables) > 1 and all(_recognises(table, "") for table in tables):
        raise VlmProbeError(f"{folder} holds {len(tables)} tables, {tables[0].name} and {tables[1].name}: name one")
    return tables if len(tables) == 1 and _recognises(tables[0], "") else []


def named_in(path: Path) -> list[str] | None:
    """The fields of a table's first row, or its columns; None for a file of another kind, or without a row."""
    kind = path.suffix.lower()
    if kind == ".parquet":
        return [str(name) for name in parquet_of(path).columns]
    if kind == ".csv":
        return next(csv.reader(io.StringIO(text_of(path), newline="")), None)
    if kind == ".jsonl":
        for _, parse in json_lines(path):
            try:
                row = parse()
            except BadEntryError:
                return None
            return list(row) if isinstance(row, dict) else None
    return None


def _recognises(path: Path, head: str) -> bool:
    return path.suffix == ".parquet" or set(REQUIRED) <= set(named_in(path) or ())


def unused_fields(path: Path) -> list[str]:
    """Fields of an item file that nothing reads: misspelt, or of other tools."""
    known = {field.name for field in fields(Item)} - {"source"}
    return [name for name in named_in(path) or () if name not in known]


READER = Reader(
    "items",
    read,
    _recognises,
    family="scenes",
    # Questions of no benchmark ask for the very word, yes and no included.
    score=plain,
    files=table_in,
)
