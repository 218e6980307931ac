"""Answers to items, and how many of them are right; each family's own rule and metrics are its reader's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from vlm_probe.evidence.intervals import clustered_mean, wilson
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


def kind_table(answers: pd.DataFrame) -> pd.DataFrame:
    """The mean score by kind of question, per model and family, with a 95 % interval.

    answers: as `evaluate` makes it, of one model or of several.

    Returns columns model, family, kind, n, score, low, high. The interval is Student's t over what is independent
    (pairs, images), as in `evidence.compare`, and NaN for too few of them. Of right and wrong answers about an image
    each it is Wilson's (1927), as in `accuracy_table`; so it is, over images, where all are right or none, which have
    no spread.
    """
    rows = []
    for keys, group in answers.groupby(["model", "family", "kind"], sort=False):
        about = keys if isinstance(keys, tuple) else (keys,)
        score, clusters = group["score"].to_numpy(dtype=float), _independent(group)
        each, n = len(np.unique(clusters)), len(group)
        mean, low, high = clustered_mean(score, clusters)
        if np.isin(score, (0.0, 1.0)).all() and (each == n or mean in (0.0, 1.0)):
            low, high = wilson(round(mean * each), each)
        rows.append((*about, n, mean, *np.clip([low, high], 0, 1)))
    return pd.DataFrame(rows, columns=["model", "family", "kind", "n", "score", "low", "high"])


def _independent(answers: pd.DataFrame) -> np.ndarray:
    """What every answer is independent by: its pair, its image, or itself where no image is told."""
    pair = answers.groupby("group")["id"].transform("size").to_numpy() > 1
    image = np.where(answers["image"].to_numpy() == "", answers["id"].to_numpy(), answers["image"].to_numpy())
    return np.where(pair, answers["group"].to_numpy(), image).astype(str)


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
