"""What a report says, as data: blocks and sections, before anything is written as HTML or PDF."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from vlm_probe.report.page import rows_of


@dataclass(frozen=True)
class Paragraph:
    """Plain words."""

    text: str
    soft: bool = False
    """Whether it is an aside."""


@dataclass(frozen=True)
class Bullets:
    """A list of plain words."""

    items: tuple[str, ...]


@dataclass(frozen=True)
class Code:
    """A command, or an entry of a bibliography."""

    text: str


@dataclass(frozen=True)
class Table:
    """Cells as they are read."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    whole: bool = False
    """Whether a page shows all of a long one at once."""

    @classmethod
    def of(cls, table: pd.DataFrame, *, whole: bool = False) -> Table:
        """A table with its numbers in words."""
        said = rows_of(table)
        return cls(tuple(said["header"]), tuple(tuple(row) for row in said["rows"]), whole)


@dataclass(frozen=True)
class Picture:
    """A figure, which is among a report's files as PNG, SVG and PDF, and its data as CSV."""

    file: str
    """The files' name in the folder figures/, without a suffix."""
    width: float
    """In inches."""
    title: str
    """What it shows, and what came of it."""
    caption: str
    alt: str


@dataclass(frozen=True)
class Explorer:
    """Looks to explore by hand (`explorer.look`), on a page; a paper has none."""

    looks: tuple[dict[str, Any], ...]
    key: str
    """Of this one among several, in the page's address."""


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it."""

    heading: str
    blocks: tuple[Block, ...]
    id: str = ""
    """By which it is linked."""
    folded: bool = False
    """Whether a page shows its heading alone until it is asked for."""


Block = Paragraph | Bullets | Code | Table | Picture | Explorer | Section


@dataclass(frozen=True)
class Document:
    """A report."""

    title: str
    subtitle: str
    sections: tuple[Section, ...]


def pictures(blocks: Iterable[Block]) -> Iterator[Picture]:
    """All pictures, in the order of the page."""
    for one in blocks:
        if isinstance(one, Picture):
            yield one
        elif isinstance(one, Section):
            yield from pictures(one.blocks)


def plain(document: Document) -> dict[str, Any]:
    """A document as JSON has it: every block says in "kind" what it is."""

    def block(one: Block) -> dict[str, Any]:
        own = {"kind": type(one).__name__.lower()}
        if isinstance(one, Section):
            return own | {**vars(one), "blocks": [block(part) for part in one.blocks]}
        return own | (vars(one) if isinstance(one, Explorer) else asdict(one))

    return {
        "title": document.title,
        "subtitle": document.subtitle,
        "sections": [block(section) for section in document.sections],
    }
