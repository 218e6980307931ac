"""Intervals."""

import numpy as np
import pandas as pd
import pytest

from vlm_probe.evidence import bootstrap_mean, clustered_mean, jackknife, paired_bootstrap, summarize
from vlm_probe.evidence.intervals import FEWEST_CLUSTERS


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
    assert sorted(len(names) for names in seen) == [4] * 5 + [5], "every one left out once, and all of them"


def test_a_clustered_mean_by_hand():
    """Clusters of two, one, one, ...: totals 4, 1, 0, 0, 2, 1 over counts 2, 1, 1, 1, 1, 1; mean 8/7."""
    values, clusters = np.array([3.0, 1.0, 1.0, 0.0, 0.0, 2.0, 1.0]), np.array([5, 5, 1, 2, 3, 4, 0])
    mean, low, high = clustered_mean(values, clusters)
    residuals = np.array([4 - 16 / 7, 1 - 8 / 7, 0 - 8 / 7, 0 - 8 / 7, 2 - 8 / 7, 1 - 8 / 7])
    error = np.sqrt(6 / 5 * (residuals**2).sum()) / 7
    assert mean == pytest.approx(8 / 7)
    assert high - mean == pytest.approx(2.570582 * error, rel=1e-6)  # Student's t, five degrees of freedom
    assert mean - low == pytest.approx(high - mean)
    alone = clustered_mean(values, np.arange(7))
    assert alone[2] - alone[0] == pytest.approx(2.446912 * values.std(ddof=1) / np.sqrt(7), rel=1e-6)
    assert np.isnan(clustered_mean(values[:5], np.arange(5))[1:]).all()


DIFFERENCES = {
    "normal": lambda rng, n: rng.normal(size=n),
    "right and wrong": lambda rng, n: (rng.random(n) < 0.5) * 1.0 - (rng.random(n) < 0.5),
    "shares": lambda rng, n: rng.beta(0.5, 2, n) - rng.beta(0.5, 2, n),
}


@pytest.mark.parametrize("clusters", [FEWEST_CLUSTERS, 10, 20])
@pytest.mark.parametrize("kind", list(DIFFERENCES))
def test_with_nothing_there_few_clusters_decide_no_more_often_than_they_may(kind, clusters):
    """2,000 runs of paired differences whose two sides are drawn alike, items of one image moving together."""
    rng = np.random.default_rng(clusters)
    decided = {"t": 0, "bootstrap": 0}
    runs = 2000
    for run in range(runs):
        owners = np.repeat(np.arange(clusters), rng.integers(1, 4, clusters))
        values = DIFFERENCES[kind](rng, clusters)[owners]
        _, low, high = clustered_mean(values, owners)
        decided["t"] += not low <= 0 <= high
        if run < 300:
            _, low, high = paired_bootstrap(values, owners, draws=400)
            decided["bootstrap"] += not low <= 0 <= high
    assert decided["t"] / runs <= 0.07
    if clusters == FEWEST_CLUSTERS and kind == "normal":
        assert decided["bootstrap"] / 300 > 0.1, "which is why it is not used for verdicts"


def test_a_planted_difference_is_found():
    rng = np.random.default_rng(1)
    found = [clustered_mean(0.3 + rng.normal(0, 0.3, 20), np.arange(20))[1] > 0 for _ in range(200)]
    assert np.mean(found) > 0.95
