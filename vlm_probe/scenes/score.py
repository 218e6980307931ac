"""Answers to items, and how many of them are right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache

import pandas as pd
from PIL import Image

from vlm_probe.scenes.items import Item
from vlm_probe.scenes.metrics import vqa_accuracy, wilson
from vlm_probe.scenes.normalize import choice_letter, normalize_answer, words_of, yes_or_no, yes_or_no_first
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
        baselines = [float(group[name].to_numpy(dtype=float).mean()) for name in ("chance", "blind")]
        rows.append((kind, n, right / n, *wilson(right, n), *baselines))
    return pd.DataFrame(rows, columns=["kind", "n", "accuracy", "low", "high", "chance", "blind"])


def score_answer(item: Item, text: str) -> tuple[str, float]:
    """An answer as it is compared, and its score in [0, 1].

    Yes/no questions: 1 if the answer is right as MME reads it (family "mme") or as POPE does (others,
    but not GQA, which asks for the very word). Multiple choice: 1 for the right letter. Items with
    annotators: VQA's soft accuracy. Items in parts: the share of parts that the answer names (MM-Vet
    has GPT-4 judge; here a part counts where its words stand in the answer). All else: 1 if the
    normalised answers are equal.
    """
    if item.kind == "choice":
        letter = choice_letter(text)
        return letter, float(letter != "" and letter == choice_letter(item.answer))
    if item.answer in ("yes", "no") and not item.answers and item.family != "gqa":
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
    "model", "id", "family", "kind", "group", "image", "question", "truth", "answer", "normalized", "correct", "score",
    "p_answer", "p_yes", "entropy",
)  # fmt: skip


def answer_row(
    model: str, item: Item, text: str, *, p_answer: float = float("nan"), p_yes: float = float("nan"),
    entropy: float = float("nan"), score: float | None = None,
) -> dict[str, str | float | bool]:  # fmt: skip
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
        model, item.id, item.family, item.kind, item.group, item.image, item.question, item.answer, text, normalized,
        correct, score, p_answer, p_yes, entropy,
    )  # fmt: skip
    return dict(zip(ANSWER_COLUMNS, values, strict=True))
