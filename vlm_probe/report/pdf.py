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
"""Inches: a figure that is as wide fills a page's width."""


def write_pdf(document: Document, folder: Path, widths: dict[str, float]) -> Path:
    """Write report.pdf to a folder that has the document's pictures in figures/, as SVG.

    widths: of the pictures, in inches, by file.

    Raises VlmProbeError where it cannot be written, and where a picture is missing.
    """
    import typst

    data = plain(document)
    _measured(data["sections"], widths)
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


def _measured(blocks: list[dict[str, Any]], widths: dict[str, float]) -> None:
    """Say how wide columns and pictures are; data URIs are left out."""
    for one in blocks:
        if one["kind"] == "table":
            columns = zip(one["header"], *one["rows"], strict=True)
            one["weights"] = [_weight(column) for column in columns]
        elif one["kind"] == "picture":
            del one["uri"]
            one["width"] = round(min(100.0, 100 * widths[one["file"]] / _WIDEST))
        elif one["kind"] == "section":
            _measured(one["blocks"], widths)


def _weight(cells: tuple[str, ...]) -> float:
    """Of a column: wide where its cells are long, and no narrower than its longest word."""
    longest_word = max(len(word) for cell in cells for word in (cell.split() or [""]))
    return float(max(4, min(longest_word, 18), min(sum(map(len, cells)) / len(cells), 40)))
