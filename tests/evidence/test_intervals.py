"""Intervals and verdicts."""

import numpy as np
import pandas as pd
import pytest

from vlm_probe.evidence import bootstrap_mean, jackknife, summarize, verdict


def test_bootstrap_covers_the_truth():
    rng = np.random.default_rng(0)
    inside = 0
    for case in range(400):
        mean, low, high = bootstrap_mean(rng.exponential(1.0, 60), seed=case, draws=400)
        assert low <= mean <= high
        inside += low <= 1.0 <= high
    # The percentile bootstrap of a skewed mean at n = 60 is known to be a little short of 95 %.
    assert 0.90 <= inside / 400 <= 0.97


def test_missing_values_are_left_out_and_counted():
    table = pd.DataFrame({"model": ["a", "a", "b", "b"], "x": [1.0, 3.0, np.nan, 5.0]})
    out = summarize(table, ["x"], ["model"]).set_index("model")
    assert out["mean"].to_dict() == {"a": 2.0, "b": 5.0}
    assert out["n"].to_dict() == {"a": 2, "b": 1}
    assert np.isnan(bootstrap_mean(np.array([np.nan]))[0])


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ((0.2, 0.1, 0.3), "supported"),
        ((-0.2, -0.3, -0.1), "not supported"),
        ((0.1, -0.1, 0.3), "undecided (interval includes 0)"),
        ((float("nan"),) * 3, "undecided (no items)"),
        ((1.0, float("nan"), float("nan")), "undecided (too few)"),
    ],
)
def test_verdicts(values, said):
    assert verdict(*values) == said


def test_the_jackknife_of_a_mean_covers_it_as_students_t_does():
    rng = np.random.default_rng(1)
    inside = 0
    for case in range(400):
        clusters = np.repeat(np.arange(31), 3)
        x = rng.normal(size=31)[clusters] + rng.normal(size=93)
        value, low, high = jackknife(lambda kept, x=x: float(x[kept].mean()), clusters, seed=case)
        assert value == pytest.approx(x.mean())
        inside += low <= 0 <= high
    assert 0.93 <= inside / 400 <= 0.97


def test_the_jackknife_leaves_whole_clusters_out():
    seen = []
    clusters = np.asarray(list("aabbbcddde"))
    jackknife(lambda kept: seen.append(set(clusters[kept])) or float(len(kept)), clusters, blocks=50)
    assert len(seen) == 6
    assert all(len(names) == 4 for names in seen[1:])
