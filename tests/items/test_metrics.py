"""Scores: cases worked by hand, and scikit-learn where it has the metric."""

import math
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score

from vlm_probe.errors import VlmProbeError
from vlm_probe.items.item import Item
from vlm_probe.items.metrics import MME_CATEGORIES
from vlm_probe.items.normalize import choice_letter
from vlm_probe.items.scores import answer_row, score_answer
from vlm_probe.scenes import group_accuracy, metric_table, normalize_answer, vqa_accuracy, yes_no_metrics, yes_or_no


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("Red.", "red"),
        ("  The   dog ", "dog"),
        ("two", "2"),
        ("None", "0"),
        ("dont know", "don't know"),
        ("its", "its"),
        ("1,000 people", "1000 people"),  # a comma in a number goes
        ("3.5", "3.5"),
        ("yes, it is", "yes it is"),  # a mark beside a space goes
        ("black/white", "black white"),  # inside a word it parts the word
        ("t-shirt", "t shirt"),
        ("(a) Open", "open"),  # "a" is an article
        ("what?!", "what"),
        ("St. Louis", "st louis"),
        ("A\tB\nc", "b c"),
    ],
)
def test_answers_are_normalised_as_the_vqa_evaluation_does(text, normal):
    assert normalize_answer(text) == normal


@given(st.text())
def test_normalising_never_fails_and_leaves_no_article_capital_or_double_space(text):
    words = normalize_answer(text).split(" ")
    assert not {"a", "an", "the"} & set(words)
    assert "  " not in " ".join(words)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Yes", "yes"),
        ("yes, there is a dog.", "yes"),
        ("No, there is not.", "no"),
        ("There is not. Yes", "no"),  # the first sentence decides
        ("I am not sure, yes", "no"),
        ("A dog", ""),
        ("nothing", ""),  # a word that begins with no is no "no"
        ("", ""),
    ],
)
def test_yes_and_no_in_free_text(text, said):
    assert yes_or_no(text) == said


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("(a)", "a"),
        ("B", "b"),
        ("b. Closed", "b"),
        ("(A) Open", "a"),
        ("", ""),
        ("Open", ""),
        ("B closed", "b"),
        ("A man is standing.", ""),  # an article
        ("A\nThe door is open.", "a"),
        ("A - open", "a"),
        ("a \u2013 open", "a"),
        ("A-frame", ""),
        ("A red-brick house", ""),
        ("I see it", ""),
        ("The answer is (a).", "a"),
        ("Answer: B", "b"),
        ("the answer is a dog", ""),
    ],
)
def test_choice_letters(text, letter):
    assert choice_letter(text) == letter


def test_vqa_accuracy_by_hand():
    # 3 of 10 said so. Leaving out one of those 3: 2 others, 2/3. Leaving out any of the 7: 3 others, 1.
    assert vqa_accuracy("red", ["red"] * 3 + ["blue"] * 7) == pytest.approx((3 * 2 / 3 + 7) / 10)
    assert vqa_accuracy("red", ["red"] + ["blue"] * 9) == pytest.approx((0 + 9 / 3) / 10)
    assert vqa_accuracy("Two.", ["2"] * 10) == 1
    assert vqa_accuracy("green", ["red"] * 10) == 0
    assert vqa_accuracy("red", ["red"]) == 1
    with pytest.raises(VlmProbeError, match=r"^VQA accuracy needs at least one annotator's answer$"):
        vqa_accuracy("red", [])


@given(st.lists(st.tuples(st.sampled_from(["yes", "no"]), st.sampled_from(["yes", "no"])), min_size=1))
def test_yes_no_metrics_agree_with_scikit_learn(pairs):
    predicted, truth = map(list, zip(*pairs, strict=True))
    found = yes_no_metrics(predicted, truth)
    options = {"pos_label": "yes", "zero_division": 0.0}
    assert found["accuracy"] == pytest.approx(accuracy_score(truth, predicted))
    assert found["precision"] == pytest.approx(precision_score(truth, predicted, **options))
    assert found["recall"] == pytest.approx(recall_score(truth, predicted, **options))
    assert found["f1"] == pytest.approx(f1_score(truth, predicted, **options))
    assert found["yes_ratio"] == pytest.approx(predicted.count("yes") / len(predicted))


def test_an_answer_that_is_neither_yes_nor_no_is_wrong_and_no_yes():
    found = yes_no_metrics(["", "yes", "", "no"], ["yes", "yes", "no", "no"])
    assert found == {"accuracy": 0.5, "precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3), "yes_ratio": 0.25}
    with pytest.raises(VlmProbeError, match=r"truths that are 'yes' or 'no', got \['maybe'\]"):
        yes_no_metrics(["yes"], ["maybe"])
    with pytest.raises(VlmProbeError, match="as many answers as truths, got 1 and 2"):
        yes_no_metrics(["yes"], ["yes", "no"])


def item(answer: str, **changes) -> Item:
    values = {"id": "x", "family": "f", "kind": "k", "group": "x", "image": "i", "question": "q"}
    return Item(**{**values, **changes}, answer=answer)


def test_scores_by_hand():
    assert score_answer(item("red"), "It is red") == ("red", 1.0)
    assert score_answer(item("three"), "3") == ("3", 1.0)
    assert score_answer(item("yes"), "Yes, a red one.") == ("yes", 1.0)
    assert score_answer(item("(b)", kind="choice"), "b") == ("b", 1.0)
    assert score_answer(item("(b)", kind="choice"), "closed") == ("", 0.0)
    parts = item("red, left", parts=("red", "left"))
    assert score_answer(parts, "The star is red.")[1] == 0.5
    assert score_answer(parts, "left, red")[1] == 1
    assert score_answer(parts, "reddish, leftmost")[1] == 0
    assert score_answer(parts, "left: yes; **red**")[1] == 1
    shirt = item("t-shirt", parts=("t-shirt", "-1", "$5"))
    assert score_answer(shirt, "A T-shirt - a red one, for $5 or -1")[1] == 1
    assert score_answer(shirt, "1, 5.5 and a shirt")[1] == 0  # -1 is not 1
    assert score_answer(item("3-5", parts=("5",)), "3-5")[1] == 1  # a dash between numbers is no sign
    either = item("x=-1 x=-5", parts=("x=-1<OR>-1", "x=-5"))
    assert score_answer(either, "-1, x=-5")[1] == 1


def test_nothing_equals_nothing():
    """An answer that normalises to nothing is not therefore right."""
    assert score_answer(item("!", family="gqa"), "?")[1] == 0
    assert score_answer(item("A"), "The answer is A.") == ("a", 1.0)
    assert score_answer(item("A"), "")[1] == 0
    assert score_answer(item("a"), "The")[1] == 0
    assert score_answer(item("A"), "a.")[1] == 1
    assert score_answer(item("closed", kind="choice"), "open")[1] == 0


def test_a_pair_of_which_one_is_missing_counts_for_nothing():
    answers = table(
        [("1", "mmvp", "a", "red", "red"), ("2", "mmvp", "b", "red", "red"), ("3", "mmvp", "b", "blue", "red")]
    )
    found = metric_table(answers).set_index("metric")
    assert found.loc["pair_accuracy", ["value", "n"]].tolist() == [0, 1]
    alone = metric_table(answers.iloc[:1]).set_index("metric")
    assert alone.loc["pair_accuracy", "n"] == 0
    assert math.isnan(alone.loc["pair_accuracy", "value"])


def test_mme_scores_by_hand():
    """A category's accuracy and accuracy+ in %, added; summed over the categories of each part."""
    rows = [
        ("1", "count", "a", "yes", "yes"),
        ("2", "count", "a", "no", "no"),
        ("3", "count", "b", "yes", "yes"),
        ("4", "count", "b", "no", "yes"),
        ("5", "code_reasoning", "d", "yes", "no"),
        ("6", "code_reasoning", "d", "no", "no"),
    ]
    # In each of the other 12 categories the answers are yes: one of two is right.
    for k in (*MME_CATEGORIES["perception"], *MME_CATEGORIES["cognition"]):
        if k not in ("count", "code_reasoning"):
            rows += [(f"{k}-{t}", k, k, t, "yes") for t in ("yes", "no")]
    made = [answer_row("m", item(t, id=i, family="mme", group=g, kind=k), text) for i, k, g, t, text in rows]
    found: Any = metric_table(pd.DataFrame(made)).set_index("metric")["value"]
    assert found["perception"] == pytest.approx(75 + 50 + 9 * 50)
    assert found["cognition"] == pytest.approx(50 + 3 * 50)
    assert (found["accuracy"], found["accuracy_plus"]) == (16 / 30, 1 / 15)
    # One category short, a sum would pass for the published score.
    fewer: Any = metric_table(pd.DataFrame([row for row in made if row["kind"] != "OCR"])).set_index("metric")["value"]
    assert "perception" not in fewer
    assert fewer["cognition"] == found["cognition"]


def table(rows) -> pd.DataFrame:
    return pd.DataFrame([answer_row("m", item(truth, id=i, family=f, group=g), text) for i, f, g, truth, text in rows])


def test_metrics_per_family_by_hand():
    answers = table(
        [
            ("1", "pope", "1", "yes", "yes"),
            ("2", "pope", "2", "no", "yes"),
            ("3", "pope", "3", "no", "no"),
            ("4", "mmvp", "a", "red", "red"),
            ("5", "mmvp", "a", "blue", "red"),
            ("6", "mmvp", "b", "star", "star"),
            ("7", "mmvp", "b", "cross", "cross"),
            ("8", "mme", "c", "yes", "yes"),
            ("9", "mme", "c", "no", "no"),
            ("10", "mme", "d", "yes", "no"),
            ("11", "mme", "d", "no", "no"),
        ]
    )
    found = metric_table(answers).set_index(["family", "metric"])["value"].to_dict()
    assert found == {
        ("pope", "accuracy"): pytest.approx(2 / 3),
        ("pope", "precision"): 0.5,
        ("pope", "recall"): 1.0,
        ("pope", "f1"): pytest.approx(2 / 3),
        ("pope", "yes_ratio"): pytest.approx(2 / 3),
        ("mmvp", "accuracy"): 0.75,
        ("mmvp", "pair_accuracy"): 0.5,
        ("mme", "accuracy"): 0.75,
        ("mme", "accuracy_plus"): 0.5,
    }
    assert group_accuracy(answers.query("family == 'mmvp'")) == 0.5
    assert metric_table(answers).set_index(["family", "metric"]).loc[("mmvp", "pair_accuracy"), "n"] == 2
