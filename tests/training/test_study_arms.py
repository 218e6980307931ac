"""Every arm of every study trains; an arm that two studies have is trained once; and what rates and freezing do."""

import json
from dataclasses import replace

import pandas as pd
import pytest
import torch
from tiny_studies import shrink, tiny

from vlm_probe.opening import load
from vlm_probe.studies.result_tables import MEASURED, collect
from vlm_probe.studies.study import STUDIES, Budget
from vlm_probe.training import study as training
from vlm_probe.training.fusion import Connector, FusionStage, language_model
from vlm_probe.training.replica import apart, export, packer_of, runs_of
from vlm_probe.training.study import train_arm
from vlm_probe.zoo.cells import ROWS

SHORT = Budget(encoder=2, language=2, fusion=5, pretraining=0.4, scored=(1.0,), cooldown=0.4)
NEW = [STUDIES[name] for name in ("encoder", "vocabulary", "rate")]


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    shrink(monkeypatch)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A runs folder that all studies share, as they may."""
    return tmp_path_factory.mktemp("runs")


def states_of(folder):
    """Weights of every stage in a folder of runs, by file."""
    files = sorted(folder.rglob("*.pt"))
    return {str(f.relative_to(folder)): torch.load(f, weights_only=True)["module"] for f in files}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("study", NEW, ids=lambda study: study.id)
def test_every_arm_trains_and_is_collected(runs, study, monkeypatch):
    # Answering takes ten times as long as these few steps; the tests below do.
    answered = {"kind": "all", "n": 7, "accuracy": 0.25}
    monkeypatch.setattr(training, "score", lambda model, world, splits: [{"split": s, **answered} for s in splits])
    monkeypatch.setattr(training, "look_inside", lambda model, world, asked: [{"split": s} for s in asked])
    study = tiny(study, SHORT)
    for cell in study.of_seed(3):
        train_arm(study, cell, runs)
        steps = {
            f.name: torch.load(f, weights_only=True)["step"] for f in (runs_of(cell, runs) / cell.name).glob("*.pt")
        }
        assert steps == {"connector.pt": 2, "joint.pt": 1, "joint-5.pt": 3}
    table, made = collect(study, runs)
    assert list(table) == ["arm", *study.columns, *MEASURED]
    assert table["arm"].unique().tolist() == made["arm"].tolist() == list(study.arms)
    assert table.query("kind == 'all'").groupby("arm")["split"].agg(tuple).unique().tolist() == [study.splits]
    assert min(made["seconds"]) >= 0
    # Two arms that differ never came to the same weights: what tells them apart reached the training.
    ends = {
        name: torch.load(runs_of(cell, runs) / name / "joint-5.pt", weights_only=True)["module"]
        for name, cell in ((cell.name, cell) for cell in study.of_seed(3))
    }
    names = list(ends)
    assert not any(same(ends[a], ends[b]) for i, a in enumerate(names) for b in names[i + 1 :])


@pytest.mark.parametrize(
    ("id", "arm"),
    [("encoder", "small-clip-one"), ("vocabulary", "small-clip-untied"), ("rate", "small-clip-frozen-x2")],
)
def test_the_same_seed_gives_the_same_run(tmp_path, id, arm):
    study = tiny(STUDIES[id], SHORT)
    files = [train_arm(study, study.arm(arm, 3), tmp_path / name) for name in ("one", "other")]
    one, other = (json.loads(file.read_text()) for file in files)
    assert one["scores"] == other["scores"]
    states, again = (states_of(tmp_path / name) for name in ("one", "other"))
    assert states.keys() == again.keys()
    assert all(same(states[name], again[name]) for name in states)


def test_an_arm_of_two_studies_is_trained_once_and_scored_on_what_is_missing(tmp_path):
    grid, rate, encoder = (tiny(STUDIES[name], SHORT) for name in ("grid", "rate", "encoder"))
    cell = grid.arm("small-clip", 3)
    first = json.loads(train_arm(grid, cell, tmp_path).read_text())
    before, own = collect(grid, tmp_path), states_of(tmp_path)
    assert collect(rate, tmp_path)[0].empty, "nobody asked for it yet"
    trained = []
    file = train_arm(rate, rate.arm("small-clip", 3), tmp_path, listen=lambda progress: trained.append(progress.stage))
    assert trained == []
    found = json.loads(file.read_text())
    assert found["scores"][: len(first["scores"])] == first["scores"]
    assert {row["split"] for row in found["scores"][len(first["scores"]) :]} == {"dev"}
    assert (found["made"], found["study"], found["also"]) == (first["made"], "grid", ["rate"])
    for one, other in zip(before, collect(grid, tmp_path), strict=True):
        pd.testing.assert_frame_equal(one, other)
    assert set(collect(rate, tmp_path)[0]["split"]) == {"heldout", "novel", "dev"}
    assert collect(encoder, tmp_path)[0].empty
    train_arm(encoder, encoder.arm("small-clip", 3), tmp_path)
    assert set(collect(encoder, tmp_path)[0]["split"]) == {"heldout", "novel"}
    assert json.loads(file.read_text())["also"] == ["encoder", "rate"]
    again = states_of(tmp_path)
    assert all(same(own[name], again[name]) for name in own)


def test_two_that_begin_together_do_not_begin_with_one_stage(tmp_path):
    for study in STUDIES.values():
        first, second = tiny(study, SHORT).of_seed(3)[:2]
        assert (first.size, second.size) == ("small", "large")
        assert first.language_name != second.language_name
    for cell in (first, second):
        order = []
        apart(
            cell, tmp_path / cell.size, resume=True, listen=lambda progress, order=order: order.append(progress.stage)
        )
        stages = ["encoder-clip", "language"]
        assert list(dict.fromkeys(order)) == (stages if cell.size == "small" else stages[::-1])
    # In which order they are trained makes no difference to either.
    turned = apart(replace(first, size="large"), tmp_path / "turned", resume=True)
    trained = apart(first, tmp_path / "small", resume=True)
    for one, other in ((turned.encoder, trained.encoder), (turned.language, trained.language)):
        assert same(one.state_dict(), other.state_dict())
    assert same(turned.connector.state_dict(), trained.connector.state_dict())


def test_a_frozen_language_model_stays_and_the_connector_learns(runs):
    study = tiny(STUDIES["rate"], SHORT)
    cell = study.arm("small-clip-frozen", 3)
    train_arm(study, cell, runs)
    own = states_of(runs_of(cell, runs))
    after, before = own[f"{cell.name}/joint-5.pt"], own["language-small/language.pt"]
    language = {key.removeprefix("language."): value for key, value in after.items() if key.startswith("language.")}
    assert same(language, before)
    connector = {key.removeprefix("connector."): value for key, value in after.items() if key.startswith("connector.")}
    pretrained = {k.removeprefix("connector."): v for k, v in own[f"{cell.name}/connector.pt"].items() if k in after}
    assert not any(torch.equal(value, pretrained[key]) for key, value in connector.items())


def test_the_rate_of_fusion_alone_is_moved():
    trained = {}
    for name in ("small-clip", "small-clip-x0.5", "small-clip-x2", "small-clip-frozen-x2"):
        cell = tiny(STUDIES["rate"]).arm(name, 3)
        packer = packer_of(cell)
        language = language_model(cell, packer)
        trained[name] = [
            FusionStage(stage, cell, packer, torch.nn.Identity(), Connector(1, 1), language).learning_rate
            for stage in ("connector", "joint")
        ]
    assert trained == {
        "small-clip": [3e-3, 3e-3],
        "small-clip-x0.5": [1.5e-3, 1.5e-3],
        "small-clip-x2": [6e-3, 6e-3],
        "small-clip-frozen-x2": [6e-3, 6e-3],
    }


def test_an_unembedding_of_its_own_is_exported(runs, tmp_path):
    study = tiny(STUDIES["vocabulary"], SHORT)
    assert not ROWS["untied"].tied
    trained = apart(study.arm("small-clip-untied", 3), runs, resume=True)
    embedding, unembedding = trained.language.model.embed_tokens.weight, trained.language.lm_head.weight
    assert embedding.shape == unembedding.shape == (4800, 112)
    assert not torch.equal(embedding, unembedding)
    export(trained, tmp_path)
    model = load(tmp_path, device="cpu", dtype="float32")
    ids = torch.tensor([trained.packer.encode("what color is the star?")])
    with torch.no_grad():
        expected, found = trained.language(ids).logits, model.hf.model.language_model(ids).last_hidden_state
        torch.testing.assert_close(model.hf.lm_head(found), expected, atol=0.02, rtol=0.02)
    assert torch.equal(model.hf.lm_head.weight, unembedding.half().float())
