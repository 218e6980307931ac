"""The committed tables of studies: whole runs of arms that exist, counted rightly, and off the ceiling."""

import pytest

from vlm_probe.errors import VlmProbeError
from vlm_probe.scenes import study_world
from vlm_probe.studies import at_budget, grid_differences, learning_curves, result_tables, results
from vlm_probe.studies.study import STUDIES

GRID = STUDIES["grid"]


@pytest.fixture(scope="module")
def table():
    return results("grid")


def test_its_rows_are_of_arms_budgets_splits_and_question_types(table):
    assert list(table) == ["arm", *result_tables.ALL_FACTORS, *result_tables.MEASURED]
    assert set(table["arm"]) <= set(GRID.arms)
    assert set(table["budget"]) <= set(GRID.budget.scored)
    assert (table["scenes"] == table["budget"] * GRID.budget.fusion * 32).to_numpy().all()
    assert not table.duplicated(["arm", "seed", "budget", "split", "kind"]).any()
    for (_, seed, _, _), own in table.groupby(["arm", "seed", "budget", "split"]):
        kinds = own.query("kind != 'all'")
        assert set(kinds["kind"]) == set(study_world(int(seed)).questions)
        (whole,) = own.query("kind == 'all'").to_dict("records")
        assert kinds["n"].sum() == whole["n"] == 1400
        assert kinds["accuracy"].mean() == pytest.approx(whole["accuracy"], abs=1e-5)
    for name, own in table.groupby("arm"):
        about = result_tables.factors_of(GRID.arms[str(name)])
        assert own.filter(list(about)).drop_duplicates().to_dict("records") == [about]


def test_there_is_room_above_the_base_cell(table):
    base = table.query("arm == 'small-clip' and kind == 'all' and split == 'heldout'")
    assert 0.5 < base.query("budget == 1")["accuracy"].mean() < 0.85
    assert base.groupby("budget")["accuracy"].mean().is_monotonic_increasing


def test_every_run_says_how_it_was_made(table):
    made = result_tables.runs("grid")
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


def test_a_study_without_a_table():
    with pytest.raises(VlmProbeError, match=r"^no study 'encoders'; nearest are 'grid'$"):
        results("encoders")
