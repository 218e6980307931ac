"""MM-Vet: answers in several parts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vlm_probe.items.entries import json_object, need, need_texts
from vlm_probe.items.item import Item
from vlm_probe.items.readers.reader import Entry, Reader, image_in


def answer_parts(answer: str) -> tuple[str, tuple[str, ...]]:
    """MM-Vet's answer (parts joined by <AND>, alternatives by <OR>) in plain words, and its parts."""
    parts = tuple(part.strip() for part in answer.split("<AND>"))
    return " ".join(part.split("<OR>")[0].strip() for part in parts), parts


def read(path: Path, images: Path | None) -> Iterator[Entry]:
    """MM-Vet (Yu et al. 2023): mm-vet.json, id -> imagename, question, answer (parts joined by <AND>,
    alternatives by <OR>), capability."""

    def item(key: str, row: Any) -> Item:
        image, question, answer = need(row, "imagename", "question", "answer")
        need_texts(row, "imagename", "question")
        kind = "+".join(sorted(map(str, row.get("capability") or []))) or "question"
        name = f"mmvet-{key}"
        plain, parts = answer_parts(str(answer))
        return Item(name, "mmvet", kind, name, image, question, plain, parts=parts, source=image_in(images, image))

    for number, (key, row) in enumerate(json_object(path).items(), start=1):
        yield number, lambda key=key, row=row: item(key, row)


READER = Reader("mmvet", read, lambda path, head: '"imagename"' in head, entry="entry")
