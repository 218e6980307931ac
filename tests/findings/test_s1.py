"""S1 on maps whose truth is known: another object of the same scene is the control, and it can fail."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from planting import MOST, decided, verdicts

from vlm_probe import VlmProbeError, findings
from vlm_probe.attention import image_attention, points_at_box, relevancy, share_in_box, union_coverage
from vlm_probe.evidence import Verdict
from vlm_probe.findings import FINDINGS
from vlm_probe.findings.s1_where_it_looks import MEASURES, _beyond, _on, _relevancy, where_it_looks
from vlm_probe.hooked.untrained import untrained
from vlm_probe.layout import UnitBox
from vlm_probe.scenes import family_items, sample_scene, scene_image, scene_items

S1 = FINDINGS["S1"]
LEAST = max(claim.least for claim in S1.claims)


def table(rng, clusters=LEAST, **effects):
    """Items about some images, one to three each: shares of a map, skewed, and which object it points at."""
    image = np.repeat(np.arange(clusters), 1 + np.arange(clusters) % 3)
    n, columns = len(image), {}
    for name in MEASURES:
        extra = effects.get(name, 0.0)
        both = rng.random((2, n)) < 0.3 if name == "points" else rng.gamma(0.7, 0.1, (2, n))
        # What an image does to both objects alike is no difference.
        columns[f"{name}_asked_more"] = both[0] + rng.normal(0, 0.02, clusters)[image] + extra
        columns[f"{name}_rival_more"] = both[1]
    return {"items": pd.DataFrame({"id": np.arange(n), "cluster": image, **columns})}


def test_nothing_is_rarely_called_at_the_smallest_n():
    rates = decided(S1, lambda rng: {"first": table(rng), "second": table(rng)})
    assert set(rates) == {claim.id for claim in S1.claims}
    assert max(rates.values()) <= MOST, rates


def test_planted_effects_are_found_and_their_opposites_contradicted():
    def make(rng, sign=1):
        some = dict.fromkeys(MEASURES, sign * 0.3)
        return {"first": table(rng, 101), "second": table(rng, 101, **some)}

    found = verdicts(S1, make)
    assert set(found.values()) == {Verdict.SUPPORTED}
    opposite = verdicts(S1, lambda rng: make(rng, sign=-1))
    assert set(opposite.values()) == {Verdict.CONTRADICTED}


def test_a_map_that_lights_every_object_alike_says_nothing():
    """Most of its mass is on objects: against the boxes' area that would be a finding."""
    rng = np.random.default_rng(0)
    columns = {}
    for name in MEASURES:
        shared = rng.gamma(2, 0.2, 101)
        columns |= {f"{name}_asked_more": shared + rng.normal(0, 0.01, 101), f"{name}_rival_more": shared}
    items = pd.DataFrame({"id": range(101), "cluster": range(101), **columns})
    found = verdicts(S1, lambda rng: {"model": {"items": items}})
    assert set(found.values()) == {Verdict.EQUIVALENT}


def test_a_larger_box_is_no_better_looked_at(replica):
    """Boxes of any size over maps that know of none: an even one, and one that peaks anywhere."""
    span = replica.prepare(scene_image(sample_scene(0), 64), "what?").layout
    coverages = [span.box_coverage(UnitBox(0.1, 0.1, 0.1 + side, 0.1 + side)) for side in (0.2, 0.6)]
    rows, cols = coverages[0].shape
    even = xr.DataArray(np.ones((rows, cols)), dims=("row", "col"))
    attention = even.expand_dims(layer=3)
    for coverage in coverages:
        found = _beyond(even, attention, [coverage])
        assert (found["relevancy"], found["attention"]) == pytest.approx((0, 0), abs=1e-6)
    hits = []
    for place in range(rows * cols):
        peak = even.copy()
        peak[divmod(place, cols)] = 2.0
        hits.append([_beyond(peak, attention, [coverage])["points"] for coverage in coverages])
    np.testing.assert_allclose(np.mean(hits, axis=0), [0, 0], atol=1e-9)
    for nothing in (_beyond(even, attention, []), _beyond(None, attention, coverages)):
        assert np.isnan(list(nothing.values())).tolist() == [True] * len(MEASURES)


def test_one_of_several_others_is_held_against_the_asked_one():
    """A map that peaks on one of ten objects, whichever is asked about: the mean of nine others would be skewed."""

    def make(rng):
        peak = rng.integers(0, 10, LEAST)
        asked, rival = (peak == number for number in range(2))
        hits = {"asked": asked - 0.1, "rival": rival - 0.1}
        columns = {f"{name}_{which}_more": hit for name in MEASURES for which, hit in hits.items()}
        return {"model": {"items": pd.DataFrame({"id": range(LEAST), "cluster": range(LEAST), **columns})}}

    rates = decided(replace(S1, claims=tuple(claim for claim in S1.claims if claim.of == "model")), make)
    assert max(rates.values()) <= MOST, rates


def test_what_an_untrained_copy_shows_too_is_undecided():
    make = lambda rng: {"model": table(rng, 41, points=0.4, relevancy=0.4, attention=0.4)}  # noqa: E731
    assert set(verdicts(S1, make).values()) == {Verdict.SUPPORTED}
    bare = {"model": table(np.random.default_rng(9), 41, points=0.4)}
    found = verdicts(S1, make, untrained=bare)
    assert found == {"points": Verdict.UNDECIDED, "relevancy": Verdict.SUPPORTED, "attention": Verdict.SUPPORTED}


def test_the_mean_over_objects_is_the_mean_of_their_shares():
    rng = np.random.default_rng(0)
    map_ = xr.DataArray(rng.random((3, 5, 7)), dims=("layer", "row", "col"))
    boxes = [rng.random((5, 7)) for _ in range(2)]
    expected = np.mean([share_in_box(map_, box).values for box in boxes], axis=0)
    np.testing.assert_allclose(_on(map_, boxes), expected)
    assert np.isnan(_on(map_, [])).all()


@pytest.fixture(scope="module")
def items():
    return [*scene_items(11), *family_items(2, families=("mmvp",))]


def test_measured_values_are_what_they_say(replica, items):
    tables = where_it_looks(replica, items)
    rows, layers = tables["items"].set_index("id"), tables["layers"]
    assert set(rows.query("area > 0").index) == {item.id for item in items if item.boxes} == set(tables["maps"]["id"])
    for item in [item for item in items if item.boxes][:3]:
        row, inputs = rows.loc[item.id], replica.prepare(item.picture(64), item.question)
        span = inputs.layout.image()
        asked, other = ([span.box_coverage(box) for box in boxes] for boxes in (item.boxes, item.others))
        assert row["area"] == pytest.approx(union_coverage(asked).mean())
        map_ = relevancy(replica, inputs)
        assert row["relevancy_asked"] == pytest.approx(np.mean([float(share_in_box(map_, c)) for c in asked]), rel=1e-5)
        assert row["relevancy_asked_more"] == pytest.approx(row["relevancy_asked"] - np.mean(asked), rel=1e-4)
        beyond = [float(share_in_box(relevancy(replica, inputs), c)) - c.mean() for c in other]
        assert min(abs(row["relevancy_rival_more"] - one) for one in beyond) < 1e-5
        assert row["points_other"] == pytest.approx(np.mean([points_at_box(map_, c) for c in other]))
        attention = image_attention(replica.trace(inputs)).mean("head")
        shares = np.mean([share_in_box(attention, c).values for c in other], axis=0)
        by_layer = layers.loc[layers["id"] == item.id].sort_values("layer")
        np.testing.assert_allclose(by_layer["in_other_box"], shares, rtol=1e-5)
        assert row["attention_other"] == pytest.approx(shares.mean(), rel=1e-5)
    shares = layers.dropna()
    assert shares["in_box"].between(0, 1).to_numpy().all()


def test_relevancy_is_of_the_word_that_is_scored(replica, items):
    """Of "The answer is blue." not of "The", which says where to look for nothing."""
    item = next(item for item in items if item.boxes)
    inputs = replica.prepare(item.picture(64), item.question)
    ids = replica.tokenizer("the answer is blue.", add_special_tokens=False)["input_ids"]
    at = replica.token_strings(ids).index(replica.token_strings(replica.tokenizer("blue")["input_ids"])[-1])
    assert at > 0
    found = _relevancy(replica, inputs, {"answer": "The answer is blue.", "normalized": "blue"})
    expected = relevancy(replica, inputs.with_answer(ids[:at]), target=ids[at])
    np.testing.assert_array_equal(found, expected)
    bare = _relevancy(replica, inputs, {"answer": replica.answer(item.picture(64), item.question), "normalized": ""})
    np.testing.assert_array_equal(bare, relevancy(replica, inputs))


def test_an_untrained_model_finds_nothing(replica):
    """Told "relevancy peaks inside the box: supported" while other items' boxes were the control."""
    items = [item for item in scene_items(60) if item.boxes and item.others]
    bare = untrained(replica)
    found = findings.run(["S1"], [bare], items, untrained=False)
    assert not found.evidence["verdict"].isin(["supported"]).to_numpy().any(), found.evidence
    assert (found.evidence["clusters"] >= LEAST).to_numpy().all()


def test_items_without_another_object_are_not_looked_at(replica):
    items = [item for item in scene_items(40) if not item.boxes][:3]
    with pytest.raises(VlmProbeError) as error:
        findings.run(["S1"], [replica], items)
    assert str(error.value) == (
        "nothing could be measured; S1: it needs items with boxes of what they ask about and of another object "
        "(generated scenes; `others` in an item file); there is none among the 3 given"
    )
