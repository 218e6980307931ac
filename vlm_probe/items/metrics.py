"""What a table of scored answers comes to, metric by metric, as each benchmark defines it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd

from vlm_probe.errors import VlmProbeError
from vlm_probe.items.normalize import normalize_answer


def vqa_accuracy(answer: str, annotators: Sequence[str]) -> float:
    """Soft accuracy in [0, 1] against what annotators said (Antol et al. 2015, arXiv:1505.00468, section 3).

    min(1, others who said so / 3), averaged over leaving out each annotator in turn, both sides
    normalised (`normalize_answer`).

    Raises VlmProbeError without annotators.

    >>> vqa_accuracy("red", ["red"] * 2 + ["blue"] * 8)
    0.6
    """
    if not annotators:
        raise VlmProbeError("VQA accuracy needs at least one annotator's answer")
    said = [normalize_answer(a) for a in annotators]
    given = normalize_answer(answer)
    if len(said) == 1:
        return float(said[0] == given)
    matches = [s == given for s in said]
    total = sum(matches)
    return float(np.mean([min(1.0, (total - own) / 3) for own in matches]))


def yes_no_metrics(predicted: Sequence[str], truth: Sequence[str]) -> dict[str, float]:
    """POPE's metrics with yes as the positive class (Li et al. 2023, arXiv:2305.10355, section 3).

    Returns accuracy, precision, recall, f1 and yes_ratio (share of answers that are yes). An answer
    that is neither yes nor no is wrong, and not a yes. Precision without a yes is 0, as in scikit-learn.

    Raises VlmProbeError for an empty list, lists of two lengths, or a truth that is not yes or no.
    """
    if len(predicted) != len(truth) or not truth:
        raise VlmProbeError(f"yes/no metrics need as many answers as truths, got {len(predicted)} and {len(truth)}")
    strange = sorted(set(truth) - {"yes", "no"})
    if strange:
        raise VlmProbeError(f"yes/no metrics need truths that are 'yes' or 'no', got {strange[:3]}")
    said = np.asarray([p == "yes" for p in predicted])
    is_so = np.asarray([t == "yes" for t in truth])
    hits = int((said & is_so).sum())
    precision = hits / max(int(said.sum()), 1)
    recall = hits / max(int(is_so.sum()), 1)
    right = np.asarray([p == t for p, t in zip(predicted, truth, strict=True)])
    return {
        "accuracy": float(right.mean()),
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / (precision + recall) if hits else 0.0,
        "yes_ratio": float(said.mean()),
    }


def whole_pairs(answers: pd.DataFrame) -> pd.DataFrame:
    """The rows of groups with both of their items; a pair of which one was left out counts for nothing."""
    size = Counter(answers["group"])
    return answers.loc[[size[group] == 2 for group in answers["group"]]]


def group_accuracy(answers: pd.DataFrame) -> float:
    """Share of groups of which every item is right; NaN without a group.

    MMVP's pair accuracy (Tong et al. 2024, arXiv:2401.06209) where a group is a pair, and MME's
    accuracy+ (Fu et al. 2023, arXiv:2306.13394) where it is the two questions about an image.
    """
    right = [bool(rows["correct"].to_numpy(dtype=bool).all()) for _, rows in answers.groupby("group")]
    return sum(right) / len(right) if right else float("nan")


MME_CATEGORIES = {
    "perception": (
        "existence",
        "count",
        "position",
        "color",
        "posters",
        "celebrity",
        "scene",
        "landmark",
        "artwork",
        "OCR",
    ),
    "cognition": ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning"),
}
"""MME's two parts, and the categories that each sums over."""


def mme_scores(answers: pd.DataFrame) -> dict[str, float]:
    """MME's scores (Fu et al. 2023, section 2.2): accuracy and accuracy+ in %, added, summed over categories.

    Returns perception (up to 2,000) and cognition (up to 800), each only where all its categories have
    items: a sum over some of them would pass for the published score.
    """
    each = {
        str(category): 100 * (float(rows["correct"].to_numpy(dtype=bool).mean()) + group_accuracy(whole_pairs(rows)))
        for category, rows in answers.groupby("kind")
    }
    return {
        part: sum(each[category] for category in categories)
        for part, categories in MME_CATEGORIES.items()
        if set(categories) <= set(each)
    }
