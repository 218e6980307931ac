"""Answers to items, and how many of them are right."""

from __future__ import annotations

import pandas as pd

from vlm_probe.evidence.intervals import wilson
from vlm_probe.items.item import Item
from vlm_probe.items.metrics import vqa_accuracy, whole_pairs
from vlm_probe.items.normalize import choice_letter, normalize_answer, words_of, yes_or_no, yes_or_no_first
from vlm_probe.items.readers import FORMATS
from vlm_probe.items.readers.reader import mean_score


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

    Yes/no questions: 1 if the answer is right as MME reads it (family "mme") or as POPE does (others,
    but not GQA and plain scenes, which ask for the very word). Multiple choice: 1 for the right letter. Items with
    annotators: VQA's soft accuracy. Items in parts: the share of parts that the answer names (MM-Vet
    has GPT-4 judge; here a part counts where its words stand in the answer). All else: 1 if the
    normalised answers are equal.
    """
    if item.kind == "choice":
        letter = choice_letter(text)
        return letter, float(letter != "" and letter == choice_letter(item.answer))
    if item.answer in ("yes", "no") and not item.answers and item.family not in ("gqa", "scenes"):
        said = yes_or_no_first(text) if item.family == "mme" else yes_or_no(text)
        return said, float(said == item.answer)
    given = normalize_answer(text)
    if item.answers:
        return given, vqa_accuracy(text, item.answers)
    if item.parts:
        words = words_of(text)
        named = [any(_stand_in(words_of(a), words) for a in part.split("<OR>")) for part in item.parts]
        return given, sum(named) / len(named)
    wanted = normalize_answer(item.answer)
    if not wanted:  # "A": an article, and nothing else
        return given, float(text.strip(" .").lower() == item.answer.strip(" .").lower())
    return given, float(given == wanted)


def _stand_in(wanted: list[str], words: list[str]) -> bool:
    n = len(wanted)
    return n > 0 and any(words[i : i + n] == wanted for i in range(len(words) - n + 1))


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

    answers: as `evaluate` makes it, of one model or of several. "accuracy" is VQA's soft accuracy for
    vqav2, the share of answer parts for mmvet, and else the share right (see `score_answer`). n: items,
    or whole pairs for pair_accuracy and accuracy_plus.
    """
    rows = []
    for keys, group in answers.groupby(["model", "family"], sort=False):
        model, family = keys if isinstance(keys, tuple) else (keys, "")
        pairs = whole_pairs(group)
        own = FORMATS[family].metrics if family in FORMATS else None
        for metric, value in (mean_score(group) if own is None else own(group, pairs)).items():
            n = pairs["group"].nunique() if metric in ("pair_accuracy", "accuracy_plus") else len(group)
            rows.append((model, family, metric, value, n))
    return pd.DataFrame(rows, columns=["model", "family", "metric", "value", "n"])
