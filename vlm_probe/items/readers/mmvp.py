"""MMVP: pairs of images that CLIP finds alike."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from vlm_probe.errors import VlmProbeError
from vlm_probe.items.entries import BadEntryError, need, text_of
from vlm_probe.items.item import Item
from vlm_probe.items.metrics import group_accuracy
from vlm_probe.items.normalize import choice_letter
from vlm_probe.items.readers.reader import Entry, Reader, image_in, mean_score
from vlm_probe.items.rules import by_form, letter


def read(path: Path, images: Path | None) -> Iterator[Entry]:
    """MMVP (Tong et al. 2024): Questions.csv with Index (published as "lndex"), Question, Options,
    Correct Answer; images are <Index>.jpg, questions 1 and 2 a pair, 3 and 4, and so on."""

    def item(row: dict[str, Any]) -> Item:
        row.setdefault("Index", row.get("lndex"))
        index, question, options, answer = need(row, "Index", "Question", "Options", "Correct Answer")
        try:
            number = int(index)
        except ValueError:
            raise BadEntryError(f"Index must be a number, got {index!r}") from None
        if not choice_letter(answer):
            raise BadEntryError(f"the correct answer must be a letter, (a) or (b), got {answer!r}")
        image = f"{number}.jpg"
        return Item(
            f"mmvp-{number}",
            "mmvp",
            "choice",
            f"mmvp-pair-{(number + 1) // 2}",
            image,
            f"{question} {options}",
            answer.strip(),
            source=image_in(images, image),
        )

    reader = csv.DictReader(io.StringIO(text_of(path), newline=""))
    try:
        for row in reader:
            yield reader.line_num, lambda row=row: item(row)
    except csv.Error as error:
        raise VlmProbeError(f"{path}, line {reader.line_num}: no CSV ({error})") from error


def metrics(answers: pd.DataFrame, pairs: pd.DataFrame) -> dict[str, float]:
    """A pair counts where both of its images are answered right."""
    return mean_score(answers) | {"pair_accuracy": group_accuracy(pairs)}


def score(item: Item, text: str) -> tuple[str, float]:
    """1 for the letter of the right choice (`choice_letter`); generated twins have none and are scored by their form.

    Deviation: MMVP has GPT-4 judge. lmms-eval reads a letter, as here, but takes an article ("A man") for one.
    """
    return letter(item, text) if item.kind == "choice" else by_form(item, text)


READER = Reader(
    "mmvp",
    read,
    lambda path, head: path.suffix == ".csv" and "Options" in head,
    metrics=metrics,
    score=score,
    suffix="Answer with the option's letter from the given choices directly.",
)
