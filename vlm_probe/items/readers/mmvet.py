"""MM-Vet: answers in several parts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vlm_probe.items.entries import json_object, need, need_texts
from vlm_probe.items.item import Item
from vlm_probe.items.readers.reader import Entry, Reader, image_in
from vlm_probe.items.rules import YES_NO, by_form, in_parts


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


def score(item: Item, text: str) -> tuple[str, float]:
    """The share of the answer's parts that the text names; where the right answer is yes or no alone, see `yes_no`.

    Deviation: MM-Vet has GPT-4 judge, with shares of its own. Here a part counts where its words stand in the answer:
    one that is named to be denied counts too.
    """
    return in_parts(item, text) if item.parts and item.answer not in YES_NO else by_form(item, text)


# It wants free answers: LLaVA appends nothing.
READER = Reader("mmvet", read, lambda path, head: '"imagename"' in head, entry="entry", score=score)
