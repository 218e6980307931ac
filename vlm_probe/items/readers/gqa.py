"""GQA: relations, attributes and objects of real scenes."""

from __future__ import annotations

import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vlm_probe.items.entries import json_object, need, need_texts
from vlm_probe.items.item import Item
from vlm_probe.items.readers.reader import SHORT, Entry, Reader, image_in

_NO_MARKS = str.maketrans("", "", string.punctuation)


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


def score(item: Item, text: str) -> tuple[str, float]:
    """1 where the answer is the right one, letter for letter, but for case, punctuation and spaces.

    GQA's evaluation compares the strings as they are (its `eval.py`: `predicted == gold`); as most report it, and as
    here, case and ASCII punctuation are dropped first (lmms-eval's gqa: exact_match with ignore_case and
    ignore_punctuation, of a stripped answer; LLaVA lowers and drops a last period). So "two" is not "2", "a red" is not
    "red", and yes and no are words like any other. Deviation: runs of spaces are one space, so that a mark between
    spaces leaves no trace.
    """
    said, wanted = (" ".join(one.lower().translate(_NO_MARKS).split()) for one in (text, item.answer))
    return said, float(said == wanted != "")


READER = Reader("gqa", read, lambda path, head: '"imageId"' in head, entry="entry", score=score, suffix=SHORT)
