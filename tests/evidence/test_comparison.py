"""Two models on the same items: intervals that cover, tests that agree with scipy, corrections by hand."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

from vlm_probe.errors import VlmProbeError
from vlm_probe.evidence import compare, holm, mcnemar, paired_bootstrap, sign_flips
from vlm_probe.items.scores import ANSWER_COLUMNS


def test_the_bootstrap_covers_the_truth_in_93_to_97_percent():
    """400 simulated comparisons of two models on 150 images with one to three questions each."""
    rng = np.random.default_rng(0)
    covered = 0
    for run in range(400):
        size = rng.integers(1, 4, 150)
        clusters = np.repeat(np.arange(150), size)
        # Images differ in how much the second model gains: items of one image hang together.
        gain = np.clip(rng.normal(0.1, 0.15, 150), -0.3, 0.5)[clusters]
        first = rng.random(len(clusters)) < 0.5
        second = rng.random(len(clusters)) < 0.5 + gain
        _, low, high = paired_bootstrap(second.astype(float) - first, clusters, seed=run, draws=1000)
        covered += low <= GAIN <= high
    assert 0.93 <= covered / 400 <= 0.97


GAIN = float(np.clip(np.random.default_rng(1).normal(0.1, 0.15, 2_000_000), -0.3, 0.5).mean())


def test_items_of_one_image_are_drawn_together():
    differences = np.repeat([1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 1.0], 10)
    _, low, high = paired_bootstrap(differences, np.repeat(np.arange(7), 10))
    mean, low_alone, high_alone = paired_bootstrap(differences, np.arange(70))
    assert mean == pytest.approx(4 / 7)
    assert high - low > 2.5 * (high_alone - low_alone)


def test_mcnemar_by_hand():
    first = np.array([True] * 6 + [False] * 5)
    second = np.array([True] * 4 + [False] * 2 + [True] * 5)
    # 2 right for the first alone, 5 for the second alone.
    assert mcnemar(first, second) == pytest.approx(binomtest(2, 7, 0.5).pvalue)
    assert mcnemar(first, second) == pytest.approx(2 * (1 + 7 + 21) / 2**7)
    assert mcnemar(first, first) == 1.0


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def answers(model: str, right: list[bool], family: list[str]) -> pd.DataFrame:
    n = len(right)
    names = [f"i{i}" for i in range(n)]
    columns = dict.fromkeys(ANSWER_COLUMNS, "") | {
        "model": model,
        "id": names,
        "family": family,
        "group": names,
        "image": names,
        "correct": right,
        "score": np.asarray(right, dtype=float),
    }
    return pd.DataFrame(columns)


def test_a_comparison_by_hand():
    family = ["pope"] * 4 + ["gqa"] * 3
    a = answers("a", [True, False, False, False, True, True, False], family)
    b = answers("b", [True, True, True, False, True, False, False], family)
    table = compare(pd.concat([a, b]), "a", "b").set_index("family")
    assert table.index.tolist() == ["pope", "gqa", "all"]
    assert table["n"].tolist() == [4, 3, 7]
    assert table.loc["pope", ["a", "b", "difference", "only_a", "only_b"]].tolist() == [0.25, 0.75, 0.5, 0, 2]
    assert table.loc["all", "difference"] == pytest.approx(1 / 7)
    assert table.loc["pope", "p"] == 0.5
    assert table.loc["gqa", "p"] == 1.0
    # McNemar's, of the items that one alone has right: none and two, one and none, one and two; corrected together.
    assert table["p"].tolist() == [0.5, 1.0, 1.0]
    assert table["p_holm"].tolist() == [1.0, 1.0, 1.0]
    assert table["test"].tolist() == ["McNemar"] * 3
    # Of four items and of three there is no interval; of seven there is.
    assert table["low"].isna().tolist() == table["high"].isna().tolist() == [True, True, False]
    assert table["verdict"].tolist() == ["undecided"] * 3
    assert table["reason"].tolist() == [
        "4 images or pairs, 6 would do",
        "3 images or pairs, 6 would do",
        "the interval includes 0",
    ]
    assert table.loc["all", "low"] <= table.loc["all", "difference"] <= table.loc["all", "high"]
    backwards = compare(pd.concat([a, b]), "b", "a").set_index("family")
    assert backwards.loc["all", "difference"] == pytest.approx(-1 / 7)
    alone = compare(pd.concat([a, b]).query("family == 'pope'"), "a", "b")
    assert alone["family"].tolist() == ["pope"]


def test_a_clear_difference_is_called_and_noise_is_not():
    rng = np.random.default_rng(3)
    weak = rng.random(300) < 0.5
    strong = weak | (rng.random(300) < 0.4)
    other = rng.random(300) < 0.5
    family = ["pope"] * 300
    table = pd.concat([answers("weak", list(weak), family), answers("strong", list(strong), family)])
    assert compare(table, "weak", "strong")["verdict"].tolist() == ["supported"]
    # The opposite is not the same as nothing.
    assert compare(table, "strong", "weak")["verdict"].tolist() == ["contradicted"]
    same = pd.concat([answers("weak", list(weak), family), answers("other", list(other), family)])
    assert compare(same, "weak", "other")[["verdict", "reason"]].to_numpy().tolist() == [
        ["undecided", "the interval includes 0"]
    ]


def beside_a_perfect_one(right: list[bool], family: list[str]) -> pd.DataFrame:
    """The answers of a, and of b, which has every item right."""
    return pd.concat([answers("a", right, family), answers("b", [True] * len(right), family)])


UNCONFIRMED = "the interval excludes 0, the corrected test does not"


def test_an_interval_that_the_test_does_not_confirm_decides_nothing():
    right = [False] * 4 + [True] * 196
    table = compare(beside_a_perfect_one(right, ["pope"] * 200), "a", "b")
    assert table["low"].item() > 0
    assert table["p"].item() == 0.125
    assert (table["verdict"].item(), table["reason"].item()) == ("undecided", UNCONFIRMED)
    # Six of 200 are enough for one family; for this and five more that do not differ, they are not, and nor are they
    # for all together, which is a seventh test.
    right = [False] * 6 + [True] * 194
    one = beside_a_perfect_one(right, ["pope"] * 200)
    assert compare(one, "a", "b")["verdict"].tolist() == ["supported"]
    others = [f"family {i}" for i in range(5) for _ in range(10)]
    right += [True] * 50
    family = ["pope"] * 200 + others
    six = compare(beside_a_perfect_one(right, family), "a", "b")
    six = six.set_index("family")
    assert six.loc[["pope", "all"], "p"].tolist() == [2 / 2**6] * 2
    assert six.loc[["pope", "all"], "p_holm"].tolist() == pytest.approx([7 * 2 / 2**6] * 2)
    assert six.loc[["pope", "all"], "verdict"].tolist() == ["undecided"] * 2
    assert six.loc[["pope", "all"], "reason"].tolist() == [UNCONFIRMED] * 2


def test_items_of_unknown_images_are_drawn_one_by_one():
    rng = np.random.default_rng(0)
    table = pd.concat([answers(name, list(rng.random(30) < 0.5), ["pope"] * 30).assign(image="") for name in "ab"])
    assert compare(table, "a", "b")["clusters"].tolist() == [30]


def test_what_cannot_be_compared():
    a = answers("a", [True], ["pope"])
    b = answers("b", [True], ["pope"]).assign(id="else")
    with pytest.raises(VlmProbeError, match=r"^a and b have no item in common, so they cannot be compared$"):
        compare(pd.concat([a, b]), "a", "b")
    with pytest.raises(VlmProbeError, match=r"^no answers of 'c'; there are a, b$"):
        compare(pd.concat([a, b]), "a", "c")


def test_sign_flips_by_hand():
    """Of eight signs two (all as they are, all turned) reach as far; clusters turn whole."""
    assert sign_flips(np.array([1.0, 2.0, 3.0]), np.arange(3)) == 2 / 8
    assert sign_flips(np.array([1.0, 2.0, -3.0]), np.arange(3)) == 1.0
    assert sign_flips(np.array([1.0, 1.0, 1.0, 1.0]), np.array([0, 0, 1, 1])) == 2 / 4
    assert sign_flips(np.zeros(5), np.arange(5)) == 1.0
    # Where all differ by as much it is a sign test, however many there are.
    assert sign_flips(np.ones(40), np.arange(40)) == pytest.approx(2 / 2**40)
    assert sign_flips(np.array([1.0] * 6 + [-1.0]), np.arange(7)) == pytest.approx(2 * (1 + 7) / 2**7)
    # Else of more clusters than can be listed, a sample that holds the observed signs.
    assert sign_flips(1 + np.arange(40) / 41, np.arange(40)) == pytest.approx(1 / 10_000)


def test_sign_flips_keep_their_level():
    rng = np.random.default_rng(5)
    scores = rng.choice([0.0, 0.3, 0.6, 1.0], (400, 2, 23))
    p = [sign_flips(b - a, np.arange(23), draws=500) for a, b in scores]
    assert 0.02 <= np.mean(np.asarray(p) < 0.05) <= 0.08


def softly(n: int, worse: int) -> pd.DataFrame:
    """Model a scores 0.6 on everything; b 0.3 on some, and 1 on the rest."""
    score = np.where(np.arange(n) < worse, 0.3, 1.0) + 0.001 * np.random.default_rng(8).random(n)
    a = answers("a", [True] * n, ["vqav2"] * n).assign(score=0.6)
    return pd.concat([a, answers("b", list(score >= 0.5), ["vqav2"] * n).assign(score=score)])


def test_soft_scores_are_tested_as_they_are_compared():
    """b is better on most items and worse on a few: McNemar, of right and wrong, would say the opposite."""
    table = compare(softly(100, 15), "a", "b").iloc[0]
    assert (table["only_a"], table["only_b"], table["test"]) == (15, 0, "sign flips")
    assert mcnemar(np.ones(15, dtype=bool), np.zeros(15, dtype=bool)) < 0.001
    assert table["difference"] > 0
    assert table["p"] < 0.001
    assert table["verdict"] == "supported"
    # Where what is won and lost is as much, nothing is decided, whatever McNemar's p.
    even = compare(softly(100, 57), "a", "b").iloc[0]
    assert even["only_a"] == 57
    assert (even["verdict"], even["reason"]) == ("undecided", "the interval includes 0")


def test_right_and_wrong_of_several_items_an_image_are_tested_by_images():
    """Ten images of three questions: where b alone is right, it is so of the whole image."""
    better = np.repeat(np.arange(10) < 4, 3)
    images = np.repeat([f"image {i}" for i in range(10)], 3)
    a, b = (answers(name, right.tolist(), ["pope"] * 30) for name, right in (("a", ~better), ("b", np.ones(30, bool))))
    by_image = compare(pd.concat([one.assign(image=images) for one in (a, b)]), "a", "b").iloc[0]
    assert (by_image["n"], by_image["clusters"], by_image["test"]) == (30, 10, "sign flips")
    assert by_image["p"] == 2 / 2**4
    assert (by_image["only_a"], by_image["only_b"]) == (0, 12)
    alone = compare(pd.concat([a, b]), "a", "b").iloc[0]
    assert (alone["clusters"], alone["test"]) == (30, "McNemar")
    assert alone["p"] == mcnemar(~better, np.ones(30, dtype=bool)) == 2 / 2**12
    assert (by_image["verdict"], alone["verdict"]) == ("undecided", "supported")
