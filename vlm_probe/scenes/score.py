"""Answers to items, and how many of them are right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache

import pandas as pd
from PIL import Image
from scipy.stats import binomtest

from vlm_probe.scenes.questions import Question, SceneItem, scene_items
from vlm_probe.scenes.render import scene_image

Answerer = Callable[[list[Image.Image], list[str]], Sequence[str]]
"""Takes images and questions, one each, and returns answers: `model.answer_all` is one."""
_BLIND_ITEMS = 6000
"""Training items from which the blind guess is learned."""


@lru_cache(maxsize=1)
def _habits() -> tuple[dict[str, str], dict[str, str]]:
    """The most frequent answer per question text, and per question type, over training scenes."""
    by_text: dict[str, Counter[str]] = {}
    by_kind: dict[str, Counter[str]] = {}
    for item in scene_items(_BLIND_ITEMS, split="train"):
        q = item.question
        by_text.setdefault(q.text, Counter())[q.answer] += 1
        by_kind.setdefault(q.kind, Counter())[q.answer] += 1
    first = {text: answers.most_common(1)[0][0] for text, answers in by_text.items()}
    return first, {kind: answers.most_common(1)[0][0] for kind, answers in by_kind.items()}


def blind_answer(question: Question) -> str:
    """The best guess without the image: the most frequent answer to this question in training."""
    by_text, by_kind = _habits()
    return by_text.get(question.text, by_kind[question.kind])


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
    answer: for instance `model.answer_all`.
    size: pixels of the rendered images.
    progress: called with the number of items just done.

    Returns
    -------
    One row an item: id, kind, question, answer, predicted, correct, chance (one over the number of
    possible answers), blind (whether `blind_answer` is right).
    """
    rows = []
    for start in range(0, len(items), batch_size):
        part = items[start : start + batch_size]
        images = [scene_image(item.scene, size) for item in part]
        texts = answer(images, [item.question.text for item in part])
        for item, text in zip(part, texts, strict=True):
            q = item.question
            right = normalize_answer(text) == normalize_answer(q.answer)
            blind = blind_answer(q) == q.answer
            rows.append((item.id, q.kind, q.text, q.answer, text, right, 1 / len(q.choices), blind))
        if progress is not None:
            progress(len(part))
    columns = ["id", "kind", "question", "answer", "predicted", "correct", "chance", "blind"]
    return pd.DataFrame(rows, columns=columns)


def accuracy_table(answers: pd.DataFrame) -> pd.DataFrame:
    """Accuracy by question type and over all, with 95 % Wilson intervals (Wilson 1927).

    Returns columns kind, n, accuracy, low, high, chance (one over the number of possible answers) and
    blind (accuracy of the best guess from the question alone: what seeing has to beat).
    """
    rows = []
    groups = [(str(kind), group) for kind, group in answers.groupby("kind", sort=False)]
    for kind, group in [*groups, ("all", answers)]:
        right, n = int(group["correct"].to_numpy().sum()), len(group)
        interval = binomtest(right, n).proportion_ci(method="wilson")
        baselines = [float(group[name].to_numpy(dtype=float).mean()) for name in ("chance", "blind")]
        rows.append((kind, n, right / n, interval.low, interval.high, *baselines))
    return pd.DataFrame(rows, columns=["kind", "n", "accuracy", "low", "high", "chance", "blind"])
