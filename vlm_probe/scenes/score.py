"""Answers to items, and how many of them are right."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd
from PIL import Image
from scipy.stats import binomtest

from vlm_probe.scenes.questions import SceneItem
from vlm_probe.scenes.render import scene_image

Answerer = Callable[[list[Image.Image], list[str]], Sequence[str]]
"""Takes images and questions, one each, and returns answers: `model.answer` is one."""


def normalize_answer(text: str) -> str:
    """Lower case, no surrounding space or punctuation: "Red." is "red"."""
    return text.strip().strip(".,!?;:\"'").strip().lower()


def answer_items(
    answer: Answerer,
    items: Sequence[SceneItem],
    *,
    size: int,
    batch_size: int = 32,
    progress: Callable[[int], None] | None = None,
) -> pd.DataFrame:
    """Ask every item and compare.

    Parameters
    ----------
    answer: for instance `model.answer`.
    size: pixels of the rendered images.
    progress: called with the number of items just done.

    Returns
    -------
    One row an item: id, kind, question, answer, predicted, correct, chance.
    """
    rows = []
    for start in range(0, len(items), batch_size):
        part = items[start : start + batch_size]
        images = [scene_image(item.scene, size) for item in part]
        texts = answer(images, [item.question.text for item in part])
        for item, text in zip(part, texts, strict=True):
            q = item.question
            right = normalize_answer(text) == normalize_answer(q.answer)
            rows.append((item.id, q.kind, q.text, q.answer, text, right, 1 / len(q.choices)))
        if progress is not None:
            progress(len(part))
    return pd.DataFrame(rows, columns=["id", "kind", "question", "answer", "predicted", "correct", "chance"])


def accuracy_table(answers: pd.DataFrame) -> pd.DataFrame:
    """Accuracy by question type and over all, with 95 % Wilson intervals (Wilson 1927).

    Returns columns kind, n, accuracy, low, high, chance (one over the number of possible answers).
    """
    rows = []
    groups = [(str(kind), group) for kind, group in answers.groupby("kind", sort=False)]
    for kind, group in [*groups, ("all", answers)]:
        right, n = int(group["correct"].to_numpy().sum()), len(group)
        interval = binomtest(right, n).proportion_ci(method="wilson")
        rows.append((kind, n, right / n, interval.low, interval.high, float(group["chance"].to_numpy().mean())))
    return pd.DataFrame(rows, columns=["kind", "n", "accuracy", "low", "high", "chance"])
