"""Entries of text files: each parsed by itself, so that what is wrong with one is named and spoils no other."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from vlm_probe.errors import VlmProbeError
from vlm_probe.layout import UnitBox

Parse = Callable[[], Any]


class BadEntryError(VlmProbeError):
    """An entry that is not what the format promises."""


def attempt(make: Callable[[], Any]) -> Any:
    """What `make` makes of an entry; BadEntryError for a value of another kind than the format has there."""
    try:
        return make()
    except (TypeError, ValueError, AttributeError, LookupError) as error:
        raise BadEntryError(f"a value of an unexpected kind ({error})") from error


def need(row: Any, *names: str) -> list[Any]:
    """The values of these fields; BadEntryError names what is missing."""
    if not isinstance(row, dict):
        raise BadEntryError(f"expected an object with {', '.join(names)}, got {str(row)[:60]!r}")
    missing = [name for name in names if row.get(name) in (None, "")]
    if missing:
        raise BadEntryError(f"no {' and no '.join(missing)}")
    return [row[name] for name in names]


def need_texts(row: Any, *names: str) -> list[str]:
    """As `need`, of fields that must hold text."""
    values = need(row, *names)
    for name, value in zip(names, values, strict=True):
        if not isinstance(value, str):
            raise BadEntryError(f"{name} must be text, got {value!r:.60}")
    return values


def texts_in(row: dict[str, Any], name: str) -> tuple[str, ...]:
    """A field that may be missing, and is a list of texts where it is there: one text is no list of its letters."""
    values = row.get(name)
    if values is None:
        return ()
    if not isinstance(values, list | tuple) or not all(isinstance(value, str) for value in values):
        raise BadEntryError(f"{name} must be a list of texts, got {values!r:.60}")
    return tuple(values)


def boxes_in(row: dict[str, Any], name: str) -> tuple[UnitBox, ...]:
    """A field that may be missing, and is a list of boxes where it is there: left, top, right, bottom, 0 to 1."""
    found = []
    for value in row.get(name) or ():
        numbers = isinstance(value, list | tuple) and len(value) == 4
        if not numbers or not all(isinstance(v, int | float) and not isinstance(v, bool) for v in value):
            raise BadEntryError(f"{name} must be a list of [left, top, right, bottom], got {value!r:.60} in it")
        box = UnitBox(*value)
        if box.left >= box.right or box.top >= box.bottom:
            raise BadEntryError(f"a box's left must be before its right, its top before its bottom, got {value!r:.60}")
        if not (0 <= box.left < box.right <= 1 and 0 <= box.top < box.bottom <= 1):
            raise BadEntryError(f"a box must be in shares of the image, 0 to 1, got {value!r:.60}")
        found.append(box)
    return tuple(found)


def yes_no(text: Any) -> str:
    """A truth that must be yes or no, in lower case."""
    said = str(text).strip().lower()
    if said not in ("yes", "no"):
        raise BadEntryError(f"the answer must be yes or no, got {str(text)!r}")
    return said


def text_of(path: Path) -> str:
    """A text file; VlmProbeError where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise VlmProbeError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise VlmProbeError(f"{path} is not a text file (UTF-8)") from error


def parquet_of(path: Path) -> pd.DataFrame:
    """A Parquet table; VlmProbeError where it cannot be read."""
    if not path.is_file():
        raise VlmProbeError(f"cannot read {path}: No such file or directory")
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise VlmProbeError(f"cannot read {path}: {str(error).splitlines()[0]}") from error


def lines_of(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, with their numbers from 1."""
    # Not splitlines(): it also parts at U+2028 and others, which JSON may hold unescaped.
    for number, line in enumerate(text_of(path).split("\n"), start=1):
        if line.strip():
            yield number, line


def json_lines(path: Path) -> Iterator[tuple[int, Parse]]:
    """Every line with what parses it."""

    def parse(line: str) -> Any:
        try:
            return json.loads(line)
        except json.JSONDecodeError as error:
            raise BadEntryError(f"no JSON ({error.msg})") from error

    for number, line in lines_of(path):
        yield number, lambda line=line: parse(line)


def listed(found: dict[str, Any], name: str, path: Path) -> list[Any]:
    """A JSON object's list; VlmProbeError where it has none."""
    if not isinstance(found.get(name), list):
        raise VlmProbeError(f"{path} has no list of {name}")
    return found[name]


def json_object(path: Path) -> dict[str, Any]:
    """A file that is one JSON object; VlmProbeError where it is not."""
    try:
        found = json.loads(text_of(path))
    except json.JSONDecodeError as error:
        raise VlmProbeError(f"{path}, line {error.lineno}: no JSON ({error.msg})") from error
    if not isinstance(found, dict):
        raise VlmProbeError(f"{path} holds a {type(found).__name__}, expected a JSON object")
    return found
