"""POPE: is there such an object?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from vlm_probe.items.entries import Parse, json_lines, need, need_texts, yes_no
from vlm_probe.items.item import Item
from vlm_probe.items.metrics import yes_no_metrics
from vlm_probe.items.readers.reader import SHORT, Entry, Reader, image_in, mean_score
from vlm_probe.items.rules import YES_NO, by_form
from vlm_probe.items.rules import yes_no as said_in_a_sentence


def read(path: Path, images: Path | None) -> Iterator[Entry]:
    """POPE (Li et al. 2023): JSON lines with question_id, image, text, label."""
    kind = next((k for k in ("random", "popular", "adversarial") if k in path.stem.lower()), "existence")

    def item(parse: Parse) -> Item:
        row = parse()
        number, image, text, label = need(row, "question_id", "image", "text", "label")
        need_texts(row, "image", "text")
        name = f"pope-{kind}-{number}"
        return Item(name, "pope", kind, name, image, text, yes_no(label), source=image_in(images, image))

    for number, parse in json_lines(path):
        yield number, lambda parse=parse: item(parse)


def metrics(answers: pd.DataFrame, pairs: pd.DataFrame) -> dict[str, float]:
    """POPE's own, where all truths are yes or no."""
    if set(answers["truth"]) <= set(YES_NO):
        return yes_no_metrics(answers["normalized"].tolist(), answers["truth"].tolist())
    return mean_score(answers)


def score(item: Item, text: str) -> tuple[str, float]:
    """1 for the right one of yes and no, as POPE's evaluation reads a sentence (`yes_or_no` says where we deviate);
    items of the family that ask otherwise, by their form."""
    return said_in_a_sentence(item, text) if item.answer in YES_NO else by_form(item, text)


READER = Reader(
    "pope",
    read,
    lambda path, head: path.suffix != ".parquet" and '"label"' in head,
    metrics=metrics,
    score=score,
    suffix=SHORT,
)
