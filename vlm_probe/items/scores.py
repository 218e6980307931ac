"""Answers to items, and how many of them are right; each family's own rule and metrics are its reader's."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from vlm_probe.evidence.intervals import wilson
from vlm_probe.items.item import Item
from vlm_probe.items.metrics import whole_pairs
from vlm_probe.items.readers import BY_FAMILY
from vlm_probe.items.readers.reader import mean_score
from vlm_probe.items.rules import by_form


def accuracy_table(answers: pd.DataFrame) -> pd.DataFrame:
    """Accuracy by question type and over all, with 95 % Wilson intervals (Wilson 1927).

    answers: columns kind, correct, chance and blind (`scenes.with_baselines`).

    Returns columns kind, n, accuracy, low, high, chance (one over the number of possible answers) and
    blind (accuracy of the best guess from the question alone: what seeing has to beat).
    """
    rows = []
    groups = [(str(kind), group) for kind, group in answers.groupby("kind", sort=False)]
    for kind, group in [*groups, ("all", answers)]:
        right, n = int(group["correct"].to_numpy().sum()), len(group)
        baselines = [float(group[name].to_numpy(dtype=float).mean()) for name in ("chance", "blind")]
        rows.append((kind, n, right / n, *wilson(right, n), *baselines))
    return pd.DataFrame(rows, columns=["kind", "n", "accuracy", "low", "high", "chance", "blind"])


def score_answer(item: Item, text: str) -> tuple[str, float]:
    """An answer as it is compared, and its score in [0, 1].

    The family's own rule (`Reader.score` of its reader) decides, and `rules.by_form` for families without one. Of
    several right answers (`Item.also`) the one counts by which the score is highest.
    """
    reader = BY_FAMILY.get(item.family)
    rule = by_form if reader is None or reader.score is None else reader.score
    found = [rule(replace(item, answer=right, also=()), text) for right in (item.answer, *item.also)]
    return max(found, key=lambda one: one[1])


ANSWER_COLUMNS = (
    "model",
    "id",
    "family",
    "kind",
    "group",
    "image",
    "question",
    "truth",
    "answer",
    "normalized",
    "correct",
    "score",
    "p_answer",
    "p_yes",
    "entropy",
)


def answer_row(
    model: str,
    item: Item,
    text: str,
    *,
    p_answer: float = float("nan"),
    p_yes: float = float("nan"),
    entropy: float = float("nan"),
    score: float | None = None,
) -> dict[str, str | float | bool]:
    """One row of the table of answers, keys `ANSWER_COLUMNS`.

    correct: whether the score is at least one half (of an item in parts: whether it is one).
    p_answer: probability of the right answer; p_yes: of yes over yes or no; entropy: of the first
    token, in nats. NaN where unknown (answers logged elsewhere). score: as it was computed elsewhere,
    where this item does not have what it takes.
    """
    normalized, own = score_answer(item, text)
    score = own if score is None else float(score)
    correct = score >= (1.0 if item.parts else 0.5)
    values = (
        model,
        item.id,
        item.family,
        item.kind,
        item.group,
        item.image,
        item.question,
        item.answer,
        text,
        normalized,
        correct,
        score,
        p_answer,
        p_yes,
        entropy,
    )
    return dict(zip(ANSWER_COLUMNS, values, strict=True))


def metric_table(answers: pd.DataFrame) -> pd.DataFrame:
    """Every family's metrics, per model: columns model, family, metric, value, n.

    answers: as `evaluate` makes it, of one model or of several. "accuracy" is the mean score (see `score_answer`: soft
    accuracies and shares of parts among them) where a family has no metrics of its own. n: items, or whole pairs for
    pair_accuracy and accuracy_plus.
    """
    rows = []
    for keys, group in answers.groupby(["model", "family"], sort=False):
        model, family = keys if isinstance(keys, tuple) else (keys, "")
        pairs = whole_pairs(group)
        reader = BY_FAMILY.get(str(family))
        own = None if reader is None else reader.metrics
        for metric, value in (mean_score(group) if own is None else own(group, pairs)).items():
            n = pairs["group"].nunique() if metric in ("pair_accuracy", "accuracy_plus") else len(group)
            rows.append((model, family, metric, value, n))
    return pd.DataFrame(rows, columns=["model", "family", "metric", "value", "n"])
