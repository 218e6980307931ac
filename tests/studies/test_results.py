"""The committed tables of studies: whole runs of arms that exist, counted rightly, and off the ceiling."""

import numpy as np
import pandas as pd
import pytest
from tiny import untyped

from vlm_probe.errors import VlmProbeError
from vlm_probe.scenes import study_world
from vlm_probe.studies import (
    at_budget,
    grid_differences,
    grid_interactions,
    learning_curves,
    result_tables,
    results,
    tabled,
    tuned,
    under_curve,
)
from vlm_probe.studies.study import RATES, STUDIES


@pytest.fixture(scope="module")
def table():
    return results("grid")


@pytest.mark.parametrize("id", tabled())
def test_its_rows_are_of_arms_budgets_splits_and_question_types(id):
    study, table = STUDIES[id], results(id)
    assert list(table) == ["arm", *study.columns, *result_tables.MEASURED]
    assert set(table["arm"]) <= set(study.arms)
    assert set(table["budget"]) <= set(study.budget.scored)
    assert set(table["split"]) == set(study.splits)
    assert (table["scenes"] == table["budget"] * study.budget.fusion * 32).to_numpy().all()
    assert not table.duplicated(["arm", "seed", "budget", "split", "kind"]).any()
    for (_, seed, _, _), own in untyped(table).groupby(["arm", "seed", "budget", "split"]):
        kinds = own.query("kind != 'all'")
        assert set(kinds["kind"]) == set(study_world(int(seed)).questions)
        (whole,) = own.query("kind == 'all'").to_dict("records")
        assert kinds["n"].sum() == whole["n"] == 1400
        assert kinds["accuracy"].mean() == pytest.approx(whole["accuracy"], abs=1e-5)
    for name, own in table.groupby("arm"):
        about = result_tables.factors_of(study.arms[str(name)], study)
        assert own.filter(list(about)).drop_duplicates().to_dict("records") == [about]


def test_there_is_room_above_the_base_cell(table):
    base = table.query("arm == 'small-clip' and kind == 'all' and split == 'heldout'")
    assert 0.5 < base.query("budget == 1")["accuracy"].mean() < 0.85
    assert base.groupby("budget")["accuracy"].mean().is_monotonic_increasing


@pytest.mark.parametrize("id", tabled())
def test_every_run_says_how_it_was_made(id):
    table, made = results(id), result_tables.runs(id)
    assert list(made) == ["arm", "seed", *result_tables.MADE]
    runs = table.filter(["arm", "seed"]).drop_duplicates().to_numpy().tolist()
    assert made.filter(["arm", "seed"]).to_numpy().tolist() == runs
    assert (made["seconds"] > 0).to_numpy().all()


def test_arms_are_paired_by_seed(table):
    differences = grid_differences(at_budget(table)).query("kind == 'all'")
    assert set(differences["factor"]) == {"size", "encoder", "connector"}
    assert (differences["n"] == 1400).to_numpy().all()
    curves = learning_curves(table)
    assert len(curves) == len(table.query("kind == 'all'").drop_duplicates(["arm", "split", "budget"]))


def test_a_study_without_a_table(monkeypatch, tmp_path):
    with pytest.raises(VlmProbeError, match=r"^no study 'encoders'; nearest are 'encoder'$"):
        results("encoders")
    assert "grid" in tabled()
    monkeypatch.setattr(result_tables, "committed_tables", lambda: tmp_path)
    assert tabled() == []
    message = "study encoder has no table yet; train it with vlm-probe study encoder --seeds 5"
    with pytest.raises(VlmProbeError, match=f"^{message}$"):
        results("encoder")


def table_of(id, accuracy):
    """A table of a study's rows "all" from {(arm, seed, budget, split): share right}."""
    study = STUDIES[id]
    rows = [
        {"arm": arm, **result_tables.factors_of(study.arms[arm], study), "seed": seed}
        | {"budget": budget, "scenes": 7, "split": split, "kind": "all", "n": 1193, "accuracy": value}
        for (arm, seed, budget, split), value in accuracy.items()
    ]
    return pd.DataFrame(rows)


def test_the_area_under_a_curve_by_hand():
    """0.2, 0.4 and 0.8 after a quarter, half and all: (0.1 + 0.4 + 0.4) / 2. A run that lacks a budget has none."""
    shares = {0.25: 0.2, 0.5: 0.4, 1.0: 0.8}
    values = {("small-clip", 2, budget, "novel"): share for budget, share in shares.items()}
    values |= {("large-clip", 2, budget, "novel"): 0.5 for budget in (0.25, 1.0)}
    found = under_curve(table_of("grid", values))
    assert found["cell"].tolist() == ["small-clip"]
    assert found["accuracy"].tolist() == pytest.approx([0.45])
    assert list(found) == list(at_budget(table_of("grid", values)))
    one = table_of("grid", {("small-clip", 2, 1.0, "novel"): 0.5})
    assert under_curve(one).empty


def test_rates_are_chosen_on_dev_and_scored_on_the_rest():
    rng = np.random.default_rng(3)
    values = {}
    best = {}
    for arm, cell in STUDIES["rate"].arms.items():
        for seed in range(3):
            key = (cell.size, cell.frozen, seed)
            for split in ("heldout", "novel", "dev"):
                values |= {(arm, seed, budget, split): rng.uniform(0.2, 0.8) for budget in (0.5, 1.0)}
            if values[arm, seed, 1.0, "dev"] > best.get(key, ("", 0.0))[1]:
                best[key] = (arm, values[arm, seed, 1.0, "dev"])
    found = tuned(table_of("rate", values))
    assert set(found["split"]) == {"heldout", "novel"}
    assert set(found["arm"]) == {"small-clip", "large-clip", "small-clip-frozen", "large-clip-frozen"}
    assert set(found["chosen"]) <= set(RATES)
    assert len(found) == 4 * 3 * 2 * 2
    for row in found.to_dict("records"):
        arm, _ = best[row["size"], row["frozen"], row["seed"]]
        assert STUDIES["rate"].arms[arm].rate == row["chosen"]
        assert row["accuracy"] == values[arm, row["seed"], row["budget"], row["split"]]
    # What it leaves is a grid of size and freezing.
    assert set(grid_differences(at_budget(found))["factor"]) == {"size", "frozen"}
    assert len(grid_interactions(at_budget(found), "size", "frozen")) == 3 * 2
    # A seed that lacks a rate has no best one.
    del values["small-clip-x2", 1, 1.0, "dev"]
    fewer = tuned(table_of("rate", values))
    assert set(fewer.query("arm == 'small-clip'")["seed"]) == {0, 2}
    assert set(fewer.query("arm == 'large-clip'")["seed"]) == {0, 1, 2}


def test_changes_of_the_new_studies_are_those_asked_about():
    values = {
        (id, arm, seed): 0.5 for id in ("encoder", "vocabulary", "rate") for arm in STUDIES[id].arms for seed in (0, 1)
    }
    pairs = {}
    for id in ("encoder", "vocabulary", "rate"):
        own = {(arm, seed, 1.0, "novel"): v for (study, arm, seed), v in values.items() if study == id}
        found = grid_differences(at_budget(table_of(id, own)))
        both = found.drop_duplicates(["first", "second"])
        pairs[id] = {name: set(zip(g["first"], g["second"], strict=True)) for name, g in both.groupby("factor")}
    assert {name: len(own) for name, own in pairs["encoder"].items()} == {"size": 5, "encoder": 2 * 7}
    assert ("small-clip-places", "small-dino-128") in pairs["encoder"]["encoder"]
    assert ("large-clip", "large-clip-alone") in pairs["encoder"]["encoder"]
    assert pairs["vocabulary"]["rows"] == {
        (f"{size}-clip-{first}", f"{size}-clip-{second}")
        for size in ("small", "large")
        for first, second in (("none", "dead"), ("dead", "trained"), ("none", "narrow"), ("trained", "untied"))
    }
    assert {name: len(own) for name, own in pairs["rate"].items()} == {"size": 6, "frozen": 6, "rate": 4 * 3}
