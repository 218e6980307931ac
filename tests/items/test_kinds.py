"""Scores by kind of question, with intervals over what is independent."""

import numpy as np
import pandas as pd
import pytest

from vlm_probe.evidence import clustered_mean, wilson
from vlm_probe.items.scores import kind_table


def answers(scores, *, kind="color", images=None, groups=None, model="m", family="gqa"):
    ids = [f"{model}-{kind}-{n}" for n in range(len(scores))]
    about = {"model": model, "family": family, "kind": kind, "id": ids, "group": groups or ids, "image": images or ids}
    return pd.DataFrame({**about, "score": np.asarray(scores, dtype=float)})


def test_a_row_a_model_family_and_kind():
    given = [
        answers([1, 0, 1, 1, 1, 0, 1]),
        answers([0, 1, 1], kind="shape"),
        answers([1, 1], family="pope", model="n"),
    ]
    table = kind_table(pd.concat(given, ignore_index=True))
    assert list(table.columns) == ["model", "family", "kind", "n", "score", "low", "high"]
    assert table[["model", "family", "kind", "n"]].to_numpy().tolist() == [
        ["m", "gqa", "color", 7],
        ["m", "gqa", "shape", 3],
        ["n", "pope", "color", 2],
    ]
    assert table["score"].tolist() == pytest.approx([5 / 7, 2 / 3, 1])
    for row, (right, n) in zip(table.to_dict("records"), ((5, 7), (2, 3), (2, 2)), strict=True):
        assert (row["low"], row["high"]) == pytest.approx(wilson(right, n))


def test_items_of_one_image_or_pair_are_no_two():
    scores = [1, 1, 0, 0, 1, 1, 0, 1, 1, 1, 0, 0, 1, 1]
    images = [f"{n // 2}.png" for n in range(14)]
    (row,) = kind_table(answers(scores, images=images)).to_dict("records")
    mean, low, high = clustered_mean(np.asarray(scores, dtype=float), np.asarray(images))
    assert (row["score"], row["low"], row["high"]) == pytest.approx((mean, low, min(high, 1)))
    pairs = kind_table(answers(scores, groups=images)).to_dict("records")[0]
    assert (pairs["low"], pairs["high"]) == pytest.approx((row["low"], row["high"]))
    # Where no image is told, each is for itself.
    (alone,) = kind_table(answers(scores, images=[""] * 14)).to_dict("records")
    assert (alone["low"], alone["high"]) == pytest.approx(wilson(9, 14))


def test_soft_scores_and_too_few_images():
    soft = [0.3, 0.9, 1.0, 0.6, 0.0, 0.3, 1.0]
    (row,) = kind_table(answers(soft)).to_dict("records")
    assert (row["low"], row["high"]) == pytest.approx(clustered_mean(np.asarray(soft), np.arange(7))[1:])
    (few,) = kind_table(answers(soft[:5])).to_dict("records")
    assert few["score"] == pytest.approx(0.56)
    assert np.isnan(few["low"])
    assert np.isnan(few["high"])


def test_all_right_about_few_images_is_not_certain():
    (row,) = kind_table(answers([1] * 21, images=[f"{n // 3}" for n in range(21)])).to_dict("records")
    assert (row["low"], row["high"]) == pytest.approx(wilson(7, 7))
    (row,) = kind_table(answers([0] * 21, images=[f"{n // 3}" for n in range(21)])).to_dict("records")
    assert (row["low"], row["high"]) == pytest.approx(wilson(0, 7))


def test_intervals_stay_in_what_a_score_can_be():
    (row,) = kind_table(answers([0.9, 1, 1, 1, 1, 1, 1])).to_dict("records")
    assert row["high"] == 1
    assert row["low"] < row["score"]
