"""Reading tables: rows, names and numbers of a column, and numbers of items in words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd


def where(table: pd.DataFrame, column: str, *values: Any) -> pd.DataFrame:
    """The rows that have one of these values in a column; a value is also known by its text."""
    return table.loc[[value in values or str(value) in values for value in table[column].tolist()]]


def names(table: pd.DataFrame, column: str) -> list[str]:
    """The different names in a column, in the order they come in."""
    return list(dict.fromkeys(map(str, table[column].tolist())))


def numbers(table: pd.DataFrame, *columns: str) -> np.ndarray:
    """One column's values, or [row, column] of several."""
    found = np.asarray(table.filter(list(columns)), dtype=float)
    return found[:, 0] if len(columns) == 1 else found


def in_shares(table: pd.DataFrame, low: str = "low", high: str = "high") -> pd.DataFrame:
    """Shares with their intervals cut off at 0 and 1: Student's t knows no such ends."""
    return table.assign(**{end: table[end].clip(0, 1) for end in (low, high)})


def asked(attrs: Mapping[Any, Any]) -> str:
    """The question that attrs name, or else their prompt without its special tokens; "" where they have neither.

    >>> asked({"prompt": "<bos><image><image>\\nWhat color is it?\\n"})
    '“What color is it?”'
    """
    text = attrs.get("question") or re.sub(r"<[^<>\s]*>", " ", str(attrs.get("prompt") or ""))
    words = " ".join(str(text).split())
    return f"“{words}”" if words else ""


def about(attrs: Mapping[Any, Any], *, model: bool = True, question: bool = True) -> str:
    """Which model was asked what, for a note; what attrs do not name is said to be missing.

    model, question: whether to speak of it at all.

    >>> about({"model": "replica/default"})
    'replica/default; question not named'
    """
    parts = [str(attrs.get("model") or "model not named")] if model else []
    parts += [asked(attrs) or "question not named"] if question else []
    return "; ".join(parts)


def known_of(attrs: Mapping[Any, Any]) -> str:
    """Which model was asked what, as far as attrs name it."""
    return "; ".join(part for part in (str(attrs.get("model") or ""), asked(attrs)) if part)


_SPACES = str.maketrans({" ": "␣", "\n": "↵", "\t": "⇥"})


def visible(token: str) -> str:
    """A token with the spaces at its ends as marks: " yellow" and "yellow" are two tokens.

    >>> [visible(token) for token in (" yellow", "yellow", "\\n", "a b")]
    ['␣yellow', 'yellow', '↵', 'a b']
    """
    core = token.strip()
    if not core:
        return token.translate(_SPACES) or repr(token)
    before, after = token.split(core, 1)
    return before.translate(_SPACES) + core + after.translate(_SPACES)


def counts(table: pd.DataFrame, column: str = "n") -> str:
    """Numbers of items in words: "36", "30 or 36", and "12 to 40" where more than two differ."""
    different = sorted({int(value) for value in numbers(table, column) if not np.isnan(value)})
    if len(different) > 2:
        return f"{different[0]} to {different[-1]}"
    return " or ".join(map(str, different)) or "?"


def counted(table: pd.DataFrame, column: str, gap: str = " ") -> list[str]:
    """Every row's name with the number of items that its name has, from the column n: "color (n=36)"."""
    n = {name: counts(where(table, column, name)) for name in names(table, column)}
    return [f"{name}{gap}(n={n[name]})" for name in table[column].tolist()]
