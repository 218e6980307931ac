"""What may be said of a claim: every verdict by hand, what claims rest on, and that no two tests disagree unseen."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm_probe.errors import VlmProbeError
from vlm_probe.evidence import (
    Claim,
    Described,
    Estimate,
    PairedMean,
    Verdict,
    decide,
    evidence_table,
    holm,
    judge,
    judge_all,
)
from vlm_probe.evidence.estimate import against_null, jackknifed, over_runs, paired
from vlm_probe.evidence.evidence import COLUMNS
from vlm_probe.settings import ALPHA

NAN = float("nan")


@pytest.mark.parametrize(
    ("values", "margin", "verdict", "reason"),
    [
        ((0.2, 0.1, 0.3, 0.001), 0.0, Verdict.SUPPORTED, ""),
        ((-0.2, -0.3, -0.1, 0.001), 0.0, Verdict.CONTRADICTED, ""),
        ((0.1, -0.1, 0.3, 0.2), 0.0, Verdict.UNDECIDED, "the interval includes 0"),
        ((0.1, 0.0, 0.2, 0.001), 0.0, Verdict.UNDECIDED, "the interval includes 0"),
        # The interval is not corrected, the test is: both must say so.
        ((0.2, 0.1, 0.3, 0.05), 0.0, Verdict.UNDECIDED, "the interval excludes 0, the corrected test does not"),
        ((0.2, 0.1, 0.3, NAN), 0.0, Verdict.UNDECIDED, "the interval excludes 0, the corrected test does not"),
        ((0.1, -0.1, 0.3, 0.001), 0.0, Verdict.UNDECIDED, "the interval includes 0"),
        ((0.2, NAN, NAN, 0.001), 0.0, Verdict.UNDECIDED, "no interval"),
        ((NAN, NAN, NAN, NAN), 0.0, Verdict.UNDECIDED, "no interval"),
        ((-0.1, 0.1, 0.3, 0.001), 0.0, Verdict.UNDECIDED, "the difference lies outside its interval"),
        # Inside the smallest difference that would matter, whether or not it is sure to be one.
        ((0.01, -0.01, 0.03, 0.4), 0.04, Verdict.EQUIVALENT, ""),
        ((0.02, 0.01, 0.03, 0.001), 0.04, Verdict.EQUIVALENT, ""),
        ((0.02, 0.01, 0.04, 0.001), 0.04, Verdict.SUPPORTED, ""),
        ((-0.01, -0.05, 0.03, 0.4), 0.04, Verdict.UNDECIDED, "the interval includes 0"),
        ((0.0, 0.0, 0.0, 1.0), 0.04, Verdict.EQUIVALENT, ""),
        ((0.0, 0.0, 0.0, 1.0), 0.0, Verdict.UNDECIDED, "the interval includes 0"),
    ],
)
def test_verdicts_by_hand(values, margin, verdict, reason):
    assert decide(*values, margin=margin) == (verdict, reason)
    # Of a claim that the difference is negative, the same in the mirror.
    opposite = {Verdict.SUPPORTED: Verdict.CONTRADICTED, Verdict.CONTRADICTED: Verdict.SUPPORTED}
    assert decide(*values, margin=margin, more=False) == (opposite.get(verdict, verdict), reason)


finite = st.floats(-10, 10)


@given(finite, finite, finite, st.floats(0, 1) | st.just(NAN), st.floats(0, 1), st.booleans())
@settings(max_examples=500, deadline=None)
def test_a_direction_is_called_where_difference_interval_and_test_say_it_together(d, low, high, p, margin, more):
    verdict, reason = decide(d, low, high, p, margin=margin, more=more)
    assert bool(reason) == (verdict == Verdict.UNDECIDED)
    if verdict.decided:
        assert p < ALPHA
        assert low <= d <= high
        up = d > 0
        assert (low > 0) if up else (high < 0)
        assert verdict == (Verdict.SUPPORTED if up == more else Verdict.CONTRADICTED)
        assert max(abs(low), abs(high)) >= margin
    if verdict == Verdict.EQUIVALENT:
        assert -margin < low <= high < margin


def points_one_way(found: Estimate) -> bool:
    """Where the interval excludes 0 it does so on the side of the difference."""
    return (found.low <= 0 <= found.high) or (found.low > 0) == (found.difference > 0)


values = st.lists(st.floats(-5, 5).map(lambda x: round(x, 2)), min_size=6, max_size=23)


@given(values, st.integers(0, 3))
@settings(max_examples=200, deadline=None)
def test_interval_and_test_of_an_estimate_never_point_in_different_directions(numbers, seed):
    """Whatever the numbers: a mean by clusters, runs, a jackknife of the median, and lopsided nulls."""
    rng = np.random.default_rng(seed)
    x, clusters = np.asarray(numbers), rng.integers(0, 11, len(numbers))
    ones = (x > 0).astype(float)
    found = [
        paired(x, 0.0, clusters),
        paired(ones, rng.integers(0, 2, len(x)).astype(float), clusters, right_or_wrong=1.0),
        over_runs(x, np.zeros(len(x))),
        jackknifed(lambda kept: float(np.median(x[kept])), lambda kept: 0.0, clusters),
    ]
    for one in found:
        if not math.isnan(one.low):
            assert one.low <= one.difference <= one.high
            assert points_one_way(one)
        verdict, _ = decide(one.difference, one.low, one.high, one.p)
        assert not verdict.decided or (one.p < ALPHA and points_one_way(one))
    # The mean of a null can be beyond its own quantiles: then nothing is called.
    null = np.concatenate([np.zeros(199), [1e6 * x.sum()]])
    one = against_null(float(x[0]), null, len(x))
    verdict, _ = decide(one.difference, one.low, one.high, one.p)
    assert not verdict.decided or points_one_way(one)


def test_a_null_that_one_draw_drags_away_decides_nothing():
    """199 zeros and a million: 1 is above all but one of them, and far below their mean."""
    found = against_null(1.0, np.concatenate([np.zeros(199), [1e6]]), 50)
    assert found.difference < 0 < found.low
    assert found.p == pytest.approx(2 * 2 / 201)
    assert decide(found.difference, found.low, found.high, found.p) == (
        Verdict.UNDECIDED,
        "the difference lies outside its interval",
    )


def claim(id: str = "one", **changes) -> Claim:
    about = Claim(
        id=id,
        sentence="{model} is right more often than a guess",
        statistic=PairedMean("items", "right", "guess"),
        control="a guess",
        unit="images",
    )
    return replace(about, **changes)


def items(difference: float, n: int = 40, *, seed: int = 0, spread: float = 0.3) -> dict[str, pd.DataFrame]:
    """Items, an image each, whose two values are as far apart in the mean."""
    gap = np.random.default_rng(seed).normal(0, spread, n)
    guess = np.full(n, 0.25)
    right = guess + gap - gap.sum() / max(n, 1) + difference
    names = [f"i{number}" for number in range(n)]
    return {"items": pd.DataFrame({"id": names, "cluster": names, "right": right, "guess": guess})}


def test_a_claim_is_judged_with_all_that_it_rests_on():
    table = items(0.3)
    row = judge(claim(), table, models=["replica/a"])
    found = paired(table["items"]["right"].to_numpy(), 0.25, np.arange(40))
    assert (row.sentence, row.models, row.against) == (
        "replica/a is right more often than a guess",
        "replica/a",
        "a guess",
    )
    assert (row.n, row.clusters, row.unit) == (40, 40, "images")
    assert (row.value, row.control, row.difference) == pytest.approx((0.55, 0.25, 0.3))
    assert (row.low, row.high, row.p) == pytest.approx((found.low, found.high, found.p))
    assert row.p_corrected == row.p
    assert (row.verdict, row.reason) == (Verdict.SUPPORTED, "")
    table = evidence_table([row], title="evidence")
    assert tuple(table) == COLUMNS
    assert table["verdict"].tolist() == ["supported"]
    assert table.attrs == {"title": "evidence"}


@pytest.mark.parametrize(
    ("changes", "table", "verdict", "reason"),
    [
        ({}, items(-0.3), Verdict.CONTRADICTED, ""),
        ({"more": False}, items(-0.3), Verdict.SUPPORTED, ""),
        ({}, items(0.0), Verdict.UNDECIDED, "the interval includes 0"),
        ({"margin": 0.2}, items(0.0), Verdict.EQUIVALENT, ""),
        ({"least": 41}, items(0.3), Verdict.UNDECIDED, "40 images, 41 would do"),
        ({"least": 41, "margin": 0.2}, items(0.0), Verdict.UNDECIDED, "40 images, 41 would do"),
        ({}, items(0.3, 0), Verdict.UNDECIDED, "0 images, 20 would do"),
        ({"descriptive": True}, items(0.3), Verdict.DESCRIPTIVE, ""),
        ({"descriptive": True}, items(0.3, 0), Verdict.UNDECIDED, "no images"),
    ],
)
def test_claims_by_hand(changes, table, verdict, reason):
    row = judge(claim(**changes), table)
    assert (row.verdict, row.reason) == (verdict, reason)


def test_clusters_count_not_items():
    """Sixty items of twelve images are twelve."""
    table = items(0.3, 60)
    table["items"]["cluster"] = np.arange(60) % 12
    row = judge(claim(), table)
    assert (row.n, row.clusters, row.verdict) == (60, 12, Verdict.UNDECIDED)
    assert row.reason == "12 images, 20 would do"


def test_p_is_corrected_over_all_claims_and_models_that_are_tested():
    claims = [
        claim(),
        claim("few", least=1000),
        claim("number", descriptive=True, statistic=Described("items", "right")),
    ]
    measured = {"a": items(0.3), "b": items(0.1, seed=3), "c": items(0.02, seed=4)}
    rows = {(row.claim, row.models): row for row in judge_all(claims, measured, finding="S9")}
    tested = [rows["one", name] for name in measured]
    assert [row.p_corrected for row in tested] == holm([row.p for row in tested])
    assert tested[0].p_corrected == pytest.approx(3 * tested[0].p)
    rest = [row for key, row in rows.items() if key[0] != "one"]
    assert np.isnan([row.p_corrected for row in rest]).all(), "what is not tested weighs on no other"
    assert {row.finding for row in rows.values()} == {"S9"}
    # p = 0.03 alone decides; beside two more it does not.
    alone = judge(claim(), items(0.09, spread=0.3))
    assert ALPHA / 3 < alone.p < ALPHA
    assert alone.verdict == Verdict.SUPPORTED
    three = judge_all([claim(), claim("two"), claim("three")], {"a": items(0.09, spread=0.3)})
    assert [row.verdict for row in three] == [Verdict.UNDECIDED] * 3
    assert {row.reason for row in three} == {"the interval excludes 0, the corrected test does not"}


def test_a_claim_that_rests_on_another_needs_it_supported():
    resting = claim("two", requires=("one",), statistic=PairedMean("items", "right", 0.0))
    verdicts = {
        name: judge_all([claim(), resting], {"a": table})
        for name, table in {"yes": items(0.3), "no": items(0.0), "opposite": items(-0.1, spread=0.1)}.items()
    }
    assert [row.verdict for row in verdicts["yes"]] == [Verdict.SUPPORTED, Verdict.SUPPORTED]
    for name, one in (("no", Verdict.UNDECIDED), ("opposite", Verdict.CONTRADICTED)):
        assert [row.verdict for row in verdicts[name]] == [one, Verdict.UNDECIDED]
        assert verdicts[name][1].reason == "it rests on one, which is not supported"
    for claims in ([resting], [resting, claim()]):
        with pytest.raises(VlmProbeError, match=r"^claim 'two' rests on one, which is not judged before it$"):
            judge_all(claims, {"a": items(0.3)})


def test_pairs_are_every_other_model_against_the_first():
    pair = claim("pair", of="pair", sentence="{second} is right more often than {first}", control="{first}")
    measured = {"a": items(0.0), "b": items(0.4, seed=2), "c": items(-0.4, seed=3)}
    rows = judge_all([pair], measured)
    assert [(row.models, row.sentence, row.against, row.verdict) for row in rows] == [
        ("a, b", "b is right more often than a", "a", Verdict.SUPPORTED),
        ("a, c", "c is right more often than a", "a", Verdict.CONTRADICTED),
    ]
    # With a control it is the difference of the two differences.
    assert [row.difference for row in rows] == pytest.approx([0.4, -0.4])
    # A pair that rests on what is claimed of a model needs it of both.
    resting = replace(pair, requires=("one",))
    both = {"a": items(0.3), "b": items(0.7, seed=2), "c": items(-0.4, seed=3)}
    verdicts = {row.models: row.verdict for row in judge_all([claim(), resting], both) if row.claim == "pair"}
    assert verdicts == {"a, b": Verdict.SUPPORTED, "a, c": Verdict.UNDECIDED}


def test_what_an_untrained_copy_shows_too_is_undecided():
    measured = {"a": items(0.3), "b": items(0.3, seed=1), "c": items(-0.3, seed=2)}
    bare = {"a": items(0.25, seed=5), "b": items(-0.2, seed=6)}
    rows = judge_all([claim()], measured, untrained=bare)
    assert [(row.verdict, row.reason) for row in rows] == [
        (Verdict.UNDECIDED, "not clearly more than an untrained copy shows"),
        (Verdict.SUPPORTED, ""),
        (Verdict.CONTRADICTED, ""),
    ]
    assert [row.untrained for row in rows][:2] == pytest.approx([0.25, -0.2])
    assert math.isnan(rows[2].untrained)
    assert judge_all([claim(untrained=False)], measured, untrained=bare)[0].verdict == Verdict.SUPPORTED
    # Of a pair it takes both copies to say, or none is asked for.
    pair = claim("pair", of="pair", sentence="{second}, {first}", control="")
    measured = {"a": items(0.0), "b": items(0.4, seed=2)}
    lone, missing = {"b": items(0.0)}, "of one of the two models there is no untrained copy"
    for bare, said in (
        (measured, (Verdict.UNDECIDED, "an untrained copy shows as much")),
        (lone, (Verdict.UNDECIDED, missing)),
        ({}, (Verdict.SUPPORTED, "")),
    ):
        (row,) = judge_all([pair], measured, untrained=bare)
        assert (row.verdict, row.reason) == said


@pytest.mark.parametrize("errors", [1, 2, 3])
def test_a_copy_that_is_as_good_by_chance_takes_a_verdict_away(errors):
    """Of one distribution both, an effect of so many standard errors: that one alone is significant says nothing."""
    hits = 0
    for run in range(200):
        rng = np.random.default_rng([run, errors])
        own, copy = (rng.normal(errors / 41**0.5, 1, 41) for _ in range(2))
        tables = [
            {"items": pd.DataFrame({"id": range(41), "cluster": range(41), "right": x, "guess": 0.0})}
            for x in (own, copy)
        ]
        (row,) = judge_all([claim()], {"a": tables[0]}, untrained={"a": tables[1]})
        hits += row.verdict.decided
    assert hits / 200 <= 0.07


def test_what_rests_on_nothing_is_not_equivalent_either():
    resting = claim("two", margin=0.3, requires=("one",))
    rows = judge_all([claim(), resting], {"a": items(0.0)})
    assert rows[0].verdict == Verdict.UNDECIDED
    assert judge(replace(resting, requires=()), items(0.0)).verdict == Verdict.EQUIVALENT
    assert (rows[1].verdict, rows[1].reason) == (Verdict.UNDECIDED, "it rests on one, which is not supported")


def test_rows_of_one_name_are_no_more_rows():
    pair = claim("pair", of="pair", sentence="{second}, {first}", control="")
    twice = {"items": pd.concat([items(0.0)["items"]] * 2)}
    with pytest.raises(VlmProbeError, match=r"^table 'items' has the id 'i0' twice$"):
        judge(pair, twice, items(0.4))


def test_a_claim_may_be_about_some_of_the_tables_alone():
    measured = {"the paper": {"published": pd.DataFrame({"x": [1.0]})}, "replicas": items(0.3)}
    paper = claim("paper", about=("the paper",), descriptive=True, statistic=Described("published", "x"))
    rows = judge_all([paper, claim(about=("replicas",))], measured, scope=lambda names: f"of {names[0]}")
    assert [(row.claim, row.models, row.verdict, row.scope) for row in rows] == [
        ("paper", "the paper", Verdict.DESCRIPTIVE, "of the paper"),
        ("one", "replicas", Verdict.SUPPORTED, "of replicas"),
    ]
    assert judge_all([paper], {"replicas": items(0.3)}) == []


def test_what_cannot_be_judged():
    wrong = [
        (claim(statistic=PairedMean("item", "right")), "no table 'item' was measured; there are items"),
        (
            claim(statistic=PairedMean("items", "left")),
            "no column 'left' was measured; there are id, cluster, right, guess",
        ),
        (claim(of="pair"), "claim 'one' is about 2 model(s), got tables of 1"),
    ]
    for one, message in wrong:
        with pytest.raises(VlmProbeError) as error:
            judge(one, items(0.3))
        assert str(error.value) == message
