"""How claims are estimated: by hand, without values, with nothing there, and with something planted."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest, ttest_1samp
from scipy.stats import t as student_t

from vlm_probe.errors import VlmProbeError
from vlm_probe.evidence import (
    AgainstNull,
    Described,
    Estimate,
    EveryWay,
    OfAllRows,
    OverRuns,
    PairedMean,
    Verdict,
    decide,
    mcnemar,
)
from vlm_probe.evidence.estimate import against_null, described, jackknifed, over_runs, paired
from vlm_probe.evidence.statistics import OBSERVED, Statistic, Tables

NAN = float("nan")
MOST = 0.07
"""Of runs with nothing there that may decide."""


def said(found: Estimate) -> Verdict:
    return decide(found.difference, found.low, found.high, found.p)[0]


def test_a_paired_mean_by_hand():
    """Seven images, one item each: their differences' mean, Student's t, and all 128 signs."""
    value, control = np.array([3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0]), np.array([2.0, 7.0, 1.0, 8.0, 2.0, 8.0, 1.0])
    found = paired(value, control, np.arange(7))
    differences = value - control
    interval = ttest_1samp(differences, 0).confidence_interval(0.95)
    assert (found.n, found.clusters) == (7, 7)
    assert (found.value, found.control) == pytest.approx((25 / 7, 29 / 7))
    assert (found.difference, found.low, found.high) == pytest.approx((-4 / 7, interval.low, interval.high))
    # Of 1, -6, 3, -7, 3, 1, 1 no fewer signs reach |-4| than these.
    signs = 1 - 2 * ((np.arange(128)[:, None] >> np.arange(7)) & 1)
    assert found.p == pytest.approx((np.abs(signs @ differences) >= 4).mean())
    against_a_number = paired(value, 2.0, np.arange(7))
    assert (against_a_number.control, against_a_number.difference) == pytest.approx((2.0, 25 / 7 - 2))


def test_of_right_and_wrong_an_image_each_sign_flips_are_mcnemars():
    rng = np.random.default_rng(2)
    first, second = rng.random(53) < 0.5, rng.random(53) < 0.7
    found = paired(second.astype(float), first.astype(float), np.arange(53))
    assert found.p == pytest.approx(mcnemar(first, second))
    only = int((second & ~first).sum()), int((first & ~second).sum())
    assert found.p == pytest.approx(binomtest(only[0], sum(only), 0.5).pvalue)


def test_items_without_either_value_are_left_out():
    value, control = np.array([1.0, NAN, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]), np.array([0.0, 9, NAN, 0, 0, 0, 0, 0])
    found = paired(value, control, np.array(list("abcdefgh")))
    assert found == paired(value[[0, 3, 4, 5, 6, 7]], 0.0, np.array(list("adefgh")))
    assert (found.n, found.clusters) == (6, 6)
    nothing = paired(np.full(3, NAN), 0.0, np.arange(3))
    assert (nothing.n, nothing.clusters) == (0, 0)
    assert said(nothing) == Verdict.UNDECIDED
    runs = over_runs(np.array([1.0, 2.0, NAN, 4.0]), np.array([0.0, 0.0, 0.0, 0.5]))
    assert (runs.n, runs.difference) == (3, pytest.approx(6.5 / 3))
    draws = against_null(2.0, np.array([0.0, NAN, 1.0]), 7)
    assert (draws.n, draws.clusters, draws.control) == (7, 2, 0.5)
    assert draws.p == pytest.approx(2 * 1 / 3)
    assert against_null(NAN, np.zeros(7), 7).clusters == 0
    number = described(np.array([1.0, NAN, 3.0]), np.array([NAN, 5.0]))
    assert (number.n, number.value, number.control, number.difference) == (2, 2.0, 5.0, -3.0)
    assert np.isnan([number.low, number.high, number.p]).all()
    assert described(np.array([NAN])).n == 0


def test_a_jackknife_that_fails_somewhere_says_nothing():
    """Without a block the measure has no value: then there is no interval, and no p of 0 either."""
    found = jackknifed(lambda kept: 1.0 if len(kept) == 23 else NAN, lambda kept: 0.0, np.arange(23))
    assert np.isnan([found.low, found.high, found.p]).all()
    nothing = jackknifed(lambda kept: 1.0, lambda kept: 0.0, np.arange(0))
    assert nothing.n == 0
    lone = jackknifed(lambda kept: 1.0, lambda kept: 0.0, np.zeros(7))
    assert (lone.n, lone.clusters) == (7, 1)
    assert np.isnan([lone.low, lone.p]).all()


def test_runs_by_hand():
    """Differences of 0.1, 0.2 and 0.3: t is 0.2 / (0.1 / sqrt 3), at two degrees of freedom."""
    value, control = np.array([0.6, 0.8, 1.0]), np.array([0.5, 0.6, 0.7])
    found = over_runs(value, control)
    assert (found.value, found.control, found.difference) == pytest.approx((0.8, 0.6, 0.2))
    assert found.high - found.difference == pytest.approx(4.302653 * 0.1 / 3**0.5)
    assert found.p == pytest.approx(2 * student_t.sf(2 * 3**0.5, 2))
    assert np.isnan(over_runs(value[:2], control[:2]).p)
    assert over_runs(value[:0], control[:0]).n == 0
    # Runs that agree differ by what can be told apart.
    same = over_runs(np.full(5, 0.51), np.full(5, 0.5), resolution=0.02)
    assert same.high - same.difference == pytest.approx(2.776445 * 0.02 / 5**0.5)
    assert said(same) == Verdict.UNDECIDED


def test_a_null_by_hand():
    """Of 99 draws two are as high: 3 / 100, twice."""
    null = np.concatenate([np.linspace(-1, 1, 97), [2.0, 3.0]])
    found = against_null(2.0, null, 31)
    assert (found.n, found.clusters, found.value) == (31, 99, 2.0)
    assert found.control == pytest.approx(null.mean())
    assert (found.low, found.high) == pytest.approx(tuple(2.0 - np.quantile(null, [0.975, 0.025])))
    assert found.p == pytest.approx(0.06)
    assert said(found) == Verdict.UNDECIDED
    assert said(against_null(9.0, null, 31)) == Verdict.SUPPORTED
    assert said(against_null(-9.0, null, 31)) == Verdict.CONTRADICTED
    # So few draws could not reach 5 %, however far out it is.
    assert said(against_null(9.0, null[:38], 31)) == Verdict.UNDECIDED
    assert against_null(0.0, np.zeros(99), 31).p == 1.0


def average(table: pd.DataFrame, column: str) -> float:
    return float(table[column].to_numpy(dtype=float).mean())


def greatest(table: pd.DataFrame, column: str) -> float:
    return float(table[column].to_numpy(dtype=float).max())


def tables(rng: np.random.Generator, n: int = 30, gap: float = 0.0) -> Tables:
    names = [f"i{number}" for number in range(n)]
    x, y = rng.normal(gap, 1, n), rng.normal(0, 1, n)
    draws = pd.DataFrame({"draw": [OBSERVED, *range(99)], "n": n, "value": [9.0, *rng.normal(size=99)]})
    runs = pd.DataFrame({"seed": range(5), "with": rng.normal(1, 0.1, 5), "without": 0.0, "step": 0.3})
    columns = {"id": names, "cluster": [name[-1] for name in names], "x": x, "y": y, "kind": ["a", "b"] * (n // 2)}
    return {"items": pd.DataFrame(columns), "draws": draws, "runs": runs}


def test_statistics_read_the_columns_they_name():
    own = tables(np.random.default_rng(0))
    items, draws = own["items"], own["draws"]
    x, y, clusters = (items[name].to_numpy() for name in ("x", "y", "cluster"))
    assert PairedMean("items", "x", "y")([own]) == paired(x, y, clusters)
    ids = items["id"].to_numpy()
    assert PairedMean("items", "x", 0.5, "kind == 'a'", "id")([own]) == paired(x[::2], 0.5, ids[::2])
    assert PairedMean("items", "x", clusters="id")([own]).clusters == 30
    null = draws["value"].to_numpy()[1:]
    assert AgainstNull("draws", "value")([own]) == against_null(9.0, null, 30)
    assert AgainstNull("draws", "value", where="draw >= 0")([own]).n == 0
    assert OverRuns("runs", "with", "without")([own]).difference == pytest.approx(own["runs"]["with"].mean())
    coarse = OverRuns("runs", "with", "without", resolution="step")([own])
    assert coarse == OverRuns("runs", "with", 0.0, resolution=0.3)([own])
    assert coarse.high - coarse.difference == pytest.approx(2.776445 * 0.3 / 5**0.5)
    assert OverRuns("runs", "with", where="seed > 7", resolution="step")([own]).n == 0
    assert Described("items", "x", "y")([own]).difference == pytest.approx(x.mean() - y.mean())
    assert np.isnan(Described("items", "x")([own]).control)
    assert Described("items", "x", 0.25)([own]).control == 0.25
    best = OfAllRows("items", lambda rows: greatest(rows, "x"), lambda rows: greatest(rows, "y"))([own])
    assert (best.value, best.control) == (x.max(), y.max())
    assert OfAllRows("items", lambda rows: average(rows, "x"), 0.5)([own]).control == 0.5


def test_two_models_are_compared_on_the_rows_both_have():
    first, second = tables(np.random.default_rng(0)), tables(np.random.default_rng(1), gap=3.0)
    second = {**second, "items": second["items"].iloc[::-1].iloc[:20]}
    found = PairedMean("items", "x")([first, second])
    both = first["items"].merge(second["items"], on="id")
    assert found == paired(both["x_y"].to_numpy(), both["x_x"].to_numpy(), both["cluster_x"].to_numpy())
    apart = PairedMean("items", "x", "y")([first, second])
    assert apart.difference == pytest.approx(((both["x_y"] - both["y_y"]) - (both["x_x"] - both["y_x"])).mean())
    whole = OfAllRows("items", lambda rows: average(rows, "x_b"), lambda rows: average(rows, "x_a"))
    assert whole([first, second]).difference == pytest.approx(found.difference)
    by_id = PairedMean("items", "x", clusters="id")([first, second])
    assert (by_id.n, by_id.clusters) == (20, 20)
    assert Described("items", "x")([first, second]).control == pytest.approx(first["items"]["x"].mean())


def test_as_sure_as_the_least_sure_of_them():
    own = tables(np.random.default_rng(0), gap=1.0)
    ways: tuple[Statistic, ...] = tuple(PairedMean("items", "x", clusters=name) for name in ("cluster", "id"))
    by_cluster, by_item = (way([own]) for way in ways)
    both = EveryWay(ways)([own])
    assert (both.low, both.high) == (min(by_cluster.low, by_item.low), max(by_cluster.high, by_item.high))
    assert (both.p, both.clusters) == (max(by_cluster.p, by_item.p), 10)
    opposite = EveryWay((PairedMean("items", "x", -9.0), PairedMean("items", "x", 9.0)))([own])
    assert said(opposite) == Verdict.UNDECIDED
    assert said(EveryWay((PairedMean("items", "x", -9.0), Described("items", "x")))([own])) == Verdict.UNDECIDED


def test_what_was_not_measured():
    own = tables(np.random.default_rng(0))
    with pytest.raises(VlmProbeError, match=r"^no table 'item' was measured; there are items, draws, runs$"):
        Described("item", "x")([own])
    with pytest.raises(VlmProbeError) as error:
        OverRuns("runs", "with", resolution="n")([own])
    assert str(error.value) == "no column 'n' was measured; there are seed, with, without, step"


def drawn(rng: np.random.Generator, of, clusters: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two arms drawn alike, one to three items a cluster, half of which repeat what their cluster has."""
    owners = np.repeat(np.arange(clusters), rng.integers(1, 4, clusters))
    repeats = rng.random(len(owners)) < 0.5
    arms = [np.where(repeats, of(rng, clusters)[owners], of(rng, len(owners))) for _ in range(2)]
    return arms[0], arms[1], owners


SHAPES = {
    "normal": lambda rng, n: rng.normal(size=n),
    "right or wrong": lambda rng, n: (rng.random(n) < 0.6).astype(float),
    "nearly all right": lambda rng, n: (rng.random(n) < 0.95).astype(float),
    "lopsided shares": lambda rng, n: rng.beta(0.3, 3, n),
}


@pytest.mark.parametrize("shape", list(SHAPES))
def test_with_nothing_there_pairs_decide_little(shape):
    """At 20 clusters, the fewest that a claim about items asks for."""
    runs, decided = 500, 0
    for run in range(runs):
        value, control, clusters = drawn(np.random.default_rng([run, 20]), SHAPES[shape], 20)
        decided += said(paired(value, control, clusters)).decided
    assert decided / runs <= MOST


def test_lopsided_values_against_a_number_want_more_clusters():
    """Two arms have lopsidedness in common and a number has none: at 20 clusters such a mean decides too often."""

    def rate(clusters: int, runs: int = 300) -> float:
        decided = 0
        for run in range(runs):
            rng = np.random.default_rng([run, clusters])
            decided += said(paired((rng.random(clusters) < 0.1).astype(float), 0.1, np.arange(clusters))).decided
        return decided / runs

    assert rate(20) > MOST, "so that a claim of this kind asks for more, or for a control that is measured"
    assert rate(131) <= MOST


@pytest.mark.parametrize("shape", ["normal", "lopsided", "ties"])
def test_with_nothing_there_nulls_decide_little(shape):
    draw = {
        "normal": lambda rng: rng.normal(size=200),
        "lopsided": lambda rng: rng.lognormal(0, 1.5, 200),
        "ties": lambda rng: rng.integers(0, 5, 200).astype(float),
    }[shape]
    runs, decided = 2000, 0
    for run in range(runs):
        first, *null = draw(np.random.default_rng([run, 7]))
        decided += said(against_null(float(first), np.asarray(null), 31)).decided
    assert decided / runs <= MOST


def auc(scores: np.ndarray, label: np.ndarray) -> float:
    above = scores[label][:, None] - scores[~label]
    return float((above > 0).mean() + (above == 0).mean() / 2) if above.size else 0.5


MEASURES = {
    "mean": lambda a, b: float(a.mean()),
    "area": lambda a, b: auc(a, b > 0) - 0.5,
    "correlation": lambda a, b: float(np.corrcoef(a, b)[0, 1]),
}


@pytest.mark.parametrize("name", list(MEASURES))
def test_with_nothing_there_jackknives_decide_little(name):
    """At 41 clusters; at 20 correlations decide in 8 %, so that a claim by a jackknife asks for more than 20."""
    measure, runs, decided = MEASURES[name], 300, 0
    for run in range(runs):
        a, b, clusters = drawn(np.random.default_rng([run, 41]), SHAPES["normal"], 41)
        found = jackknifed(lambda kept, a=a, b=b: measure(a[kept], b[kept]), lambda kept: 0.0, clusters)
        decided += said(found).decided
    assert decided / runs <= MOST


@pytest.mark.parametrize("runs_each", [5, 8])
def test_with_nothing_there_runs_decide_little(runs_each):
    """Two arms of a design, a share of 1,193 right each; now and then a training fails."""
    simulations, decided = 2000, 0
    for run in range(simulations):
        rng = np.random.default_rng([run, runs_each])
        share = np.clip(rng.normal(0.95, 0.012, (2, runs_each)) - 0.4 * (rng.random((2, runs_each)) < 0.02), 0, 1)
        first, second = rng.binomial(1193, share) / 1193
        decided += said(over_runs(second, first, resolution=1 / 1193)).decided
    assert decided / simulations <= MOST


def test_what_is_planted_is_found():
    rng = np.random.default_rng(4)
    found = {"pairs": 0, "null": 0, "jackknife": 0, "runs": 0}
    for sign, verdict in ((1, Verdict.SUPPORTED), (-1, Verdict.CONTRADICTED)):
        for _ in range(20):
            value, control, clusters = drawn(rng, SHAPES["normal"], 41)
            gap = value + 1.2 * sign
            found["pairs"] += said(paired(gap, control, clusters)) == verdict
            found["jackknife"] += verdict == said(
                jackknifed(lambda kept, a=gap, b=control: a[kept].mean() - b[kept].mean(), lambda kept: 0.0, clusters)
            )
            found["null"] += said(against_null(4.0 * sign, rng.normal(size=199), 31)) == verdict
            found["runs"] += said(over_runs(rng.normal(0.05 * sign, 0.012, 5), np.zeros(5))) == verdict
    assert min(found.values()) >= 38, found
