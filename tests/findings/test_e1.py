"""E1 on vectors whose truth is known: encoders of one recipe, of two, and probes of what is there or is not."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from planting import MOST, decided, verdicts
from tiny import tiny_language

import vlm_probe
from vlm_probe import findings
from vlm_probe.embedding import cka
from vlm_probe.errors import VlmProbeError
from vlm_probe.evidence import Verdict, judge_all
from vlm_probe.evidence.estimate import jackknifed
from vlm_probe.findings import FINDINGS
from vlm_probe.findings.e1_encoders import LABELS, LEAST, LEAST_COMPARED, encodings
from vlm_probe.findings.held_out import FOLDS, probed
from vlm_probe.hooked.untrained import MARK, untrained
from vlm_probe.items import export_items, read_items
from vlm_probe.scenes import family_items, scene_items
from vlm_probe.zoo.replicas import second_encoder

E1 = FINDINGS["E1"]
CKA = ("recipes", "recipes_again")
VIEWS = ("", "_random", "_pixels")


def rotated(rng, latent, noise=0.8, width=17):
    """What an encoder makes of some images: a rotation of what is in them, and noise of its own."""
    spin = np.linalg.qr(rng.normal(size=(width, width)))[0][: latent.shape[1]]
    return latent @ spin + noise * rng.normal(size=(len(latent), width))


def vectors(features, seed, random, again):
    """The table of encoders of one model."""
    rows = {"features": features, "random": random, "random_again": again, "seed": seed}
    names = [f"i{i}" for i in range(len(features))]
    return pd.DataFrame({"id": names, "cluster": names, **{name: x.tolist() for name, x in rows.items()}})


def two(encoders, random):
    """The tables of two models, of encoders A, another seed of A, B and another seed of B, and as many random ones."""
    return {
        name: {"encoders": vectors(*encoders[at : at + 2], *random[at : at + 2])}
        for name, at in (("first", 0), ("second", 2))
    }


def latents(rng, n, d=11):
    """Skewed and of uneven strength, as what is in images."""
    return (rng.gamma(0.7, 1.0, (n, d)) - 0.7) * np.geomspace(3, 0.3, d)


def probes(rng, n=LEAST):
    """Both models' tables of probes on what the same images hold: six views, alike in all but rotation and noise.

    By the probes themselves, with a kind of image held out. One label stands for all, which are judged alike.
    """
    label, kind = rng.integers(3, size=n), rng.integers(4, size=n)
    latent = np.concatenate([1.2 * np.eye(3)[label], np.eye(4)[kind], rng.normal(size=(n, 2))], axis=1)
    views = np.stack([rotated(rng, latent, 0.7, 11) for _ in range(2 * len(VIEWS))])
    images = np.asarray([f"i{i}" for i in range(n)])
    right = probed({"": views}, label.astype(str), kind.astype(str), images, strengths=(1.0,))[""]
    columns = {f"shape{view}": number for number, view in enumerate(VIEWS)}
    return [
        pd.DataFrame({"id": images, "cluster": images, **{c: right[3 * m + number] for c, number in columns.items()}})
        for m in range(2)
    ]


def nothing(rng):
    latent = latents(rng, LEAST_COMPARED)
    random = [rotated(rng, latent, 0.1) for _ in range(4)]
    measured = two([rotated(rng, latent) for _ in range(4)], random)
    return {
        name: {"probes": table, **tables} for table, (name, tables) in zip(probes(rng), measured.items(), strict=True)
    }


def test_nothing_is_rarely_called_at_the_smallest_n():
    tested = [claim for claim in E1.claims if not claim.descriptive]
    judged = [claim for claim in tested if claim.id in CKA or claim.id.startswith("shape_")]
    others = {claim.id.partition("_")[2] for claim in tested if claim not in judged}
    assert others == {"random", "pixels", "more"}, "what is asked of other labels is asked of the shape"
    rates = decided(replace(E1, claims=tuple(judged)), nothing)
    assert max(rates.values()) <= MOST, rates
    assert len(rates) == 5


def test_where_seeds_differ_one_pair_of_seeds_is_not_enough():
    """Narrow random maps: how alike two are is chance, and images cannot tell. Other seeds must show the same."""
    claims = [claim for claim in E1.claims if claim.id in CKA]
    alone, both, runs = 0, 0, 100
    for run in range(runs):
        rng = np.random.default_rng([run, 3])
        latent = latents(rng, LEAST_COMPARED)
        maps = [np.tanh(latent @ rng.normal(size=(11, 17)) / 3) for _ in range(4)]
        rows = judge_all(claims, two(maps, [rotated(rng, latent, 0.1)] * 4))
        both += rows[1].verdict == Verdict.SUPPORTED
        alone += rows[1].high < 0
    assert alone / runs > MOST
    assert both / runs <= MOST, (alone, both)


def planted(kind, rng, n=101):
    """Two recipes with two seeds each, in architectures that are alike untrained; what sees what is said by `kind`."""
    one, other = latents(rng, n), latents(rng, n)
    seen = {
        "other things": [one, one, other, other],
        "the same, and seeds differ": [one, other, one, other],
        "the same, more noisily": [one] * 4,
        "the architecture alone": [one] * 4,
    }[kind]
    noise = [0.5, 0.5, 0.6, 0.6] if kind == "the same, more noisily" else [0.5] * 4
    random = [one] * 4
    if kind == "the architecture alone":
        mixed = one + 0.8 * other
        seen = random = [one, one, mixed, mixed]
    return two([rotated(rng, x, s) for x, s in zip(seen, noise, strict=True)], [rotated(rng, x, 0.5) for x in random])


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("other things", Verdict.SUPPORTED),
        ("the same, and seeds differ", Verdict.CONTRADICTED),
        ("the same, more noisily", Verdict.EQUIVALENT),
        ("the architecture alone", Verdict.EQUIVALENT),
    ],
)
def test_encoders_that_compute_other_things_are_told_from_seeds(kind, expected):
    claims = [replace(claim, requires=()) for claim in E1.claims if claim.id in CKA]
    found = verdicts(replace(E1, claims=tuple(claims)), lambda rng: planted(kind, rng))
    assert set(found.values()) == {expected}


def answered(rng, shares, n=301):
    """Right and wrong, so often as is said of each column."""
    draws = {name: (rng.random(n) < share).astype(float) for name, share in shares.items()}
    ids = np.arange(n)
    return {"probes": pd.DataFrame({"id": ids, "cluster": ids, **draws})}


def test_planted_labels_are_found_and_their_opposites_contradicted():
    claims = tuple(claim for claim in E1.claims if claim.id.partition("_")[0] in LABELS)
    columns = [f"{label}{view}" for label in LABELS for view in VIEWS]

    def make(rng, better=0.9, worse=0.5):
        first = answered(rng, dict.fromkeys(columns, worse))
        second = answered(rng, {name: better if name in LABELS else worse for name in columns})
        return {"first": first, "second": second}

    assert set(verdicts(replace(E1, claims=claims), make).values()) == {Verdict.SUPPORTED}
    opposite = verdicts(replace(E1, claims=claims), lambda rng: make(rng, 0.2, 0.6))
    assert set(opposite.values()) == {Verdict.CONTRADICTED}

    def same(rng):
        right = answered(rng, dict.fromkeys(LABELS, 0.9))["probes"]
        right.loc[:3, list(LABELS)] = 1.0
        table = right.assign(**{f"{label}{view}": right[label] for label in LABELS for view in VIEWS[1:]})
        other = table.assign(**{label: np.where(np.arange(len(table)) == 7, 1.0, table[label]) for label in LABELS})
        return {"first": {"probes": table}, "second": {"probes": other}}

    assert set(verdicts(replace(E1, claims=claims), same).values()) == {Verdict.EQUIVALENT}


ITEMS = list(scene_items(67))


@pytest.fixture(scope="module")
def measured():
    """small-clip on few images, and untrained copies of it and of small-dino."""
    model = vlm_probe.load("replica/small-clip", device="cpu")
    found = {"replica/small-clip": encodings(model, ITEMS)}
    for one in (model, vlm_probe.load("replica/small-dino", device="cpu")):
        copy = untrained(one, seed=3)
        found[str(copy.name)] = encodings(copy, ITEMS)
    return found


def test_two_random_encoders_are_not_called_different(measured):
    """They were: less like each other than like their own layer below. Nor does another architecture make it so."""
    bare = {name: tables for name, tables in measured.items() if name.endswith(MARK)}
    rows = {row.claim: row for row in judge_all(E1.claims, bare)}
    assert {rows[claim].verdict for claim in CKA} == {Verdict.EQUIVALENT}
    first, second = (tables["layers"] for tables in bare.values())
    points = first["point"].unique()
    top, below, theirs = (
        np.asarray(table.query("point == @point")["features"].tolist())
        for table, point in ((first, points[-1]), (first, points[-2]), (second, points[-1]))
    )
    old = jackknifed(lambda k: cka(top[k], theirs[k]), lambda k: cka(top[k], below[k]), np.arange(len(ITEMS)))
    assert old.high < 0


def test_an_untrained_encoder_holds_nothing_that_a_random_one_does_not(measured):
    bare = {name: tables for name, tables in measured.items() if name.endswith(MARK)}
    claims = [claim for claim in E1.claims if claim.untrained and not claim.descriptive]
    assert not [row for row in judge_all(claims, bare) if row.verdict.decided and row.claim.endswith("_random")]
    # What it holds beyond six numbers of the pixels is taken from a trained one's verdict.
    rows = judge_all(claims, bare, untrained=bare)
    assert not [row for row in rows if row.verdict == Verdict.SUPPORTED]


def test_six_numbers_of_the_pixels_find_the_color(measured):
    """So that a probe finds it says nothing of an encoder; of the shape they know nothing."""
    table = measured["replica/small-clip"]["probes"]
    assert table["color_pixels"].mean() > 0.8
    assert table["shape_pixels"].mean() < 0.5


def test_tables_hold_what_is_promised(measured):
    tables = measured["replica/small-clip"]
    assert set(tables) == {"probes", "encoders", "layers"}
    every = [f"{label}{view}" for label in LABELS for view in (*VIEWS, "_common")]
    assert tables["probes"].columns.tolist() == ["id", "image", "cluster", "kind", *_ordered(every)]
    assert tables["encoders"].columns.tolist() == [
        *["id", "image", "cluster", "kind"],
        *["features", "random", "random_again", "seed"],
    ]
    boxed = np.asarray([bool(item.boxes) for item in ITEMS])
    assert tables["probes"]["shape"].notna().tolist() == boxed.tolist()
    assert tables["probes"]["count"].notna().all()
    layers = tables["layers"]
    assert len(layers) == 5 * len(ITEMS)
    last = layers[layers["point"] == layers["point"].iloc[-1]]
    assert last["features"].tolist() == tables["encoders"]["features"].tolist()


def _ordered(columns):
    views = [*VIEWS, "_common"]
    return sorted(
        columns, key=lambda c: (LABELS.index(c.partition("_")[0]), views.index(c.removeprefix(c.split("_")[0])))
    )


def test_a_run_of_replicas_shows_what_it_found(tmp_path):
    result, again = (
        findings.run(["E1"], ["replica/small-clip"], ITEMS[:31], parts=tmp_path, untrained=False) for _ in range(2)
    )
    pd.testing.assert_frame_equal(result.evidence, again.evidence)
    assert set(result.evidence["reason"]) <= {f"{n} images, {LEAST} would do" for n in range(32)}
    shown = result.shown(E1)
    assert set(shown.tables) == {"probes", "along", "encoders", "layers"}
    diagonal = shown.tables["encoders"].query("row == column")["cka"].tolist()
    assert diagonal == pytest.approx([1.0] * (2 if second_encoder("small-clip") is None else 3))
    assert shown.summary[0].startswith(
        "Of what replica/small-clip's connector reads a linear probe finds the color in "
    )


def test_files_are_compared_and_what_they_say_is_probed(tmp_path):
    """Items from a file have no scene: the color is known where it is asked for, and all images are compared."""
    asked = [item for item in family_items(240, families=("gqa",)) if item.kind == "color"]
    export_items(asked, tmp_path, size=64)
    items = E1.picks(read_items(tmp_path / "items.jsonl", tmp_path / "images")[0])
    assert len(items) == 60
    tables = encodings(vlm_probe.load("replica/small-clip", device="cpu"), items)
    known = tables["probes"].filter(list(LABELS)).notna().sum()
    assert known[[label for label in LABELS if label != "color"]].tolist() == [0] * 4
    assert np.isfinite(tables["probes"]["color"].to_numpy(dtype=float)).sum() > 50
    assert np.isfinite(np.asarray(tables["encoders"]["features"].tolist())).all()


def test_one_item_an_image_and_of_twins_one():
    items = [*family_items(6, families=("mmvp",)), *family_items(6, families=("pope",)), *scene_items(5)]
    kept = E1.picks(items)
    assert [item.id for item in kept if item.family == "mmvp"] == [item.id for item in items[:6:2]]
    assert [item.boxes != () for item in kept if item.family == "pope"] == [True] * 3
    assert len(kept) == 3 + 3 + 5
    unseen = [replace(item, source=None) for item in items]
    assert list(E1.picks(unseen)) == []
    with pytest.raises(VlmProbeError) as caught:
        findings.run(["E1"], ["replica/small-clip"], [replace(items[0], source=None)])
    assert str(caught.value) == (
        "nothing could be measured; E1: it needs items with images; there is none among the 1 given"
    )


def test_rare_labels_are_left_out_and_too_few_items_are_not_probed():
    rng = np.random.default_rng(0)
    n = 47
    label = np.where(np.arange(n) < FOLDS - 1, "rare", np.where(rng.random(n) < 0.5, "a", "b"))
    label[-3:] = ""
    images = np.arange(n).astype(str)
    x = rng.normal(size=(n, 3))
    x[10] = np.nan
    found = probed({"x": x}, label, np.full(n, ""), images)
    gone = (label == "rare") | (label == "") | (np.arange(n) == 10)
    for values in found.values():
        assert np.isnan(values).tolist() == gone.tolist()
    assert set(found) == {"x", "common"}
    few = probed({"x": x[:9]}, np.asarray(["a", "b", "a"] * 3), np.full(9, ""), images[:9])
    assert np.isnan(few["x"]).all()


def test_without_a_second_seed_cka_is_not_judged():
    rng = np.random.default_rng(0)
    one = latents(rng, 61)
    none = np.zeros((61, 0))
    first, second = (vectors(rotated(rng, one), none, rotated(rng, one), rotated(rng, one)) for _ in range(2))
    rows = {
        row.claim: row
        for row in judge_all(
            [claim for claim in E1.claims if claim.id in (*CKA, "cka")],
            {"first": {"encoders": first}, "second": {"encoders": second}},
        )
    }
    assert [rows[claim].verdict for claim in CKA] == [Verdict.UNDECIDED] * 2
    assert rows["recipes"].value == pytest.approx(rows["cka"].value)
    assert rows["cka"].verdict == Verdict.DESCRIPTIVE
    assert np.isnan(rows["recipes"].control)


def test_a_language_model_alone_is_refused():
    model = tiny_language()
    with pytest.raises(VlmProbeError) as caught:
        encodings(model, ITEMS[:3])
    assert str(caught.value) == f"{model.name} is a language model without an encoder, and E1 is about encoders"


def test_images_that_cannot_be_read_say_so():
    item = replace(ITEMS[0], source=Path("nowhere.png"))
    with pytest.raises(VlmProbeError, match=r"^no image file at 'nowhere.png'$"):
        encodings(vlm_probe.load("replica/small-clip", device="cpu"), [item])
