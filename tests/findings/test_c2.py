"""C2 on pairs of connectors whose truth is known: neither lands, both land equally, one lands and one does not."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from connecting import (
    EACH,
    LEAST,
    answered,
    apart,
    at_random,
    by_a_margin,
    called_equivalent,
    excess,
    ids,
    landed,
    seen,
    spin,
    vocabulary,
)
from planting import MOST, RUNS, decided, verdicts

from vlm_probe.evidence import AgainstNull, Verdict, judge_all
from vlm_probe.evidence.estimate import against_null
from vlm_probe.findings import FINDINGS
from vlm_probe.findings.c2_pretraining import connector_as_trained
from vlm_probe.findings.connected import NEARER
from vlm_probe.findings.probed import found_by_probe
from vlm_probe.scenes import scene_items
from vlm_probe.settings import ALPHA

C2 = FINDINGS["C2"]
TESTED = tuple(claim for claim in C2.claims if not claim.descriptive)
ALONE = replace(C2, claims=TESTED)
BOTH = ("first", "second")
COLUMNS = ("right", "right_words", "right_turned")
LABELS, QUESTIONS, TIMES = 5, 4, 3
"""Of what a probe finds: 20 kinds of object, each three times."""


def neither_lands(rng):
    """Two connectors into one language model, of the same images; each lies beside its words as chance has it."""
    words, content = vocabulary(rng), seen(rng)
    return {name: landed(at_random(rng, content), words) for name in BOTH}


def both_land(rng, n=LEAST, noise=0.6):
    """Both lie among their words equally: the second is the first turned with its words, and its noise another."""
    words = vocabulary(rng)
    content = np.repeat(words[rng.integers(len(words), size=n)], EACH, 0)
    found = {}
    for name in BOTH:
        turn = spin(rng)
        found[name] = landed((content + noise * seen(rng, n)) @ turn, words @ turn, n)
    return found


def connectors(rng, runs):
    """Whether probes at two connectors, which hold as much of the same objects, find what is asked: [run, item]."""
    kind = np.repeat(np.arange(LABELS * QUESTIONS), TIMES)
    answer, question = kind % LABELS, kind // LABELS

    def drawn(of, spread):
        return spread * rng.normal(size=(runs, of.max() + 1, 7))[:, of]

    every = np.arange(len(kind))
    content = drawn(answer, 1.0) + drawn(question, 0.5) + drawn(kind, 0.5) + drawn(every, 0.5)
    found = []
    for _ in BOTH:
        turn = np.linalg.qr(rng.normal(size=(runs, 7, 7)))[0]
        x = content @ turn + drawn(kind, 0.3) + drawn(every, 0.7)
        found.append(found_by_probe(x, answer, question, strengths=(0.03,)))
    return kind, found


def pair(rng, rotations, probes, told, n=LEAST, **more):
    """Tables of both; their answers are of the same items."""
    ease = rng.integers(2**32)
    for number, name in enumerate(BOTH):
        images = rotations[name]["images"].assign(**told[number])
        own = more if name == "second" else {}
        # What is easy for the one is easy for the other; what else they answer is their own.
        items = answered(np.random.default_rng(ease), n, [f"{c}_{m}" for c in COLUMNS for m in BOTH], **_of(own, name))
        items = items.rename(columns={f"{column}_{name}": column for column in COLUMNS})
        rotations[name] |= {"images": images, "items": items, "probes": probes[number]}
    return rotations


def _of(more, name):
    return {f"{column}_{name}": value for column, value in more.items()}


def probes_of(kind, found):
    return [pd.DataFrame({"id": range(len(kind)), "object": kind.astype(str), "found": own}) for own in found]


def test_nothing_is_rarely_called_at_the_smallest_n():
    assert {claim.least for claim in TESTED} == {LEAST} == {LABELS * QUESTIONS}
    rng = np.random.default_rng(5)
    kind, found = connectors(rng, RUNS)
    # Image rows of both are told from words, more or less.
    told = zip(apart(rng, RUNS, shift=0.6), apart(rng, RUNS, shift=0.6), strict=True)
    found = zip(*found, strict=True)
    rates = decided(ALONE, lambda rng: pair(rng, neither_lands(rng), probes_of(kind, next(found)), next(told)))
    print("C2, decided with nothing there:", rates)
    assert set(rates) == {claim.id for claim in TESTED}
    assert max(rates.values()) <= MOST, rates


def test_two_that_land_equally_are_rarely_called_different():
    rates = decided(replace(C2, claims=TESTED[:1]), both_land)
    print("C2, decided where both land equally:", rates)
    assert set(rates) == {"nearer"}
    assert max(rates.values()) <= MOST, rates


def test_random_numbers_that_two_connectors_share_do_not_narrow_their_null():
    """Turned by the same rotations, their nulls go up and down together, and what was measured of them does not."""
    together, alone, (by_rotations, _) = 0, 0, NEARER.of
    assert isinstance(by_rotations, AgainstNull)
    for run in range(RUNS):
        both = list(neither_lands(np.random.default_rng(run)).values())
        alone += by_rotations(both).p < ALPHA
        first, second = (one["rotations"]["cosine"].to_numpy() for one in both)
        observed, *null = second - first
        together += against_null(observed, np.asarray(null), 1).p < ALPHA
    assert together / RUNS > MOST, "so that draw by draw would not do"
    assert alone / RUNS <= MOST


def differing(rng, better, worse, n=101, noise=(2.0, 0.3), sign=1.0):
    """Of the second: nearer to words or farther (by `noise`), and better by a probe, by words and by itself."""
    words = vocabulary(rng)
    x = words[rng.integers(len(words), size=2 * n)]
    rotations = {
        name: landed(x + s * rng.normal(size=x.shape), words, n, 499) for name, s in zip(BOTH, noise, strict=True)
    }
    kind = np.repeat(np.arange(41), TIMES)
    found = [(rng.random(len(kind)) < share).astype(float) for share in (worse, better)]
    told = [apart(rng, n=n, shift=shift)[0] for shift in ((0.0, 3.0) if sign > 0 else (3.0, 0.0))]
    return pair(rng, rotations, probes_of(kind, found), told, n, right=sign * 0.25, right_words=sign * 0.25)


def test_planted_effects_are_found_and_their_opposites_contradicted():
    found = verdicts(ALONE, lambda rng: differing(rng, 0.8, 0.4))
    assert set(found.values()) == {Verdict.SUPPORTED}, found
    opposite = verdicts(ALONE, lambda rng: differing(rng, 0.4, 0.8, noise=(0.3, 2.0), sign=-1.0))
    assert set(opposite.values()) == {Verdict.CONTRADICTED}, opposite


def told_apart(rng, n, margin):
    """All rows of the second are told from words, and of the first all but a few; other words are the same."""
    other = rng.binomial(4, 0.5, n) / 4
    first = 1 - 0.5 * (rng.random(n) < 2 * margin)
    return {
        name: {"images": pd.DataFrame({**ids(n), "told_apart": told, "told_words": other})}
        for name, told in (("first", first), ("second", 1.0))
    }


def answers(rng, n, margin):
    """One item an image, and all that differ differ one way."""
    table = answered(rng, n, ("right",), largest=1)
    return {
        "first": {"items": table},
        "second": {"items": table.assign(right=by_a_margin(rng, table, "right", margin))},
    }


def words(rng, n, margin):
    """One item an image; turned words are right or wrong by accident, so that differences of differences reach 2."""
    first = answered(rng, n, ("right_words",), largest=1)
    second = first.assign(right_words=by_a_margin(rng, first, "right_words", margin))
    by_accident = (rng.random((3, n)) < [[0.3], [0.02], [0.02]]).astype(float)
    return {
        name: {"items": table.assign(right_turned=np.abs(by_accident[0] - by_accident[1 + number]))}
        for number, (name, table) in enumerate((("first", first), ("second", second)))
    }


def probe(rng, n, margin):
    """As many kinds, each once."""
    table = answered(rng, n, ("found",), largest=1).assign(object=range(n))
    return {
        "first": {"probes": table},
        "second": {"probes": table.assign(found=by_a_margin(rng, table, "found", margin))},
    }


MADE = {
    "nearer": lambda rng, n, margin: {"first": excess(rng, n, 0.05), "second": excess(rng, n, 0.05 + margin)},
    "told_apart": told_apart,
    "words": words,
    "probe": probe,
    "answers": answers,
}


@pytest.mark.parametrize("n", [LEAST, 59])
def test_what_matters_is_rarely_called_equivalent(n):
    rates = called_equivalent(TESTED, MADE, n)
    print(f"C2, equivalent though it matters, {n} images:", rates)
    assert set(rates) == {claim.id for claim in TESTED}
    assert max(rates.values()) <= MOST, rates


def test_ten_images_decide_nothing():
    kind, _ = connectors(np.random.default_rng(5), 1)
    make = differing(np.random.default_rng(3), 0.9, 0.2, n=10)
    rows = {row.claim: row for row in judge_all(TESTED, make)}
    assert rows["nearer"].reason == f"10 images, {LEAST} would do"
    assert len(kind) == LEAST * TIMES


def test_a_connector_does_not_differ_from_itself(replica):
    """And what it is asked does not promise what two models do not differ in."""
    assert "pretrain" not in C2.question + "".join(claim.sentence for claim in C2.claims)
    tables = connector_as_trained(replica, list(scene_items(23)))
    assert set(tables) == {"images", "rotations", "items", "stages", "probes"}
    rows = {row.claim: row for row in judge_all(C2.claims, {"first": tables, "second": tables})}
    assert not [row for row in rows.values() if row.verdict.decided]
    assert {rows[claim.id].difference for claim in TESTED if rows[claim.id].n} == {0.0}
    assert {rows[claim].unit for claim in ("nearer", "told_apart", "words", "answers")} == {"images"}
