"""C1 on rows whose truth is known: twenty images at least, whatever rotations say, and classifiers that share rows."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from connecting import (
    ANSWERS,
    DRAWS,
    LEAST,
    WIDTH,
    answered,
    apart,
    at_random,
    by_a_margin,
    called,
    called_equivalent,
    excess,
    ids,
    landed,
    seen,
    spin,
    vocabulary,
)
from planting import MOST, RUNS, decided, verdicts

from vlm_probe.evidence import Verdict, judge_all
from vlm_probe.evidence.statistics import OBSERVED
from vlm_probe.findings import FINDINGS, connected, in_context
from vlm_probe.findings.c1_manifold import lands_on_words
from vlm_probe.findings.connected import ROWS, TURNS
from vlm_probe.findings.in_context import DEALT
from vlm_probe.scenes import scene_items
from vlm_probe.settings import ALPHA

C1 = FINDINGS["C1"]
TESTED = tuple(claim for claim in C1.claims if not claim.descriptive)
ALONE = replace(C1, claims=TESTED)


def model(rng, x, words, n=LEAST, draws=DRAWS, shift=0.0, told=None, right=0.0, **more):
    tables = {**landed(x, words, n, draws), **called(rng, n, right)}
    tables["images"] = tables["images"].assign(**told or apart(rng, n=n, shift=shift)[0])
    return {"model": {**tables, "items": answered(rng, n, ANSWERS, **more)}}


def test_nothing_is_rarely_called_at_the_smallest_n():
    assert {claim.least for claim in TESTED} == {LEAST}
    told = iter(apart(np.random.default_rng(5), RUNS))
    rates = decided(ALONE, lambda rng: model(rng, at_random(rng, seen(rng)), vocabulary(rng), told=next(told)))
    print("C1, decided with nothing there:", rates)
    assert set(rates) == {claim.id for claim in TESTED}
    assert max(rates.values()) <= MOST, rates


def among(rng, n, draws=499, noise=0.5, **more):
    """Rows that are words and a little else."""
    words = vocabulary(rng)
    x = words[rng.integers(len(words), size=2 * n)] + noise * rng.normal(size=(2 * n, WIDTH))
    return model(rng, x, words, n, draws, **more)


def away(rng, n, **more):
    """Rows that use the very directions that words use least."""
    words = vocabulary(rng, spread=50)
    x = words.mean(0) + rng.normal(size=(2 * n, WIDTH)) * np.geomspace(0.05, 3, WIDTH)
    turn = spin(rng)
    return model(rng, x @ turn, words @ turn, n, 499, **more)


def test_planted_effects_are_found_and_their_opposites_contradicted():
    found = verdicts(ALONE, lambda rng: among(rng, 101, right=0.4, right_words=0.2))
    # That words are told from image rows less well than from words takes rows below chance: of rows like words, 0.
    assert found.pop("blend_in") in (Verdict.UNDECIDED, Verdict.EQUIVALENT)
    assert set(found.values()) == {Verdict.SUPPORTED}

    def worse(rng):
        return away(rng, 101, shift=2.0, right=-0.4, right_turned=0.2, right_random=0.2)

    judged = replace(C1, claims=tuple(replace(claim, requires=()) for claim in TESTED))
    assert set(verdicts(judged, worse).values()) == {Verdict.CONTRADICTED}

    def below_chance(rng):
        measured = among(rng, 101)
        images = measured["model"]["images"]
        images["told_apart"] = images["told_words"] - 0.25 * (rng.random(101) < 0.6)
        return measured

    assert verdicts(ALONE, below_chance)["blend_in"] == Verdict.SUPPORTED


def blend_in(rng, n, margin):
    told = {name: rng.binomial(4, 0.5 + more, n) / 4 for name, more in (("told_words", 0), ("told_apart", margin))}
    return {"model": {"images": pd.DataFrame({**ids(n), **told})}}


def words(rng, n, margin, other="right_random"):
    """One item an image, and all that differ differ one way: what would close an interval."""
    table = answered(rng, n, (other,), largest=1)
    return {"model": {"items": table.assign(right_words=by_a_margin(rng, table, other, margin))}}


MADE = {
    "nearer": lambda rng, n, margin: {"model": excess(rng, n, margin)},
    "blend_in": blend_in,
    "words": words,
    "words_turned": lambda rng, n, margin: words(rng, n, margin, "right_turned"),
    "in_context": lambda rng, n, margin: {"model": called(rng, n, margin, habits=False)},
}


@pytest.mark.parametrize("n", [LEAST, 59])
def test_what_matters_is_rarely_called_equivalent(n):
    """Of right and wrong answers 59 images are the first that can be: at 20 their interval used to close."""
    rates = called_equivalent(TESTED, MADE, n)
    print(f"C1, equivalent though it matters, {n} images:", rates)
    assert set(rates) == {claim.id for claim in TESTED}
    assert max(rates.values()) <= MOST, rates


def test_ten_images_decide_nothing_however_often_they_are_turned():
    rows = judge_all(TESTED, among(np.random.default_rng(3), 10, 999, right=0.4, right_words=0.4, right_turned=-0.4))
    assert {row.reason for row in rows} == {f"10 images, {LEAST} would do"}
    assert rows[0].low > 0


def test_there_are_rotations_and_deals_enough_for_seven_models_and_all_claims():
    for finding in ("C1", "C2"):
        tests = 7 * sum(not claim.descriptive for claim in FINDINGS[finding].claims)
        assert 2 / (min(TURNS, DEALT) + 1) * tests < ALPHA


def test_tables_hold_what_is_promised(replica, monkeypatch):
    monkeypatch.setattr(in_context, "TEXTS", 31)
    items = list(scene_items(23))
    tables = lands_on_words(replica, items)
    assert set(tables["lens"]["id"]) <= set(tables["images"]["id"])
    images, rotations = tables["images"], tables["rotations"]
    assert {"nearest", "turned", "longer", "told_apart", "told_words"} < set(images.columns)
    assert images["cluster"].is_unique
    assert rotations["clusters"].unique().tolist() == [23] == [len(images)]
    own = rotations["draw"].to_numpy() == OBSERVED
    assert (own.sum(), len(rotations)) == (1, TURNS + 1)
    # Five or six rows of every image, which do not weigh quite the same.
    assert 23 * (ROWS - 3) < rotations["n"].iloc[0] < 23 * (ROWS - 2)
    cosine = rotations["cosine"].to_numpy()
    assert images["nearest"].to_numpy().mean() == pytest.approx(cosine[own][0], abs=5e-3)
    assert images["turned"].to_numpy().mean() == pytest.approx(cosine[~own].mean(), abs=5e-3)
    evidence = {row.claim: row for row in judge_all(C1.claims, {"model": tables})}
    assert {evidence[claim.id].unit for claim in TESTED} == {"images"}
    assert evidence["nearer"].clusters == 23


def test_of_many_images_some_are_turned_and_the_others_do_not_count(replica, monkeypatch):
    monkeypatch.setattr(in_context, "TEXTS", 7)
    monkeypatch.setattr(connected, "TURNED", 13)
    monkeypatch.setattr(connected, "TURNS", 7)
    tables = lands_on_words(replica, list(scene_items(23)))
    assert tables["images"][["nearest", "turned"]].notna().sum().tolist() == [13, 13]
    assert tables["rotations"]["clusters"].tolist() == [13] * 8
    cosine = tables["rotations"]["cosine"].to_numpy()
    assert np.nanmean(tables["images"]["nearest"]) == pytest.approx(cosine[0])
    assert np.nanmean(tables["images"]["turned"]) == pytest.approx(cosine[1:].mean())
