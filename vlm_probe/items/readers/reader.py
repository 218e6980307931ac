"""What a reader of a benchmark's question file is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from vlm_probe.items.item import Item
from vlm_probe.items.rules import Rule

Entry = tuple[int, Callable[[], Item]]
"""The number of a line or entry, and what makes its item (or raises `BadEntryError`)."""


@dataclass(frozen=True)
class Reader:
    """One benchmark's file: how it is told from others, and what makes items of it.

    A module of this folder that holds a `READER` is all a new benchmark takes.
    """

    name: str
    read: Callable[[Path, Path | None], Iterator[Entry]]
    """Takes the file and the folder of its images (None: questions alone)."""
    recognises: Callable[[Path, str], bool]
    """From the file's name, and the beginning of its text ("" for Parquet)."""
    entry: str = "line"
    """What the number of an entry counts, for messages."""
    metrics: Callable[[pd.DataFrame, pd.DataFrame], dict[str, float]] | None = None
    """The benchmark's own metrics, of all rows of a table of answers and of those in whole pairs; None: the mean
    score, as "accuracy"."""
    score: Rule | None = None
    """The benchmark's own rule for an answer, with its source and where we deviate; None: `rules.by_form`."""
    suffix: str = ""
    """The benchmark's answer format as LLaVA and lmms-eval append it to a question, after a line break; "": none."""
    family: str = ""
    """The family of items whose rule, metrics and suffix these are, where it is not `name`."""
    files: Callable[[Path], list[Path]] | None = None
    """The files of a benchmark that comes as a folder; none in a folder of another."""


SHORT = "Answer the question using a single word or phrase."
"""LLaVA's answer format for short answers (Liu et al. 2023, arXiv:2310.03744; its docs/Evaluation.md)."""


def image_in(images: Path | None, name: str) -> Path | None:
    """An image's file; None where no folder was given."""
    return None if images is None else images / name


def mean_score(answers: pd.DataFrame) -> dict[str, float]:
    """What most benchmarks report first."""
    return {"accuracy": float(answers["score"].to_numpy(dtype=float).mean())}
