"""GQA: relations, attributes and objects of real scenes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vlm_probe.items.entries import json_object, need, need_texts
from vlm_probe.items.item import Item
from vlm_probe.items.readers.reader import Entry, Reader, image_in


def read(path: Path, images: Path | None) -> Iterator[Entry]:
    """GQA (Hudson and Manning 2019): one JSON object, question id -> imageId, question, answer, types."""

    def item(key: str, row: Any) -> Item:
        image, question, answer = need(row, "imageId", "question", "answer")
        need_texts(row, "question", "answer")
        kind = str((row.get("types") or {}).get("semantic") or "question")
        name = f"gqa-{key}"
        return Item(name, "gqa", kind, name, f"{image}.jpg", question, answer, source=image_in(images, f"{image}.jpg"))

    for number, (key, row) in enumerate(json_object(path).items(), start=1):
        yield number, lambda key=key, row=row: item(key, row)


READER = Reader("gqa", read, lambda path, head: '"imageId"' in head, entry="entry")
