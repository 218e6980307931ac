"""Studies: arms differ in their factors and in nothing else, and a killed run comes to the same scores."""

import json
from dataclasses import asdict
from itertools import combinations

import pandas as pd
import pytest
import torch
from tiny_studies import shrink, tiny
from torch import nn

from vlm_probe.errors import VlmProbeError
from vlm_probe.scenes import asks_novel, study_world, world_of
from vlm_probe.studies.inside import INSIDE
from vlm_probe.studies.result_tables import at_budget, collect, factors_of, merged
from vlm_probe.studies.study import STUDIES, find_study
from vlm_probe.training import study as training
from vlm_probe.training.fusion import Connector, LanguageStage
from vlm_probe.training.replica import packer_of, runs_of
from vlm_probe.training.study import StudyStage, items_of, rate, train_arm

GRID = STUDIES["grid"]


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    shrink(monkeypatch)


PARTS = {
    **{"size": {"size", "shape"}, "encoder": {"encoder"}, "pretrained": {"steps"}},
    **{"rows": {"rows"}, "frozen": {"frozen"}, "rate": {"rate"}},
}
"""Factor -> the fields of a cell that it changes."""


@pytest.mark.parametrize("study", STUDIES.values(), ids=lambda study: study.id)
def test_arms_differ_in_their_factors_and_in_nothing_else(study):
    assert len(study.arms) == len(study.cells) == {"grid": 8, "encoder": 10, "vocabulary": 10, "rate": 12}[study.id]
    for one, other in combinations((study.arm(name, 3) for name in study.arms), 2):
        a, b = factors_of(one, study), factors_of(other, study)
        changed = {factor for factor in a if a[factor] != b[factor]}
        assert changed
        assert changed <= set(study.factors)
        differing = {name for name, value in asdict(one).items() if value != asdict(other)[name]}
        narrower = {"shape"} if (one.rows == "narrow") != (other.rows == "narrow") else set()
        assert differing == narrower.union(*(PARTS[factor] for factor in changed))
    for cell in study.cells:
        assert cell.steps.connector + cell.steps.joint == study.budget.fusion
        assert (cell.steps.encoder, cell.steps.language, cell.steps.questions) == (600, 600, 0)
        # Keys and values are as wide, of what the model is wide, in either size.
        shape = cell.language
        assert shape.num_key_value_heads * shape.head_dim == pytest.approx(shape.hidden_size * 2 / 7, abs=0.3)


def test_arms_of_one_name_are_one_arm_and_keep_their_names():
    every = [(name, cell, study) for study in STUDIES.values() for name, cell in study.arms.items()]
    assert {name for name, *_ in every if not name.isascii() or set(name) & set("/\\: ")} == set()
    known = {name: (cell, study.budget) for name, cell, study in every}
    assert all(known[name] == (cell, study.budget) for name, cell, study in every)
    assert set(GRID.arms) == {
        f"{s}-{e}{n}" for s in ("small", "large") for e in ("clip", "dino") for n in ("", "-nopre")
    }
    assert {cell.language_name for cell in GRID.cells} == {"language-small", "language-large"}
    shared = {(a.id, b.id): len({*a.arms} & {*b.arms}) for a, b in combinations(STUDIES.values(), 2)}
    assert {pair for pair, n in shared.items() if n} == {("grid", "encoder"), ("grid", "rate"), ("encoder", "rate")}


def test_an_arm_of_a_seed_has_that_seeds_novel_kinds():
    one, other = (world_of(GRID.arm("small-clip", seed).world) for seed in (0, 4))
    assert one.novel != other.novel
    assert (GRID.arm("small-clip", 4).seed, GRID.arm("small-clip", 4).world) == (4, "study-4")
    assert {cell.seed for cell in GRID.of_seed(4)} == {4}
    with pytest.raises(VlmProbeError, match=r"^study grid has no arm 'small-clop'; nearest are 'small-clip'"):
        GRID.arm("small-clop")
    with pytest.raises(VlmProbeError, match=r"^no study 'gird'; nearest are 'grid'$"):
        find_study("gird")


@pytest.mark.parametrize("study", STUDIES.values(), ids=lambda study: study.id)
def test_every_arm_sees_the_same_scenes_step_by_step(study):
    seen, read = {}, {}
    for cell in tiny(study).cells:
        packer = packer_of(cell)
        parts = (cell, packer, nn.Identity(), Connector(1, 1), LanguageStage(cell, packer).module)
        before = cell.steps.connector
        stages = [StudyStage("joint", *parts, first=before, asking=True)]
        if before:
            stages.insert(0, StudyStage("connector", *parts, first=0, asking=False))
        packed = [stage.pack(step) for stage in stages for step in range(stage.steps)]
        seen[cell.name] = [scenes for scenes, _ in packed]
        kinds = [{kind for row in batch.kinds for kind in row} for _, batch in packed]
        assert all(found == {"caption"} for found in kinds[:before])
        assert all({"caption"} < found for found in kinds[before:])
        read.setdefault(before, []).append([batch.input_ids for _, batch in packed])
    assert len({len(scenes) for scenes in seen.values()}) == 1
    first = next(iter(seen.values()))
    assert all(scenes == first for scenes in seen.values())
    assert {scene.split for scenes in first for scene in scenes} == {"train"}
    for steps in read.values():  # and reads the same about them, in the same ids
        assert all(torch.equal(a, b) for other in steps for a, b in zip(steps[0], other, strict=True))


def test_the_rate_is_level_and_comes_down_as_one_minus_a_square_root():
    given = {"peak": 8.0, "warm": 2, "cool_from": 10, "end": 13}
    found = [rate(step, **given) for step in range(13)]
    assert found[:10] == [4.0, *[8.0] * 9]
    assert found[10:] == pytest.approx([8 * (1 - (n / 4) ** 0.5) for n in (1, 2, 3)])
    assert found[10] == pytest.approx(4.0)


def test_what_is_scored_asks_each_type_as_often_and_the_novel_kind_itself(monkeypatch):
    monkeypatch.setattr(training, "ITEMS_PER_KIND", 5)
    world = study_world(2)
    splits = {split: items_of(world, split) for split in ("heldout", "novel", "dev")}
    assert len({item.image_seed for items in splits.values() for item in items}) == 3 * 5 * len(world.questions)
    for items in splits.values():
        assert len({item.id for item in items}) == len(items)
        counts = [sum(item.kind == kind for item in items) for kind in world.questions]
        assert counts == [5] * len(world.questions)
    assert all(asks_novel(item) for item in splits["novel"])
    assert not any(asks_novel(item) for split in ("heldout", "dev") for item in splits[split])


class KilledError(Exception):
    pass


@pytest.mark.parametrize("arm", ["small-clip", "small-clip-nopre"])
def test_a_killed_run_comes_to_the_same_scores(tmp_path, monkeypatch, arm):
    study = tiny(GRID)
    cell = study.arm(arm, 3)
    whole = json.loads(train_arm(study, cell, tmp_path / "whole").read_text())
    assert [(row["budget"], row["scenes"]) for row in whole["scores"] if row["kind"] == "all"] == [
        *[(0.5, 10)] * 2,
        *[(1, 20)] * 2,
    ]
    assert {row["n"] for row in whole["scores"] if row["kind"] == "all"} == {14}
    monkeypatch.setattr("vlm_probe.training.loop.SAVE_EVERY_S", 0.0)
    for stage, step in (("connector", 1), ("joint", 1), ("joint-5", 3), ("joint", 5), ("joint-10", 7)):
        if stage == "connector" and not cell.steps.connector:
            continue
        # Without pretraining, what follows is as many steps longer.
        at = (stage, step if cell.steps.connector or stage == "connector" else step + 2)

        def kill(progress, at=at):
            if (progress.stage, progress.step) == at:
                raise KilledError

        with pytest.raises(KilledError):
            train_arm(study, cell, tmp_path / "killed", listen=kill)

    def killed(*_):
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr(training, "look_inside", killed)
        with pytest.raises(KilledError):
            train_arm(study, cell, tmp_path / "killed")
    again = json.loads(train_arm(study, cell, tmp_path / "killed").read_text())
    assert again["scores"] == whole["scores"]
    folder = runs_of(cell, tmp_path / "whole") / cell.name
    assert [row["n"] for row in json.loads((folder / INSIDE).read_text()) if row["place"] == "answer"][0::3] == [14, 14]
    for file in (*folder.glob("*.jsonl"), folder / INSIDE):
        assert file.read_text() == (runs_of(cell, tmp_path / "killed") / cell.name / file.name).read_text()


def test_scores_are_collected_by_seed_and_arm(tmp_path):
    study = tiny(GRID)
    row = {"budget": 1, "scenes": 20, "split": "novel", "kind": "all", "n": 7, "accuracy": 0.25}
    made = {"seconds": 3, "device": "cpu", "threads": 1, "processor": "x", "torch": "2", "commit": "a"}
    for seed, arm in ((5, "small-clip"), (2, "large-dino-nopre"), (2, "small-clip")):
        folder = runs_of(study.arm(arm, seed), tmp_path) / arm
        folder.mkdir(parents=True)
        about = {"study": study.id, "arm": arm, "seed": seed, "made": made}
        (folder / "scores.json").write_text(json.dumps({**about, "scores": [row]}))
    table, runs = collect(study, tmp_path)
    assert table.filter(["seed", "arm"]).to_numpy().tolist() == [
        [2, "small-clip"],
        [2, "large-dino-nopre"],
        [5, "small-clip"],
    ]
    assert table.query("arm == 'large-dino-nopre'").to_dict("records") == [
        {"arm": "large-dino-nopre", "size": "large", "encoder": "dino", "pretrained": False, "vocabulary": 704}
        | {"seed": 2, **row}
    ]
    assert runs["seconds"].tolist() == [3, 3, 3]
    assert at_budget(table).set_index("cell")["connector_pretrained"].tolist() == [True, False, True]
    assert at_budget(table, 0.5).empty
    # Seeds that were trained elsewhere stay; a run that is here takes the place of an older one.
    kept = table.assign(accuracy=0.5, seed=table["seed"].replace({5: 7}))
    of_kept = runs.assign(seconds=7, seed=runs["seed"].replace({5: 7}))
    scores, made = merged(study, (table, runs), (kept, of_kept))
    expected = [[2, 0.25], [2, 0.25], [5, 0.25], [7, 0.5]]
    assert scores.filter(["seed", "accuracy"]).to_numpy().tolist() == expected
    assert made.filter(["seed", "seconds"]).to_numpy().tolist() == [[2, 3], [2, 3], [5, 3], [7, 7]]
    # But where one was stopped, that which came further.
    further = pd.concat([kept, kept.assign(budget=2.0)], ignore_index=True)
    scores, made = merged(study, (table, runs), (further, of_kept))
    assert scores.filter(["seed", "accuracy"]).to_numpy().tolist() == [[2, 0.5]] * 4 + [[5, 0.25]] + [[7, 0.5]] * 2
    assert made.filter(["seed", "seconds"]).to_numpy().tolist() == [[2, 7], [2, 7], [5, 3], [7, 7]]
