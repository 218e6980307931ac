"""What `--items` and `--answers` name: items and answers of several sources in one list."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from vlm_probe.errors import VlmProbeError
from vlm_probe.items.entries import parquet_of
from vlm_probe.items.item import Item
from vlm_probe.items.logs import read_lmms_samples
from vlm_probe.items.readers import read_items
from vlm_probe.items.scores import ANSWER_COLUMNS


def gather_items(
    names: Sequence[str],
    images: Sequence[Path],
    *,
    generated: Callable[[], Iterable[Item]],
    format: str | None,
    skip_bad: bool,
) -> tuple[list[Item], list[str]]:
    """The items that `--items` names, and what was skipped: generated scenes ("scenes"), or question files'.

    generated: makes the items of "scenes". images: one folder for all files, or one for each, in their order.

    Raises VlmProbeError for folders that are neither, a file whose images are not given, and whatever
    `read_items` raises.
    """
    files = [name for name in names if name != "scenes"]
    if images and len(images) not in (1, len(files)):
        raise VlmProbeError(
            f"{len(files)} question files and {len(images)} folders of images; give one for all, or one each"
        )
    folders: Sequence[Path | None] = images if len(images) == len(files) else [*(images or [None])] * len(files)
    found: list[Item] = list(generated()) if "scenes" in names else []
    skipped: list[str] = []
    for name, folder in zip(files, folders, strict=True):
        read, bad = read_items(name, folder, format=format, skip_bad=skip_bad)
        if read[0].source is None:
            raise VlmProbeError(f"{name} names images; say where they are with --images FOLDER")
        found += read
        skipped += bad
    return _told_apart(found), skipped


def _told_apart(items: list[Item]) -> list[Item]:
    """Images of one name that are not one image (MMVP's and another's 1.jpg) under names of their own."""
    behind: dict[str, set[str]] = {}
    for item in items:
        behind.setdefault(item.image, set()).add(str(item.source))
    return [replace(item, image=str(item.source)) if len(behind[item.image]) > 1 else item for item in items]


def read_answers(file: Path, skipped: list[str], *, skip_bad: bool) -> pd.DataFrame:
    """Answers given elsewhere: an `answers.parquet`, or samples logged by lmms-eval.

    What was skipped is added to `skipped`. Raises VlmProbeError as `read_lmms_samples` does.
    """
    if file.suffix == ".parquet":
        table = parquet_of(file)
        missing = [name for name in ANSWER_COLUMNS if name not in table.columns]
        if missing:
            raise VlmProbeError(f"{file} is no table of answers: it has no column {', '.join(missing)}")
        return table
    table, bad = read_lmms_samples(file, skip_bad=skip_bad)
    skipped += bad
    return table
