"""X3: the paper has no contrast of vocabularies, and the grid no large cell of another."""

import planting
from crossed import by_runs, of_grids

from vlm_probe.findings.interactions import GRID
from vlm_probe.findings.x3_vocabulary_size import FINDING, vocabulary_by_size


def test_nothing_is_invented_of_the_paper():
    measured = vocabulary_by_size()
    assert list(measured) == [GRID]
    assert FINDING.shown(measured, []).summary[0] == (
        "The paper's models do not cross vocabulary and size: its table says nothing of it."
    )
    assert FINDING.caveats[0].startswith("The paper has no such contrast")
    assert not any("paper's y" in paragraph for paragraph in FINDING.methods)


def test_a_grid_without_large_cells_says_what_it_would_take():
    measured = vocabulary_by_size()
    assert measured[GRID]["runs"].empty
    shown = FINDING.shown(measured, [])
    assert list(shown.tables) == ["over seeds", "forest"]
    assert shown.summary[1:] == [
        "small-clip-v320 to large-clip-v20480: no training seed has all four cells; 5 seeds would do."
    ]
    assert shown.tables["forest"][["name", "relative"]].to_numpy().tolist()[0][0] == (
        "small-clip-v320 to large-clip-v20480"
    )


def test_with_nothing_there_little_is_decided():
    """Changes that add up have no interaction, however much each of them does."""
    simulated = by_runs(FINDING, planting.RUNS)
    rates = planting.decided(of_grids(FINDING), lambda rng: next(simulated))
    print(rates)
    assert max(rates.values()) <= planting.MOST
