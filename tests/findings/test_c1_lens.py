"""C1 in context: what patches name, by hand and beside the lens itself; words planted, rows turned, and no leakage."""

from dataclasses import dataclass, replace
from itertools import permutations, product

import numpy as np
import pandas as pd
import pytest
import torch
from connecting import called
from planting import MOST, decided
from tiny import untyped

from vlm_probe import VlmProbeError
from vlm_probe.embedding.nearest import random_frame
from vlm_probe.evidence import Verdict, judge_all
from vlm_probe.evidence.statistics import OBSERVED
from vlm_probe.findings import FINDINGS, c1_manifold, in_context
from vlm_probe.findings.in_context import DEALT, NAMED, Objects, compared, named_in_context
from vlm_probe.hooked.anatomy import embedding
from vlm_probe.hooked.untrained import untrained
from vlm_probe.lens.contextual_lens import build_bank, contextual_lens
from vlm_probe.running.batches import run_batches
from vlm_probe.scenes import sample_scene, scene_items
from vlm_probe.scenes.world import Scene

C1 = FINDINGS["C1"]
(CLAIM,) = (claim for claim in C1.claims if claim.id == "in_context")
OF_LENS = tuple(claim for claim in C1.claims if claim is CLAIM or getattr(claim.statistic, "table", "") == "lens")
OUT = "connector.hook_out"
TEXTS = 61


@pytest.fixture(autouse=True)
def few_texts(monkeypatch):
    """Enough that every word comes a dozen times."""
    monkeypatch.setattr(in_context, "TEXTS", TEXTS)


def judged(tables, **more):
    return judge_all([CLAIM], {"model": tables}, **more)[0]


def scenes(n, *, objects=2, **more):
    """Items whose scenes have so many objects or more."""
    drawn = (item for item in scene_items(7 * n, **more) if len(untyped(item.source).objects) >= objects)
    return [next(drawn) for _ in range(n)]


# Objects of two images, of three colors and two shapes, and what of sevenths of their patches is nearest to each.
KINDS = np.array([[0, 3], [1, 4], [0, 3], [2, 3], [2, 4]])
IMAGES = np.array([0, 0, 1, 1, 1])
SEVENTHS = np.array([[4, 1, 0, 1, 1], [2, 3, 0, 0, 1], [1, 0, 2, 3, 0], [1, 0, 5, 0, 1], [0, 2, 3, 0, 2]])
BY_HAND = {
    # Both words of both differ.
    "own": [(4 + 1 + 3 + 1) / 2, ((1 + 1 + 3) + (5 + 0) + (3 + 2 + 2)) / 6],
    "other": [(1 + 1 + 2 + 0) / 2, ((2 + 2 + 0) + (1 + 1) + (0 + 0 + 0)) / 6],
}


def by_hand(held=None):
    about = pd.DataFrame({"id": ["a", "b"], "cluster": ["a", "b"]})
    objects = Objects(IMAGES, KINDS, ("red", "green", "blue", "star", "cross"), 3)
    shares = {("context", "first"): SEVENTHS / 7, ("context", "second"): np.zeros((5, 5))}
    return compared(about, objects, shares, held=held)


def test_shares_are_those_by_hand():
    tables = by_hand()
    lens = untyped(tables["lens"])
    assert lens["id"].tolist() == ["a", "b"] * 2
    assert lens["point"].tolist() == ["first"] * 2 + ["second"] * 2
    for name, sevenths in BY_HAND.items():
        np.testing.assert_allclose(lens[name], [*(one / 7 for one in sevenths), 0, 0])
    # Without crosses only colors are compared, and stars are all there is.
    fewer = by_hand(np.array([True, True, True, True, False]))["lens"].query("point == 'first'")
    np.testing.assert_allclose(fewer["own"], [(4 + 3) / 14, (1 + 1 + 5 + 3) / 28])
    np.testing.assert_allclose(fewer["other"], [(1 + 2) / 14, (2 + 2 + 1 + 0) / 28])


def test_dealt_names_are_colors_for_colors_and_shapes_for_shapes():
    tables = by_hand()
    dealt, lens = untyped(tables["dealt"]), tables["lens"].query("point == 'first'")
    assert dealt["draw"].tolist() == [OBSERVED, *range(DEALT)]
    assert dealt[["n", "clusters"]].to_numpy().tolist() == [[2, 2]] * (DEALT + 1)
    assert dealt["difference"].iloc[0] == pytest.approx((lens["own"] - lens["other"]).mean())

    def renamed(colors, shapes):
        """What is measured where every name is another's."""
        objects = Objects(IMAGES, np.array([*colors, *(3 + np.array(shapes))])[KINDS], tuple("rgbsx"), 3)
        about = pd.DataFrame({"id": ["a", "b"], "cluster": ["a", "b"]})
        table = compared(about, objects, {("context", "first"): SEVENTHS / 7})["lens"]
        return (table["own"] - table["other"]).mean()

    every = [renamed(*deal) for deal in product(permutations(range(3)), permutations(range(2)))]
    drawn, times = np.unique(dealt["difference"].to_numpy()[1:].round(9), return_counts=True)
    np.testing.assert_allclose(drawn, np.unique(np.round(every, 9)), atol=1e-8)
    # Each as often: of 1999 draws 167 of each of the twelve, some of which come to the same.
    expected = [np.isclose(every, one, atol=1e-8).sum() * DEALT / 12 for one in drawn]
    np.testing.assert_allclose(times, expected, atol=60)


def test_images_alone_would_call_habits_landing():
    """What a connector is in the habit of, alike in all images, is what dealing names out anew is there for."""
    over_images = replace(C1, claims=(replace(CLAIM, statistic=NAMED.of[0]),))
    rates = decided(over_images, lambda rng: {"model": called(rng)})
    print("C1 in context, decided by images alone with nothing there:", rates)
    assert rates["in_context"] > MOST


def test_shares_are_those_of_the_contextual_lens(replica):
    """Beside the lens's own table, which is made an image at a time."""
    items = scenes(5)
    table = named_in_context(replica, items, seed=3)["lens"].query("reader == 'context'")
    texts = [scene.caption for scene in (sample_scene(seed, "any") for seed in range(TEXTS))]
    bank = build_bank(replica, texts, range(replica.layers["language"]), seed=3)
    for item in items:
        scene = untyped(item.source)
        inputs = replica.prepare(replica.picture(item), item.question)
        lens = contextual_lens(replica, inputs, bank, k=1, control=False)
        for layer, rows in untyped(lens.groupby("layer")):
            words = rows["token"].str.strip().to_numpy()
            own, pairs = [], 0
            for a, b in permutations(scene.objects, 2):
                weights = inputs.layout.box_coverage(a.box).ravel()
                named = [x for x, y in ((a.color, b.color), (a.shape, b.shape)) if x != y]
                own.append(weights[np.isin(words, named)].sum() / weights.sum())
                pairs += 1
            point = "language.hook_embed" if layer == -1 else f"language.blocks.{layer}.hook_resid_post"
            found = untyped(table.query(f"id == {item.id!r} and point == {point!r}"))
            assert found["own"].item() == pytest.approx(sum(own) / pairs, abs=1e-6), (item.id, layer)


@pytest.fixture(scope="module")
def bare(replica):
    """A model that nobody trained."""
    return untrained(replica)


def changed(monkeypatch, change):
    """Images are run with the connector's output changed; texts are run as they are."""

    def run(model, *given, **more):
        with model.hooks(fwd_hooks=[(OUT, change)]):
            yield from run_batches(model, *given, **more)

    monkeypatch.setattr(in_context, "run_batches", run)


def saying(model, items, words_of):
    """Rows of words in place of image rows: of each object's patches those of `words_of`, a color and a shape."""
    table, seen = embedding(model).detach() * model.token_scale, iter(items)
    ids = {word: model.tokenizer(f" {word}", add_special_tokens=False)["input_ids"] for word in ("the", *WORDS)}

    def replace_rows(x, hook):
        x = x.detach().clone()
        for number in range(len(x)):
            item, rows = next(seen), x[number]
            layout = model.prepare(model.picture(item), item.question).layout
            rows[:] = table[ids["the"][-1]]
            for o in item.source.objects:
                for i, patch in enumerate(np.flatnonzero(layout.box_to_patches(o.box).ravel())):
                    rows[patch] = table[ids[words_of(item, o)[i % 2]][-1]]
        return x

    return replace_rows


WORDS = ("red", "green", "blue", "yellow", "purple", "cyan", "circle", "square", "triangle", "star", "cross")


def test_planted_words_are_found_where_there_were_none(bare, monkeypatch):
    items = scenes(23, seed=5)
    row = judged(named_in_context(bare, items))
    assert (row.verdict, row.clusters) == (Verdict.UNDECIDED, 23)
    changed(monkeypatch, saying(bare, items, lambda item, o: (o.color, o.shape)))
    tables = named_in_context(bare, items)
    row = judged(tables)
    assert (row.verdict, row.clusters, row.unit) == (Verdict.SUPPORTED, 23, "images")
    assert row.value > 0.8
    # Rows of the vocabulary are their own nearest.
    for reader in ("same_tokens", "vocabulary"):
        at = untyped(tables["lens"].query(f"reader == '{reader}' and point == 'language.hook_embed'"))
        assert at["own"].mean() > 0.8


def test_words_of_another_object_are_the_opposite(bare, monkeypatch):
    """Named are things of the scene, and every word as often as it should be: only not where they are."""
    items = scenes(23, seed=5)

    def neighbour(item, o):
        objects = item.source.objects
        other = objects[(objects.index(o) + 1) % len(objects)]
        return other.color, other.shape

    changed(monkeypatch, saying(bare, items, neighbour))
    assert judged(named_in_context(bare, items)).verdict == Verdict.CONTRADICTED


def test_a_connector_that_is_turned_finds_nothing(replica, monkeypatch):
    items = scenes(23, seed=5)
    assert judged(named_in_context(replica, items)).verdict == Verdict.SUPPORTED
    for seed in (2, 3):
        turn = random_frame(112, 112, torch.Generator().manual_seed(seed))

        def turned(x, hook, turn=turn):
            mean = x.mean((0, 1))
            return mean + (x - mean) @ turn

        changed(monkeypatch, turned)
        row = judged(named_in_context(replica, items))
        print(f"C1 in context, turned {seed}:", row.value, row.control, row.p)
        assert (row.verdict, row.clusters) == (Verdict.UNDECIDED, 23)


def test_no_text_is_of_a_scene_that_is_looked_at(replica, monkeypatch):
    taken: list[list[str]] = []

    def take(model, texts, *more, **given):
        taken.append(list(texts))
        raise VlmProbeError("that is all")

    monkeypatch.setattr(in_context, "build_bank", take)
    plain = scenes(7)
    drawn = [sample_scene(seed, "any") for seed in range(13)]
    tested = [replace(item, source=scene) for item, scene in zip(plain, drawn[1::2], strict=False)]
    tested = [item for item in tested if len(untyped(item.source).objects) > 1]
    captions = {untyped(item.source).caption for item in tested}
    for items in (plain, tested):
        with pytest.raises(VlmProbeError, match="^that is all$"):
            named_in_context(replica, items)
    without, kept = taken
    assert captions
    assert captions < set(without)  # they would be in it
    assert captions.isdisjoint(kept)
    assert len(without) == len(kept) == TEXTS


@dataclass(frozen=True)
class Photograph:
    """A picture of which nobody says what is in it."""

    of: Scene

    def image(self, size):
        return self.of.image(size)


def test_without_scenes_all_else_is_measured(replica, monkeypatch):
    items = [replace(item, source=Photograph(untyped(item.source))) for item in scenes(23)]
    monkeypatch.setattr(c1_manifold, "connected", lambda *given, **more: {})
    tables = c1_manifold.lands_on_words(replica, items)
    assert {name: len(table) for name, table in tables.items()} == {"lens": 0, "dealt": 0}
    rows = {row.claim: row for row in judge_all(OF_LENS, {"model": tables})}
    assert len(rows) == 4
    assert {row.verdict for row in rows.values()} == {Verdict.UNDECIDED}
    assert rows["in_context"].reason == "0 images, 20 would do"
    assert len(c1_manifold._by_reader({"model": tables})) == len(c1_manifold._by_layer({"model": tables})) == 0


def test_scenes_of_one_object_are_passed_by(replica):
    alone = [item for item in scene_items(40, split="train") if len(untyped(item.source).objects) == 1][:3]
    items = [*alone, *scenes(2)]
    assert set(named_in_context(replica, items)["lens"]["id"]) == {item.id for item in items[len(alone) :]}
