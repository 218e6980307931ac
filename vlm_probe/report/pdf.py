"""A document as PDF, by typst: the words are handed over as JSON and stay words, whatever is in them."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from vlm_probe.errors import VlmProbeError
from vlm_probe.files import replacing, writing
from vlm_probe.report.document import Document, plain

TEMPLATE = "report.typ"
_WIDEST = 6.6
"""Inches: a page's width between its margins."""
_NARROW = 3.9
"""Inches: beside such a figure its caption has room."""
_FEW = 6
"""So many columns leave room for one that is wide."""


def write_pdf(document: Document, folder: Path) -> Path:
    """Write report.pdf to a folder that has the document's pictures in figures/, as SVG.

    Raises VlmProbeError where it cannot be written, and where a picture is missing.
    """
    import typst

    data = plain(document)
    _measured(data["sections"])
    made = {
        "document.json": json.dumps(data),
        TEMPLATE: (files("vlm_probe.report") / "templates" / TEMPLATE).read_text(),
    }
    with writing(folder):
        try:
            for name, text in made.items():
                (folder / name).write_text(text, encoding="utf-8", errors="replace")
            pdf: Any = typst.compile(folder / TEMPLATE, root=folder)
        except typst.TypstError as error:
            raise VlmProbeError(f"the report cannot be set: {error.message}") from error
        finally:
            for name in made:
                (folder / name).unlink(missing_ok=True)
        with replacing(folder / "report.pdf") as partial:
            partial.write_bytes(pdf)
    return folder / "report.pdf"


def _measured(blocks: list[dict[str, Any]]) -> None:
    """Say how wide columns and pictures are, and beside which pictures there is room for their captions."""
    for one in blocks:
        if one["kind"] == "table":
            columns = zip(one["header"], *one["rows"], strict=True)
            most = 90 if len(one["header"]) <= _FEW else 40
            one["weights"] = [_weight(column, most) for column in columns]
        elif one["kind"] == "explorer":
            del one["looks"]
        elif one["kind"] == "picture":
            one["width"] = min(one["width"], _WIDEST)
            one["narrow"] = one["width"] <= _NARROW
        elif one["kind"] == "section":
            _measured(one["blocks"])


def _weight(cells: tuple[str, ...], most: int) -> float:
    """Of a column: wide where its cells are long, and no narrower than its longest word."""
    longest_word = max(len(word) for cell in cells for word in (cell.split() or [""]))
    return float(max(6, min(longest_word, 18), min(sum(map(len, cells)) / len(cells), most)))
