"""The harness for maps: planted truth, nothing planted, curves and scores by hand, and what is left out."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from PIL import Image
from tiny import GRID, tiny_vlm

from vlm_probe import VlmProbeError
from vlm_probe.attention import MAPS, deletion_insertion, faithfulness, points_at_box
from vlm_probe.attention.blanking import Without, picture_pixels, without_patches
from vlm_probe.attention.faithfulness import COLUMNS, RADIUS, asked_word
from vlm_probe.attention.map_scores import infidelity, on_objects, rank_agreement, sensitivity, some_sets
from vlm_probe.items import Item
from vlm_probe.layout import UnitBox
from vlm_probe.scenes import family_items

FAST = ("attention", "relevancy")


@pytest.fixture(scope="module")
def model():
    return tiny_vlm()


def noise(height: int, width: int, seed: int = 1) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


class Drawn:
    """Noise as a picture, always the same."""

    def __init__(self, seed: int):
        self.seed = seed

    def image(self, size: int) -> Image.Image:
        return noise(size, size, self.seed)


def noisy_items(n: int) -> list[Item]:
    box, other = UnitBox(0.2, 0.2, 0.6, 0.4), UnitBox(0.6, 0.6, 1.0, 1.0)
    return [
        Item(
            id=f"i{i}",
            family="scenes",
            kind="color",
            group=f"i{i}",
            image=f"p{i}",
            question="What?",
            answer="red",
            boxes=(box,),
            others=(other,),
            source=Drawn(i),
        )
        for i in range(n)
    ]


def a_map(values) -> xr.DataArray:
    return xr.DataArray(np.asarray(values, dtype=float), dims=("row", "col"))


def value(table: pd.DataFrame, **where: str) -> float:
    rows = table.loc[np.all([table[name] == one for name, one in where.items()], axis=0)]
    assert len(rows) == 1
    return float(rows["value"].iloc[0])


# --- planted truth, and nothing -----------------------------------------------------------------


@pytest.fixture(scope="module")
def planted(replica):
    """Scores of maps whose worth is known, on scenes that the replica answers right."""
    items, box, other, nothing = [], {}, {}, {}
    rng = np.random.default_rng(5)
    for item in family_items(60, families=("gqa",)):
        picture = replica.picture(item)
        fits = item.kind == "color" and len(item.boxes) == 1 and item.others
        if not fits or replica.answer(picture, item.question) != item.answer or len(items) == 8:
            continue
        layout = replica.prepare(picture, item.question).layout
        item = replace(item, others=item.others[:1])  # of several, one is drawn
        items.append(item)
        box[item.id], other[item.id] = (layout.box_coverage(of[0]) for of in (item.boxes, item.others))
        nothing[item.id] = rng.random(layout.grid)
    assert len(items) == 8
    maps = {"box": box, "other object": other, "noise": nothing}
    return faithfulness(replica, items, maps=maps, scores=("deletion", "boxes"), steps=6, draws=3)


def beyond_random(table: pd.DataFrame, name: str, score: str = "deletion_area") -> pd.Series:
    own = table.loc[(table["score"] == score) & (table["of"] == "this item")]
    wide = own.pivot(index="id", columns="map", values="value")
    return wide["random"] - wide[name]


def test_the_box_beats_random_maps_and_the_other_object_does_not(planted):
    assert beyond_random(planted, "box").mean() > 0.2
    assert beyond_random(planted, "other object").mean() < 0.05
    assert beyond_random(planted, "box", "insertion_area").mean() < -0.1


def test_a_random_map_scores_as_random_ones_do(planted):
    for score in ("deletion_area", "insertion_area"):
        found = beyond_random(planted, "noise", score)
        assert found.abs().max() > 0, "another draw than the harness's own"
        assert abs(found.mean()) < 3 * found.std() / np.sqrt(len(found)) + 0.02


def test_maps_of_boxes_lie_on_their_objects(planted):
    own = planted.loc[planted["of"] == "this item"].groupby(["map", "score"])["value"].mean()
    for name, here, there in (("box", "in_box", "in_other"), ("other object", "in_other", "in_box")):
        assert own[name, here] > 0.6  # patches at the border are covered in part, and count so twice
        assert own[name, there] < 0.1
    assert own["box", "points"] == 1
    assert own["even", "in_box"] == pytest.approx(own["random", "in_box"], abs=0.03)
    # The map of another picture knows nothing of this one.
    another = planted.loc[(planted["map"] == "box") & (planted["of"] == "another item")]
    assert another.groupby("score")["value"].mean()["in_box"] < 0.5


# --- curves by hand -----------------------------------------------------------------------------


def test_curves_are_single_blanked_runs_in_the_order_of_the_map(model):
    inputs = model.prepare(noise(15, 15), "a")
    values = np.random.default_rng(2).permutation(GRID * GRID).astype(float)
    found = deletion_insertion(model, inputs, a_map(values.reshape(GRID, GRID)), target=7, steps=5)
    assert found["share"].values.tolist() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    order = np.argsort(-values)
    for i, count in enumerate((0, 5, 10, 15, 20, 25)):
        for name, blank in (("deletion", order[:count]), ("insertion", order[count:])):
            chosen = np.zeros((1, GRID, GRID), dtype=bool)
            chosen.ravel()[blank] = True
            with torch.no_grad():
                logits = model(inputs.input_ids, without_patches(inputs, chosen)[0]).logits[0, -1]
            assert float(found[name][i]) == pytest.approx(float(logits.softmax(-1)[7]), abs=1e-6)
    heights = found["deletion"].values
    assert found.attrs["deletion_area"] == pytest.approx((heights[1:-1].sum() + (heights[0] + heights[-1]) / 2) / 5)


def test_padding_counts_for_nothing(model):
    inputs = model.prepare(noise(6, 15), "a")  # two rows of patches and a bit, in a padded square
    shown = picture_pixels(inputs)
    assert shown.sum() == 6 * 15
    blank = without_patches(inputs, np.ones((1, GRID, GRID), dtype=bool))[0, 0]
    pixels = inputs.pixel_values[0]
    assert torch.equal(blank[:, ~shown], pixels[:, ~shown])
    mean = pixels[:, shown].mean(dim=1)
    torch.testing.assert_close(blank[:, shown], mean[:, None].expand(-1, int(shown.sum())))
    values = np.random.default_rng(3).random((GRID, GRID))
    visible = inputs.layout.image().visible()
    assert 0 < visible.sum() < GRID * GRID
    curves = []
    for off_picture in (-100.0, 100.0):
        map_ = a_map(np.where(visible, values, off_picture))
        curves.append(deletion_insertion(model, inputs, map_, target=7, steps=4)["deletion"].values)
    assert np.array_equal(*curves)
    on = on_objects(np.where(visible, 1.0, 100.0), [visible.astype(float)], np.flatnonzero(visible))
    assert on == (1.0, 1.0)


def test_equal_patches_come_in_no_order_of_the_grid(model):
    inputs = model.prepare(noise(15, 15), "a")
    even = a_map(np.ones((GRID, GRID)))
    first, second = (deletion_insertion(model, inputs, even, target=7, steps=5, seed=seed) for seed in (0, 1))
    assert not np.allclose(first["deletion"][1:-1], second["deletion"][1:-1], atol=1e-9)
    xr.testing.assert_identical(first, deletion_insertion(model, inputs, even, target=7, steps=5, seed=0))


def test_what_has_been_run_is_not_run_again(model, monkeypatch):
    inputs = model.prepare(noise(15, 15), "a")
    without = Without(model, inputs, 7, at_once=4)
    sets = without.sets([[0], [1, 2], [0], []])
    first = without(sets)
    monkeypatch.setattr(without, "_probability", lambda pixels: pytest.fail("run again"))
    assert without(sets[::-1]).tolist() == first[::-1].tolist()
    assert first[0] == first[2] != first[1]


# --- scores by hand -----------------------------------------------------------------------------


class Additive(Without):
    """A model whose answer loses a known amount with every patch."""

    def __init__(self, weights: np.ndarray):
        self.weights, self.shown = weights, np.arange(weights.size)
        self.span = type("Span", (), {"grid": weights.shape})()

    def __call__(self, patches: np.ndarray) -> np.ndarray:
        return 0.9 - (patches * self.weights).sum(axis=(1, 2))


def test_infidelity_is_what_the_best_multiple_of_a_map_leaves():
    rng = np.random.default_rng(4)
    weights, other = rng.random((3, 5)), rng.random((3, 5))
    without = Additive(weights)
    sets = some_sets(without, 50, rng)
    assert len(np.unique(sets.sum(axis=(1, 2)))) > 5
    assert infidelity(without, 7 * weights, sets) == pytest.approx(0, abs=1e-9)
    assert infidelity(without, -weights, sets) == pytest.approx(0, abs=1e-9)
    assert infidelity(without, np.zeros((3, 5)), sets) == 1
    lost, said = ((sets * one).sum(axis=(1, 2)) for one in (weights, other))
    left = 1 - (lost @ said) ** 2 / (lost @ lost) / (said @ said)
    assert 0.01 < left < 0.99
    assert infidelity(without, other, sets) == pytest.approx(left, abs=1e-9)
    assert np.isnan(infidelity(Additive(np.zeros((3, 5))), other, sets))


def test_sensitivity_is_the_largest_change_over_noisy_pictures(model):
    inputs = model.prepare(noise(9, 15), "a")
    seen = []

    def make(model, inputs, /, *, target):
        seen.append(inputs.pixel_values)
        return MAPS["attention"](model, inputs, target=target)

    values = MAPS["attention"](model, inputs, target=7).values.astype(float)
    values[~inputs.layout.image().visible()] = np.nan
    how = {"radius": RADIUS, "noises": 3, "generator": torch.Generator().manual_seed(3)}
    found = sensitivity(model, inputs, 7, make, values, **how)
    assert len(seen) == 3
    known = ~np.isnan(values)
    ratios = []
    for pixels in seen:
        change = pixels - inputs.pixel_values
        assert 0.9 * RADIUS < float(change.abs().max()) <= RADIUS + 1e-6
        assert not change[0][:, ~picture_pixels(inputs)].any()
        noisy = MAPS["attention"](model, replace(inputs, pixel_values=pixels), target=7).values
        ratios.append(np.linalg.norm(noisy[known] - values[known]) / np.linalg.norm(values[known]))
    assert found == pytest.approx(max(ratios), rel=1e-4)
    assert len({round(one, 9) for one in ratios}) == 3
    still = sensitivity(model, inputs, 7, lambda m, i, /, *, target: a_map(np.nan_to_num(values)), values, **how)
    assert still == 0


def test_an_even_map_has_the_chance_of_a_random_patch_in_the_pointing_game():
    coverage = np.zeros((3, 5))
    coverage[1, 2:4] = 0.3
    assert points_at_box(a_map(np.ones((3, 5))), coverage) == pytest.approx(2 / 15)
    two = np.zeros((3, 5))
    two[1, 2] = two[0, 0] = 4
    assert points_at_box(a_map(two), coverage) == 0.5


def test_ranks_agree_only_over_what_is_shown():
    a = np.arange(6.0).reshape(2, 3)
    b = a.copy()
    b[0, 0] = 99
    assert rank_agreement(a, b, np.arange(1, 6)) == pytest.approx(1)
    assert rank_agreement(a, -a, np.arange(6)) == pytest.approx(-1)
    assert rank_agreement(a, b, np.arange(6)) == pytest.approx(1 - 6 * (25 + 5) / (6 * 35))
    assert np.isnan(rank_agreement(a, np.ones((2, 3)), np.arange(6)))


# --- the table ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scored(model):
    return faithfulness(model, noisy_items(2), maps=FAST, steps=3, draws=2, noises=1, bare=model)


def test_every_map_has_every_score(scored):
    assert tuple(scored.columns) == COLUMNS
    assert scored.attrs["skipped"] == []
    assert not scored.duplicated(["id", "map", "of", "score", "other", "share"]).any()
    both = {"deletion", "insertion", "deletion_area", "insertion_area", "infidelity", "in_box", "points", "in_other"}
    both |= {"points_other"}
    for key, rows in scored.groupby(["map", "of"]):
        name, of = key if isinstance(key, tuple) else (key, "")
        own = set(rows["score"])
        if name == "even":
            assert own == {"in_box", "points", "in_other", "points_other"}
        elif name in FAST and of == "this item":
            assert own == both | {"agreement", "sensitivity", "randomised"}
        else:
            assert own == both | ({"agreement"} if name in ("centre", "encoder") else set())
    assert set(scored["map"]) == {*FAST, "random", "centre", "encoder", "even"}
    assert set(scored.loc[scored["of"] == "another item", "map"]) == set(FAST)


def test_the_same_weights_make_the_same_map(scored):
    assert scored.loc[scored["score"] == "randomised", "value"].tolist() == pytest.approx([1.0] * 4)


def test_an_untrained_copy_makes_another_map(model):
    table = faithfulness(model, noisy_items(1), maps=["relevancy"], scores=["randomised"])
    assert abs(value(table, map="relevancy", score="randomised")) < 0.9


def test_scores_do_not_depend_on_what_runs_together(model, scored):
    alone = faithfulness(model, noisy_items(2), maps=FAST, steps=3, draws=2, noises=1, bare=model, batch_size=1)
    pd.testing.assert_frame_equal(scored, alone, rtol=1e-3, atol=1e-5)
    one = faithfulness(model, noisy_items(2)[1:], maps=FAST, steps=3, draws=2, noises=1, bare=model)
    own = scored.loc[(scored["id"] == "i1") & (scored["of"] == "this item")].reset_index(drop=True)
    pd.testing.assert_frame_equal(own, one, rtol=1e-3, atol=1e-5)
    assert set(one["of"]) == {"this item"}, "there is no other picture"


def test_the_map_of_another_item_is_that_items_map(model, scored):
    items = noisy_items(2)
    inputs, target = asked_word(model, items[0], max_new_tokens=16)
    donor = MAPS["relevancy"](model, inputs, target=target)
    given = faithfulness(model, items[1:2], maps={"given": {"i1": donor}}, scores=["deletion"], steps=3, draws=2)
    for score in ("deletion_area", "insertion_area"):
        found = value(scored, id="i1", map="relevancy", of="another item", score=score)
        assert found == pytest.approx(value(given, map="given", score=score), abs=1e-5)
        assert found != pytest.approx(value(scored, id="i1", map="relevancy", of="this item", score=score), abs=1e-6)


def test_what_fails_is_named_and_left_out(model):
    items = noisy_items(4)
    items[1] = replace(items[1], source=Path("nowhere.png"))
    ok = np.random.default_rng(0).random((GRID, GRID))
    maps = {"mine": {"i0": ok, "i1": ok, "i3": np.ones((2, 3))}}
    done = []
    table = faithfulness(model, items, maps=maps, scores=["deletion"], steps=2, draws=1, progress=done.append)
    assert set(table["id"]) == {"i0"}
    assert table.attrs["skipped"] == [
        "item i1: no image file at 'nowhere.png'",
        "item i2: there is no map 'mine' of this item",
        "item i3: the map 'mine' takes a map over (5, 5) patches (row, col), got {'row': 2, 'col': 3}",
    ]
    assert done == [1] * 4
    with pytest.raises(VlmProbeError, match="^no item could be scored; item i3: the map 'mine'"):
        faithfulness(model, items[3:], maps=maps, scores=["deletion"])


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"items": []}, "there is no item to score maps of"),
        ({"items": [*noisy_items(1), *noisy_items(1)]}, "item ids must differ, 'i0' comes twice"),
        (
            {"maps": ["magic"]},
            "no map 'magic'; there are attention, rollout, relevancy, relevancy through the encoder,",
        ),
        ({"maps": ["centre"]}, "'centre' stands beside every map; give others in maps=[...]"),
        ({"maps": []}, "there is no map to score; give others in maps=[...]"),
        ({"scores": ["beauty"]}, "no score 'beauty'; there are deletion, infidelity, sensitivity, boxes, agreement,"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_scored(model, how, message):
    with pytest.raises(VlmProbeError) as caught:
        faithfulness(model, **{"items": noisy_items(1), **how})
    assert str(caught.value).startswith(message)


def test_nothing_is_left_behind(model):
    faithfulness(model, noisy_items(2), maps=["gradient x input", "knockout"], steps=1, draws=1, noises=1, bare=model)
    assert not any(p._forward_hooks or p._backward_hooks for p in model.hook_points())
    assert all(p.grad is None for p in model.parameters())
