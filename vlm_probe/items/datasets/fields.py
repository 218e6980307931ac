"""From the fields of a row, whatever held them, to an item."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from vlm_probe.errors import VlmProbeError, nearest
from vlm_probe.items.entries import BadEntryError, attempt, need_texts
from vlm_probe.items.item import Item, Packed, item_from_row
from vlm_probe.items.readers.item_file import OWN

FIELDS = tuple(field.name for field in fields(Item) if field.name != "source")
"""Fields that a row may have."""
PATHS = ("image", "path", "file_name", "filepath")
"""Columns that name an image file, the first that is there."""


def check_columns(columns: Mapping[str, str]) -> None:
    """VlmProbeError for a field that no item has."""
    for name in columns:
        if name not in FIELDS:
            raise VlmProbeError(f"an item has no field {name!r}; nearest are {nearest(name, FIELDS)}")


def chosen(names: Iterable[str], columns: Mapping[str, str]) -> dict[str, str]:
    """Field -> the column that it is read from, of those that are there; but for the image.

    columns: as `open_dataset` takes them, "" for a field that is not to be read.

    Raises VlmProbeError where a column is named that is not there.
    """
    there = list(names)
    for name, column in columns.items():
        if column and column not in there:
            raise VlmProbeError(f"there is no column {column!r} for {name}; there are {', '.join(there) or 'none'}")
    found = {name: columns.get(name, name) for name in FIELDS if name != "image"}
    return {name: column for name, column in found.items() if column and column in there}


def taken(row: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """What a row that names its own fields has for an item's; but for the image.

    Raises BadEntryError where it lacks a column that is named.
    """
    try:
        return {name: row[column] for name, column in chosen(row, columns).items()}
    except VlmProbeError as error:
        raise BadEntryError(str(error)) from None


def item_of(row: Mapping[str, Any], image: str, source: Path | Packed, *, id: str, question: str) -> Item:
    """An item from what is known of it: as in an item file (`readers.item_file`), with question and answer or without.

    row: by names of fields; empty and NaN are not there. id, question: where the row has none.

    Raises BadEntryError for values that are none for their field.
    """
    # NaN is not itself.
    named = {name: value for name, value in row.items() if value not in (None, "") and value == value}
    given = named.get("id", id)
    if not isinstance(given, str | int | float):
        raise BadEntryError(f"id must be text or a number, got {given!r:.60}")
    id = str(given)
    whole = {"family": OWN, "kind": "question", "group": id, "question": question, "answer": "", **named}
    whole |= {"id": id, "image": image}
    need_texts(whole, "image", "question", "family", "kind")
    if not isinstance(whole["answer"], str):
        raise BadEntryError(f"answer must be text, got {whole['answer']!r:.60}")
    item = replace(attempt(lambda: item_from_row(whole, None)), source=source)
    try:
        "".join(str(getattr(item, name)) for name in ("id", "group", "image", "question", "answer")).encode()
        "".join((*item.answers, *item.also, *item.parts, *item.distractors, item.family, item.kind)).encode()
    except UnicodeEncodeError:
        raise BadEntryError("its text holds half a character (a lone surrogate)") from None
    return item
