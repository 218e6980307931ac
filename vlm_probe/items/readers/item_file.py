"""Item files: a user's own, and those that `vlm-probe scenes export` writes."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

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

    for number, parse in _rows(path):
        yield number, lambda parse=parse, number=number: item(parse, number)


def _rows(path: Path) -> Iterator[tuple[int, Parse]]:
    """Every row's number, and what parses it."""
    if path.suffix == ".parquet":
        for number, row in enumerate(parquet_of(path).to_dict("records"), start=1):
            named = {str(key): _plain(value) for key, value in row.items()}
            yield number, lambda named=named: named
    elif path.suffix == ".csv":
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
    return tables if len(tables) == 1 and _recognises(tables[0], _head(tables[0])) else []


def _head(path: Path) -> str:
    return "" if path.suffix == ".parquet" else text_of(path)[:4000]


def _recognises(path: Path, head: str) -> bool:
    named: Callable[[str], bool] = {
        ".parquet": lambda name: True,
        ".jsonl": lambda name: f'"{name}"' in head,
        ".csv": lambda name: name in next(iter(csv.reader([head.split("\n", 1)[0].rstrip("\r")])), []),
    }.get(path.suffix, lambda name: False)
    return all(map(named, REQUIRED))


READER = Reader(
    "items",
    read,
    _recognises,
    family="scenes",
    # Questions of no benchmark ask for the very word, yes and no included.
    score=plain,
    files=table_in,
)
