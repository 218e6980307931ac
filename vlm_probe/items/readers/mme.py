"""MME: fourteen categories of two yes/no questions an image."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from vlm_probe.items.entries import BadEntryError, lines_of, yes_no
from vlm_probe.items.item import Item
from vlm_probe.items.metrics import MME_CATEGORIES, group_accuracy, mme_scores
from vlm_probe.items.readers.reader import SHORT, Entry, Reader, image_in, mean_score
from vlm_probe.items.rules import YES_NO, by_form


def read(path: Path, images: Path | None) -> Iterator[Entry]:
    """MME (Fu et al. 2023): a category's <category>.txt of its evaluation tool, lines of image,
    question and answer between tabs; images in the folder, in its subfolder <category>, or in the
    subfolder images of either."""
    category = path.stem
    folder = images
    for below in (category, "images"):
        folder = folder / below if folder is not None and (folder / below).is_dir() else folder
    seen: dict[str, int] = {}

    def item(line: str) -> Item:
        parts = line.split("\t")
        if len(parts) < 3:
            raise BadEntryError(f"expected image, question and answer between tabs, got {len(parts)} fields")
        image, question, answer = (part.strip() for part in parts[:3])
        seen[image] = seen.get(image, 0) + 1
        key = f"mme-{category}-{image}"
        return Item(
            # Other categories have images of the same name.
            f"{key}-{seen[image]}",
            "mme",
            category,
            key,
            f"{category}/{image}",
            question,
            yes_no(answer),
            source=image_in(folder, image),
        )

    for number, line in lines_of(path):
        yield number, lambda line=line: item(line)


def category_files(folder: Path) -> list[Path]:
    """The categories' files in a folder, as MME's evaluation tool has them in Your_Results; none in another folder."""
    there = [folder / f"{category}.txt" for part in MME_CATEGORIES.values() for category in part]
    return [file for file in there if file.is_file()]


def metrics(answers: pd.DataFrame, pairs: pd.DataFrame) -> dict[str, float]:
    """Accuracy+ wants both questions about an image; the two sums want all of their categories."""
    return mean_score(answers) | {"accuracy_plus": group_accuracy(pairs)} | mme_scores(answers)


def yes_or_no_first(text: str) -> str:
    """ "yes" or "no" as MME's evaluation reads it (its `calculation.py`), or "".

    The answer itself, or one of the two within its first four characters, yes before no.
    """
    said = text.lower().strip().replace(".", "")
    if said in ("y", "n"):
        return {"y": "yes", "n": "no"}[said]
    return next((word for word in YES_NO if word in said[:4]), "")


def score(item: Item, text: str) -> tuple[str, float]:
    """1 for the right one of yes and no (`yes_or_no_first`); items of the family that ask otherwise, by their form."""
    if item.answer not in YES_NO:
        return by_form(item, text)
    said = yes_or_no_first(text)
    return said, float(said == item.answer)


READER = Reader(
    "mme",
    read,
    lambda path, head: path.suffix == ".txt" and "\t" in head,
    metrics=metrics,
    score=score,
    # Deviation: LLaVA and lmms-eval put it in the place of MME's own "Please answer yes or no.", which stays here.
    suffix=SHORT,
    files=category_files,
)
