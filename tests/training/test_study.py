"""Studies: arms differ in their factors and in nothing else, and a killed run comes to the same scores."""

import json
from dataclasses import asdict, replace
from itertools import combinations

import pytest
from torch import nn

from vlm_probe.errors import VlmProbeError
from vlm_probe.scenes import asks_novel, study_world, world_of
from vlm_probe.studies.result_tables import at_budget, collect, factors_of, merged
from vlm_probe.studies.study import STUDIES, Budget, Study, find_study
from vlm_probe.training import study as training
from vlm_probe.training.fusion import Connector, LanguageStage
from vlm_probe.training.packing import Packer, build_tokenizer
from vlm_probe.training.replica import runs_of
from vlm_probe.training.study import StudyStage, items_of, rate, train_arm

VISION = {"hidden_size": 20, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 64, "patch_size": 16}
BUDGET = Budget(encoder=2, language=2, fusion=10, pretraining=0.2, scored=(0.5, 1.0), cooldown=0.2)
GRID = STUDIES["grid"]


def tiny(study: Study = GRID) -> Study:
    """The same arms, trained for a moment."""
    cells = tuple(
        replace(cell, steps=BUDGET.steps(pretrained=cell.steps.connector > 0), vision=VISION) for cell in study.cells
    )
    return replace(study, cells=cells, budget=BUDGET)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    for name in ("encoders.ClipStage.pairs", "encoders.DinoStage.images", "fusion.LanguageStage.batch"):
        monkeypatch.setattr(f"vlm_probe.training.{name}", 3)
    monkeypatch.setattr("vlm_probe.training.fusion.FusionStage.batch", 2)
    monkeypatch.setattr("vlm_probe.training.fusion.PATCHES", 16)
    monkeypatch.setattr("vlm_probe.training.replica.PATCHES", 16)
    monkeypatch.setattr(training, "ITEMS_PER_KIND", 1)


def test_arms_differ_in_their_factors_and_in_nothing_else():
    assert len(GRID.arms) == len(GRID.cells) == 8
    parts = {"size": {"size", "shape"}, "encoder": {"encoder"}, "pretrained": {"steps"}}
    for one, other in combinations((GRID.arm(name, 3) for name in GRID.arms), 2):
        a, b = factors_of(one), factors_of(other)
        changed = {factor for factor in a if a[factor] != b[factor]}
        assert changed
        assert changed <= set(GRID.factors)
        differing = {name for name, value in asdict(one).items() if value != asdict(other)[name]}
        assert differing == set().union(*(parts[factor] for factor in changed))
    for cell in GRID.cells:
        assert cell.steps.connector + cell.steps.joint == GRID.budget.fusion
        assert (cell.steps.encoder, cell.steps.language, cell.steps.questions) == (600, 600, 0)
        # Keys and values are as wide, of what the model is wide, in either size.
        shape = cell.language
        assert shape.num_key_value_heads * shape.head_dim * 7 == shape.hidden_size * 2


def test_an_arm_of_a_seed_has_that_seeds_novel_kinds():
    one, other = (world_of(GRID.arm("small-clip", seed).world) for seed in (0, 4))
    assert one.novel != other.novel
    assert (GRID.arm("small-clip", 4).seed, GRID.arm("small-clip", 4).world) == (4, "study-4")
    assert {cell.seed for cell in GRID.of_seed(4)} == {4}
    with pytest.raises(VlmProbeError, match=r"^study grid has no arm 'small-clop'; nearest are 'small-clip'"):
        GRID.arm("small-clop")
    with pytest.raises(VlmProbeError, match=r"^no study 'gird'; nearest are 'grid'$"):
        find_study("gird")


def test_every_arm_sees_the_same_scenes_step_by_step():
    seen = {}
    for cell in tiny().cells:
        packer = Packer(build_tokenizer(cell.vocabulary, world_of(cell.world)))
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
    assert len({len(scenes) for scenes in seen.values()}) == 1
    assert all(scenes == seen["small-clip"] for scenes in seen.values())
    assert {scene.split for scenes in seen["small-clip"] for scene in scenes} == {"train"}


def test_the_rate_is_level_and_comes_down_as_one_minus_a_square_root():
    given = {"peak": 8.0, "warm": 2, "cool_from": 10, "end": 13}
    found = [rate(step, **given) for step in range(13)]
    assert found[:10] == [4.0, *[8.0] * 9]
    assert found[10:] == pytest.approx([8 * (1 - (n / 4) ** 0.5) for n in (1, 2, 3)])
    assert found[10] == pytest.approx(4.0)


def test_what_is_scored_asks_each_type_as_often_and_the_novel_kind_itself(monkeypatch):
    monkeypatch.setattr(training, "ITEMS_PER_KIND", 5)
    world = study_world(2)
    splits = dict(items_of(world))
    for items in splits.values():
        assert len({item.id for item in items}) == len(items)
        counts = [sum(item.kind == kind for item in items) for kind in world.questions]
        assert counts == [5] * len(world.questions)
    assert all(asks_novel(item) for item in splits["novel"])
    assert not any(asks_novel(item) for item in splits["heldout"])


class KilledError(Exception):
    pass


@pytest.mark.parametrize("arm", ["small-clip", "small-clip-nopre"])
def test_a_killed_run_comes_to_the_same_scores(tmp_path, monkeypatch, arm):
    study = tiny()
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
    again = json.loads(train_arm(study, cell, tmp_path / "killed").read_text())
    assert again["scores"] == whole["scores"]
    for file in (runs_of(cell, tmp_path / "whole") / cell.name).glob("*.jsonl"):
        assert file.read_text() == (runs_of(cell, tmp_path / "killed") / cell.name / file.name).read_text()


def test_scores_are_collected_by_seed_and_arm(tmp_path):
    study = tiny()
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
    assert merged(study, table, kept).filter(["seed", "accuracy"]).to_numpy().tolist() == [
        [2, 0.25],
        [2, 0.25],
        [5, 0.25],
        [7, 0.5],
    ]
