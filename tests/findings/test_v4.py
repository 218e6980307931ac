"""V4: rows known to be untrained beside random ones, over images and over rows."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from planting import MOST, RUNS, decided, verdicts
from tiny import tiny_language, tiny_vlm

from vlm_probe.errors import VlmProbeError
from vlm_probe.evidence import EveryWay, PairedMean, Verdict, judge_all
from vlm_probe.findings import run
from vlm_probe.findings.v4_leak import (
    FINDING,
    MARGIN,
    PLACES,
    SETS,
    by_item_and_row,
    drawn_rows,
    leaked_probability,
    mean_of_rows,
)
from vlm_probe.hooked.anatomy import unembedding
from vlm_probe.scenes import family_items, scene_items
from vlm_probe.vocabulary import answer_and_image_rows, known_unused, log_probabilities, needed_ids

LEAST = FINDING.claims[0].least
TESTED = [claim.id for claim in FINDING.claims if not claim.descriptive]


def leaking(rng, *, images=LEAST, each=2, rows=LEAST, width=29, others=240, spread=1.0, shift=(0.0, 0.0, 0.0)):
    """The tables of random rows and random states, which have a direction in common, as those of a model have.

    shift: added to the logits of untrained, used and other rows.
    """
    size, n = others + 2 * rows, images * each
    table = spread * rng.normal(size=(size, width)) * rng.gamma(2, 0.5, size=(size, 1))
    ids = rng.permutation(size).tolist()
    drawn = drawn_rows(ids[:rows], ids[rows : 2 * rows], range(size), seed=int(rng.integers(1000)))
    common, own = rng.normal(size=width), np.repeat(rng.normal(size=(images, width)), each, axis=0)
    log_p = {}
    for place in PLACES:
        logits = (common + 0.5 * own + 0.5 * rng.normal(size=(n, width))) @ table.T
        for name, added in zip(SETS, shift, strict=True):
            logits[:, drawn[name]] += added
        logits -= np.log(np.exp(logits).sum(1, keepdims=True))
        log_p[place] = np.stack([logits[:, drawn[name]] for name in SETS], axis=1)
    image = [f"image {i // each}" for i in range(n)]
    about = pd.DataFrame({"id": [f"item {i}" for i in range(n)], "image": image, "cluster": image, "kind": "color"})
    tables = by_item_and_row(about, drawn, log_p)
    return {"model": {**tables, "items": tables["items"].assign(unused_mass=0.1, unused_share=0.2)}}


def test_of_rows_drawn_alike_nothing_is_decided():
    shares = decided(FINDING, leaking)
    assert shares == {name: pytest.approx(0, abs=MOST) for name in TESTED}


def test_over_images_alone_most_random_rows_would_be_told_apart():
    """As it was: all images meet the same rows, whose number was in no interval."""
    claims = []
    for claim in FINDING.claims[:1]:
        assert isinstance(claim.statistic, EveryWay)
        claims.append(replace(claim, statistic=claim.statistic.of[0]))
    assert isinstance(claims[0].statistic, PairedMean)
    shares = decided(replace(FINDING, claims=tuple(claims)), leaking, runs=RUNS // 4)
    assert min(shares.values()) > 0.5


@pytest.mark.parametrize(
    ("planted", "expected"),
    [
        ({"shift": (4.0, 0.0, 0.0), "spread": 0.3}, Verdict.SUPPORTED),
        ({"shift": (-4.0, 0.0, 0.0), "spread": 0.3}, Verdict.CONTRADICTED),
        ({"shift": (0.05, 0.0, 0.0), "spread": 0.05, "rows": 101, "images": 41}, Verdict.EQUIVALENT),
    ],
)
def test_a_planted_leak_is_found_and_its_opposite_is_contradicted(planted, expected):
    found = verdicts(FINDING, lambda rng: leaking(rng, **planted))
    assert {name: found[name] for name in TESTED} == dict.fromkeys(TESTED, expected)
    assert found["unused"] == Verdict.DESCRIPTIVE


def test_sets_are_apart_and_as_many():
    drawn = drawn_rows([3, 5, 7, 11, 90], [11, 13, 17, 2], range(100), special=[2, 90], seed=4)
    assert set(drawn["untrained"]) == {3, 5, 7}
    assert set(drawn["used"]) == {11, 13, 17}  # what is used is not untrained, whoever says so
    assert not set(drawn["other"]) & {2, 3, 5, 7, 11, 13, 17, 90}
    short = drawn_rows([3, 5, 7], [11, 13, 17], [3, 5, 7, 11, 13, 17, 19])
    assert sorted(short["other"]) == [-1, -1, 19]
    assert drawn_rows([], [11, 13], range(100)).empty


def test_of_a_set_that_is_short_the_mean_is_of_what_is_there():
    values = np.array([[1.0, np.nan, 3.0], [np.nan, np.nan, np.nan]])
    np.testing.assert_array_equal(mean_of_rows(values), [2.0, np.nan])


def test_probabilities_are_those_of_the_model(replica):
    item = next(family_items(1, families=("gqa",), seed=4))
    table, ids = unembedding(replica), [7, 311, 701]
    hidden = answer_and_image_rows(replica, item)
    found = log_probabilities(hidden, table, ids, block=101)
    assert found.shape == (4, 9, 3)
    with torch.no_grad():
        logits = replica(replica.prepare(item.picture(64), item.question)).logits[0, -1]
    torch.testing.assert_close(found[-1, 0], logits.log_softmax(-1)[ids], atol=1e-4, rtol=1e-4)


def test_a_replica_gives_untrained_rows_less_and_its_untrained_copy_does_not():
    """It used to be told the other way round, of rows that an indicator without references had named."""
    items = [*scene_items(20), *family_items(4, families=("pope",))]
    result = run(["V4"], ["replica/small-clip"], items)
    evidence = result.evidence.set_index("claim")
    for name in ("answer_used", "image_used"):
        assert evidence.loc[name, "verdict"] == Verdict.CONTRADICTED
        assert evidence.loc[name, "difference"] < -1
        assert abs(evidence.loc[name, "untrained"]) < MARGIN
        assert evidence.loc[name, "n"] == 24
        assert evidence.loc[name, "clusters"] == 22  # images, of which POPE asks twice; there are more rows
    # Alone too, and though over images its rows differ.
    bare = judge_all(FINDING.claims, {"bare": result.untrained["V4"]["replica/small-clip"]})
    assert not any(row.verdict.decided for row in bare)
    tables = result.measured["V4"]["replica/small-clip"]
    columns = [f"{place}_{name}" for place in PLACES for name in SETS]
    assert set(tables["items"]) == {"id", "image", "cluster", "kind", "unused_mass", "unused_share", *columns}
    assert set(tables["rows"]) == {"pair", *columns, *(f"{name}_id" for name in SETS)}
    assert set(tables["layers"]) == {"id", "image", "layer", *columns}
    for column in columns:  # the grand mean is one, over items or over rows
        assert tables["items"][column].to_numpy().mean() == pytest.approx(
            tables["rows"][column].to_numpy().mean(), abs=1e-6
        )
    shown = result.shown(FINDING)
    assert shown.tables["image"]["measure"].unique().tolist() == list(SETS)
    image = shown.tables["image"]
    mass = {name: image.loc[image["measure"] == name, "mean"].to_numpy() for name in SETS}
    assert mass["untrained"].max() < 0.05 < mass["used"].min()


def test_masses_add_up(replica):
    items = list(scene_items(3))
    used = needed_ids(replica, items)
    rest = sorted(set(range(704)) - set(used))
    tables = leaked_probability(replica, items, reference=rest)
    assert tables["items"]["unused_share"].tolist() == [pytest.approx(len(rest) / 704)] * 3
    hidden = answer_and_image_rows(replica, items[0])
    log_p = log_probabilities(hidden, unembedding(replica), tables["rows"]["untrained_id"].tolist())
    first = tables["layers"].query("id == @items[0].id")
    np.testing.assert_allclose(first["image_untrained"], log_p[:, 1:].exp().sum(-1).mean(-1), rtol=1e-4)
    assert np.isnan(first["image_other"].to_numpy()).all()  # all that is not used was called untrained
    everything = log_probabilities(hidden, unembedding(replica), rest)[-1, 0].exp().sum()
    assert tables["items"]["unused_mass"].iloc[0] == pytest.approx(float(everything), rel=1e-3)


def test_what_it_cannot_be_measured_on_is_refused():
    with pytest.raises(VlmProbeError) as caught:
        leaked_probability(tiny_language("llama"), list(scene_items(2)))
    assert str(caught.value) == (
        "model is a language model alone; leakage is read at image positions, which take an encoder"
    )
    model = tiny_vlm("clip", "llama")
    assert known_unused(model) == []
    with pytest.raises(VlmProbeError) as caught:
        leaked_probability(model, list(scene_items(2)))
    assert str(caught.value) == (
        "no id of model that the items' text does not use is known to be untrained: give ids that its training text "
        "never has, leaked_probability(model, items, reference=ids)"
    )
    assert FINDING.picks([replace(next(scene_items(1)), answer=" ")]) == []
