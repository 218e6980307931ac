"""S2: a probe that is handed the box is not enough, and the units are kinds of object."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from planting import MOST, decided, verdicts
from tiny import tiny_language, tiny_vlm

from vlm_probe import findings
from vlm_probe.errors import VlmProbeError
from vlm_probe.evidence import Verdict
from vlm_probe.findings import FINDINGS, Shared
from vlm_probe.findings.probed import (
    FOLDS,
    at_other_object,
    found_by_probe,
    object_kinds,
    parts_by_question,
    properties,
)
from vlm_probe.findings.s2_unused import CONTROLS, PLACES, found_but_unused
from vlm_probe.hooked.untrained import untrained
from vlm_probe.items import Item
from vlm_probe.layout import UnitBox
from vlm_probe.scenes import family_items

S2 = FINDINGS["S2"]
LEAST = max(claim.least for claim in S2.claims)
TESTED = [claim.id for claim in S2.claims if not claim.descriptive]
ANSWERS, QUESTIONS, EACH = 5, 4, 3
KINDS = ANSWERS * QUESTIONS


def world(each=EACH, questions=QUESTIONS):
    """What is asked of each item: its answer, its question, and its kind of object, which is both."""
    kind = np.repeat(np.arange(ANSWERS * questions), each)
    return kind % ANSWERS, kind // ANSWERS, kind


def raw(rng, runs, *, each=EACH, questions=QUESTIONS, signal=0.8, width=5, means=None):
    """Features of one place, many times: what the answer adds, what a kind adds, twins' images, and noise."""
    answer, question, kind = world(each, questions)
    n = len(kind)
    image = np.arange(n)
    twins = rng.permutation(n)[: n // 3 * 2].reshape(-1, 2)
    image[twins[:, 1]] = image[twins[:, 0]]
    means = rng.normal(size=(runs, ANSWERS, width)) if means is None else means

    def drawn(count, spread):
        return rng.normal(size=(runs, count, width)) * spread

    own = signal * means[:, answer] + drawn(kind.max() + 1, 0.5)[:, kind] + drawn(question.max() + 1, 0.5)[:, question]
    return own + drawn(n, 0.5)[:, image] + rng.normal(size=(runs, n, width)), means


def probed(x, *, each=EACH, questions=QUESTIONS, elsewhere=None):
    """With one strength: nothing to choose, which takes long."""
    answer, question, _ = world(each, questions)
    return found_by_probe(x, answer, question, elsewhere=elsewhere, strengths=(0.03,))


def tables(rng_runs):
    """Tables of one model a run, from features whose probes are as good as each other, and a model as good as they."""
    runs = rng_runs
    rng = np.random.default_rng(3)
    _, _, kind = world()
    own, means = raw(rng, runs)
    columns = {"found_connector": probed(own), "found_last": probed(raw(rng, runs, means=means)[0])}
    for name in ("random", "pixels"):
        columns[name] = probed(raw(rng, runs, means=means)[0])
    # Another object that is of the same kind: the box makes no difference.
    for place in PLACES:
        columns[f"other_{place}"] = probed(own, elsewhere=raw(rng, runs, means=means)[0])
    kinds_right = rng.beta(2, 2, (runs, KINDS))
    share = columns["found_connector"].mean()
    columns["right"] = (rng.random((runs, len(kind))) < np.clip(kinds_right[:, kind] + share - 0.5, 0, 1)).astype(float)
    for run in range(runs):
        items = pd.DataFrame({"id": np.arange(len(kind)), "kind": "shape", "object": kind.astype(str)})
        yield {"items": items.assign(**{name: values[run] for name, values in columns.items()})}


def test_nothing_is_rarely_called_at_the_smallest_n():
    assert KINDS == LEAST
    made = tables(200)
    rates = decided(S2, lambda rng: {"model": next(made)})
    print(rates)
    assert set(rates) == set(TESTED)
    assert max(rates.values()) <= MOST, rates


def planted(rng, **shares):
    """A table by items of 31 kinds, each column right in such a share."""
    kind = np.repeat(np.arange(31), 4)
    names = ["right", "random", "pixels", *(f"{what}_{place}" for what in ("found", "other") for place in PLACES)]
    columns = {name: (rng.random(len(kind)) < shares.get(name, 0.2)).astype(float) for name in names}
    return {"items": pd.DataFrame({"id": range(len(kind)), "kind": "shape", "object": kind.astype(str), **columns})}


def test_what_is_there_and_unused_is_found():
    make = lambda rng: {"model": planted(rng, right=0.4, found_connector=0.8, found_last=0.8)}  # noqa: E731
    assert {verdicts(S2, make)[name] for name in TESTED} == {Verdict.SUPPORTED}


def test_what_the_model_uses_is_not_unused():
    make = lambda rng: {"model": planted(rng, right=0.95, found_connector=0.6, found_last=0.6)}  # noqa: E731
    found = verdicts(S2, make)
    assert {found[f"{place}_unused"] for place in PLACES} == {Verdict.CONTRADICTED}


@pytest.mark.parametrize("control", CONTROLS)
def test_one_control_that_does_as_well_takes_it_away(control):
    """Six numbers of the pixels, say: they find the color in 98 %, which was called "in the tokens but unused"."""
    columns = [f"other_{place}" for place in PLACES] if control == "other" else [control]
    as_well = dict.fromkeys(columns, 0.8)
    make = lambda rng: {"model": planted(rng, right=0.4, found_connector=0.8, found_last=0.8, **as_well)}  # noqa: E731
    found = verdicts(S2, make)
    assert {found[f"{place}_unused"] for place in PLACES} == {Verdict.UNDECIDED}


def test_an_untrained_copy_takes_away_what_training_did_not_do():
    make = lambda rng: {"model": planted(rng, right=0.4, found_connector=0.8, found_last=0.8)}  # noqa: E731
    bare = {"model": planted(np.random.default_rng(9), right=0.0, found_connector=0.8, found_last=0.2)}
    found = verdicts(S2, make, untrained=bare)
    assert found["connector_beats_random"] == found["connector_unused"] == Verdict.UNDECIDED
    assert found["last_beats_random"] == found["last_unused"] == Verdict.SUPPORTED


def test_colors_are_described_and_not_tested():
    make = lambda rng: {"model": {"items": planted(rng, found_connector=1.0)["items"].assign(kind="color")}}  # noqa: E731
    found = verdicts(S2, make)
    assert {found[f"{place}_color"] for place in PLACES} == {Verdict.DESCRIPTIVE}
    assert {found[name] for name in TESTED} == {Verdict.UNDECIDED}


def test_a_probe_is_read_where_it_is_told_to_and_never_saw_the_question():
    rng = np.random.default_rng(0)
    answer, _, _ = world(7)
    strong = np.eye(ANSWERS)[answer][None] * 9 + rng.normal(size=(1, len(answer), ANSWERS)) * 0.1
    assert probed(strong, each=7).mean() == 1
    # Another object of the next answer: read there, the same probes say that one.
    elsewhere = np.roll(strong, 1, axis=2)
    assert probed(strong, each=7, elsewhere=elsewhere).mean() == 0
    # What tells the kind of object alone is of no use for a question that was never seen.
    kind = np.eye(KINDS)[world(7)[2]][None] * 9 + rng.normal(size=(1, len(answer), KINDS)) * 0.1
    assert probed(kind, each=7).mean() < 0.4


def test_questions_are_held_out_whole_and_no_answer_with_them():
    rng = np.random.default_rng(1)
    questions = rng.integers(0, 41, 307)
    answers = rng.integers(0, 7, 307)
    parts = parts_by_question(questions, answers)
    assert len(np.unique(parts)) == FOLDS
    assert all(len(np.unique(parts[questions == one])) == 1 for one in np.unique(questions))
    assert all(len(np.unique(parts[answers == one])) > 1 for one in np.unique(answers))
    few = questions % 5
    np.testing.assert_array_equal(parts_by_question(few, answers), few)


@pytest.fixture(scope="module")
def items():
    return properties(list(family_items(60, families=("gqa", "mmvp"), seed=3)))


def test_only_properties_of_one_object_beside_another_are_asked(items):
    assert {item.kind for item in items} == {"color", "shape"}
    assert properties(items) == items
    for item, moved in zip(items, at_other_object(items), strict=True):
        boxes = [o.box for o in item.source.objects]
        assert item.boxes[0] in boxes
        assert moved.boxes[0] in boxes
        assert moved.boxes != item.boxes
    table = pd.DataFrame(
        {"kind": [i.kind for i in items], "answer": [i.answer for i in items], "object": object_kinds(items)}
    )
    counts = table.groupby(["kind", "answer"]).agg(n=("answer", "size"), kinds=("object", "nunique"))
    assert min(counts["n"].tolist()) >= FOLDS
    assert min(counts["kinds"].tolist()) > 1


def from_file(n, answers=("wood", "metal"), questions=("cup", "car", "door")):
    """Items about objects in photographs, two to an image."""
    found = []
    for number in range(n):
        left = UnitBox(0.1, 0.1, 0.4, 0.5) if number % 2 else UnitBox(0.6, 0.2, 0.9, 0.7)
        found.append(
            Item(
                id=f"{number}",
                family="vqav2",
                kind="material",
                group=f"{number}",
                image=f"{number // 2}.png",
                question=f"What is the {questions[number % len(questions)]} made of?",
                answer=answers[number // len(questions) % len(answers)],
                boxes=(left,),
                source=Path(f"{number // 2}.png"),
            )
        )
    return found


def test_items_from_files_serve_where_an_image_has_two_objects():
    given = from_file(30)
    assert properties(given) == given
    assert [moved.boxes for moved in at_other_object(given)[:2]] == [given[1].boxes, given[0].boxes]
    assert properties([replace(item, image=item.id) for item in given]) == []
    assert properties([replace(item, answer="yes") for item in given]) == []
    assert properties([replace(item, boxes=()) for item in given]) == []
    # An open set: no answer comes twice.
    assert properties([replace(item, answer=item.id) for item in given]) == []


def test_a_real_run_has_what_is_promised_and_an_untrained_model_finds_nothing_unused(replica, items):
    bare = untrained(replica)
    found = findings.run(["S2"], [bare], items, untrained=False)
    verdict = dict(found.evidence[["claim", "verdict"]].itertuples(index=False))
    assert "supported" not in {said for name, said in verdict.items() if name.endswith(("unused", "beats_random"))}
    assert found.evidence.set_index("claim").loc[TESTED, "n"].gt(0).to_numpy().all()
    tables = found.measured["S2"][str(bare.name)]
    scores = tables["items"].set_index("id")
    assert list(scores.index) == [item.id for item in items]
    ones = scores.drop(columns=["image", "cluster", "kind", "object"])
    assert set(ones) == {"right", "random", "pixels", *(f"{w}_{p}" for w in ("found", "other") for p in PLACES)}
    assert ones.isin([0.0, 1.0]).to_numpy().all()
    layers = tables["layers"]
    points = ["connector.hook_out", *(f"language.blocks.{i}.hook_resid_post" for i in range(len(bare.language.blocks)))]
    assert layers["point"].unique().tolist() == points
    last = layers.loc[layers["point"] == points[-1]].set_index("id").loc[scores.index]
    np.testing.assert_array_equal(last["found"], scores["found_last"])
    np.testing.assert_array_equal(last["other"], scores["other_last"])
    shown = found.shown(S2)
    assert set(shown.tables) == {"found", "layers"}
    assert len(shown.summary) == 1


def test_boxes_that_the_model_does_not_see_are_left_out(items):
    model = tiny_vlm()
    outside = [replace(items[0], boxes=(UnitBox(1.5, 1.5, 1.7, 1.7),)), *items[1:]]
    tables = found_but_unused(model, outside, shared=Shared(model, outside))
    assert tables["items"]["id"].tolist() == [item.id for item in items[1:]]


def test_what_is_lacking_is_said(items):
    language = tiny_language()
    with pytest.raises(VlmProbeError) as error:
        found_but_unused(language, items)
    assert str(error.value) == f"{language.name} has no encoder; give a model that takes images"
    model = tiny_vlm()
    with pytest.raises(VlmProbeError) as error:
        found_but_unused(model, items[:3])
    assert str(error.value) == (
        "it needs items that ask for a property of one object, with its box and another object's, five or more of an "
        "answer and about two different things (generated scenes: color, shape); there is none among the 3 given"
    )
