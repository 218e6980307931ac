"""X1 to X3 on simulated grids: something planted, too few seeds, seeds that agree; and on the committed scores."""

import numpy as np
import pandas as pd
import pytest
from crossed import ALL, CROSSED, MEASURES, X3, N, cells_of, changed, grid_of, judged

from vlm_probe import findings
from vlm_probe.errors import VlmProbeError
from vlm_probe.evidence import Verdict, judge_all
from vlm_probe.findings.finding import FigureOf, Finding
from vlm_probe.findings.interactions import GRID, MARGIN
from vlm_probe.studies import at_budget, grid_scores, results
from vlm_probe.studies.effects import FEWEST_RUNS


@pytest.mark.parametrize("finding", ALL, ids=lambda f: f.id)
def test_what_two_changes_do_together_is_found(finding):
    """Planted in the direction of the claim, against it, and not at all; and main effects alone say nothing."""
    toward = {"X1": -0.15, "X2": -0.15, "X3": 0.15}[finding.id]
    for by, verdict in ((toward, Verdict.SUPPORTED), (-toward, Verdict.CONTRADICTED)):
        # Where both are made a cell must not reach the ceiling.
        alone = dict.fromkeys(CROSSED[finding.id], -0.1 if by > 0 else 0.0)
        rng = np.random.default_rng(7)
        rows = judged(finding, grid_of(rng, cells_of(finding), 7, alone=alone, together=(CROSSED[finding.id], by)))
        assert rows["verdict"].tolist() == [verdict] * len(rows)
        assert rows["difference"].to_numpy() == pytest.approx(by, abs=0.04)
        assert rows["clusters"].tolist() == rows["n"].tolist() == [7] * len(rows)
        assert (rows["p_corrected"].to_numpy() >= rows["p"].to_numpy()).all()
    small = (CROSSED[finding.id], MARGIN / 5)
    rows = judged(finding, grid_of(np.random.default_rng(7), cells_of(finding), 43, together=small, spread=0.002))
    assert rows["verdict"].tolist() == [Verdict.EQUIVALENT] * len(rows)


@pytest.mark.parametrize("finding", ALL, ids=lambda f: f.id)
def test_what_the_ceiling_makes_is_undecided(finding):
    """Each change takes the odds up threefold, whatever else was done: a difference of differences in shares alone."""
    scores = grid_of(np.random.default_rng(7), cells_of(finding), 11, alone={}, spread=0.002)
    cells = {cell.name: changed(cell) for cell in cells_of(finding)}
    made = [sum(cells[name][one] for one in CROSSED[finding.id]) for name in scores["cell"]]
    odds = 4 * 3.0 ** np.asarray(made) * np.exp(np.random.default_rng(1).normal(0, 0.05, len(made)))
    rows = judged(finding, scores.assign(accuracy=np.round(N * odds / (1 + odds)) / N))
    assert rows["difference"].to_numpy().max() < -0.03
    runs = MEASURES[finding.id](scores.assign(accuracy=odds / (1 + odds)))[GRID]["runs"]
    each = [own["difference"].to_numpy(dtype=float) for _, own in runs.groupby("of")]
    t = [d.mean() / d.std(ddof=1) * 11**0.5 for d in each]
    assert max(t) < -5, "of shares alone it would be called"
    assert rows["verdict"].tolist() == [Verdict.UNDECIDED] * len(rows)


@pytest.mark.parametrize("finding", ALL, ids=lambda f: f.id)
def test_few_seeds_decide_nothing_however_they_agree(finding):
    for seeds in (1, 3):
        scores = grid_of(np.random.default_rng(7), cells_of(finding), seeds, together=(CROSSED[finding.id], -0.3))
        rows = judged(finding, scores)
        assert rows["verdict"].tolist() == [Verdict.UNDECIDED] * len(rows)
        assert set(rows["reason"]) == {f"{seeds} training seeds, 5 would do"}
        assert np.isnan(rows["p_corrected"].to_numpy(dtype=float)).all(), "and weigh on no other claim"


@pytest.mark.parametrize("finding", ALL, ids=lambda f: f.id)
def test_a_seed_counts_where_it_has_all_four_cells(finding):
    scores = grid_of(np.random.default_rng(7), cells_of(finding), 7)
    gone = (scores["cell"] == cells_of(finding)[-1].name) & scores["seed"].isin([2, 5])
    rows = judged(finding, scores.loc[~gone])
    assert sorted(set(rows["clusters"])) == ([5] if finding is X3 else [5, 7])


@pytest.mark.parametrize("finding", ALL, ids=lambda f: f.id)
def test_seeds_that_agree_to_the_item_are_not_certain(finding):
    """Five seeds that all differ by one item and the same: their spread is taken for an item's."""
    table = grid_of(np.random.default_rng(7), cells_of(finding), 5, spread=0.0).assign(accuracy=0.5)
    first = cells_of(finding)[0].name
    table.loc[table["cell"] == first, "accuracy"] += 1 / N
    rows = judged(finding, table)
    assert (rows["high"].to_numpy() > rows["low"].to_numpy()).all()
    assert rows["p"].to_numpy().min() > 0.01


@pytest.mark.parametrize("finding", ALL, ids=lambda f: f.id)
def test_on_the_committed_scores(finding):
    result = findings.run([finding.id], [])
    evidence = result.evidence
    grid = evidence.query("models == 'replicas'")
    assert len(grid) == (2 if finding is X3 else 4)
    assert set(grid["unit"]) == {"training seeds"}
    assert set(grid["scope"]) == {"Replicas are miniatures: nothing here is a statement about the 2B or the 7B."}
    own = grid_scores() if finding is X3 else at_budget(results("grid"))
    scores = own.query("kind == 'all'")
    for row in grid.to_dict("records"):
        pair, split = row["claim"].split(", ")
        first, last = pair.split(" to ")
        assert row["clusters"] == len(shared_seeds(finding, scores.loc[scores["split"] == split], first, last))
        if row["clusters"] < FEWEST_RUNS:
            assert (row["verdict"], row["reason"]) == ("undecided", f"{row['clusters']} training seeds, 5 would do")
    paper = evidence.query("models == 'the paper'")
    assert set(paper["verdict"]) <= {"descriptive"}
    assert set(paper["unit"]) <= {"published runs"}
    assert set(paper["scope"]) <= {""}
    assert paper[["low", "high", "p"]].isna().to_numpy().all()
    runs = result.measured[finding.id][GRID]["runs"]
    columns = ["factor", "first", "second", "split", "kind", "n", "seed", "a", "b", "difference"]
    assert list(runs) == ["of", *columns, "step", "reference", "log_odds", "by_odds"]


def shared_seeds(finding: Finding, scores: pd.DataFrame, first: str, last: str) -> set[int]:
    """Seeds of which all four cells of a corner are scored."""
    levels = {cell.name: changed(cell) for cell in cells_of(finding)}
    same = [name for name in ("size", "encoder", "connector") if levels[first][name] == levels[last][name]]
    four = [name for name, made in levels.items() if all(made[one] == levels[first][one] for one in same)]
    assert len(four) == 4
    each = [set(scores.loc[scores["cell"] == name, "seed"].tolist()) for name in four]
    return set.intersection(*each)


@pytest.mark.parametrize("finding", ALL, ids=lambda f: f.id)
def test_what_it_shows_is_what_was_measured(finding):
    cells = cells_of(finding)
    measured = MEASURES[finding.id](grid_of(np.random.default_rng(7), cells, 5, together=(CROSSED[finding.id], -0.1)))
    shown = finding.shown(measured, [])
    runs, effects = measured[GRID]["runs"], shown.tables["over seeds"]
    one = effects.iloc[0]
    own = runs[(runs["first"] == one["first"]) & (runs["second"] == one["second"]) & (runs["split"] == one["split"])]
    assert one["difference"] == pytest.approx(own["difference"].mean())
    # The interval that the claim is judged by, and no other.
    row = next(row for row in judge_all(finding.claims, measured) if row.claim == one["of"])
    assert (one["low"], one["high"], one["seeds"]) == (row.low, row.high, row.clusters)
    forest = shown.tables["forest"]
    mean = forest.query("series == 'mean'").iloc[0]
    assert mean["relative"] == pytest.approx(100 * one["difference"] / own["reference"].mean())
    assert mean["low"] < mean["relative"] < mean["high"]
    dots = forest[(forest["name"] == mean["name"]) & (forest["series"] == "seed")]["relative"]
    assert dots.tolist() == pytest.approx((100 * own["difference"] / own["reference"].mean()).tolist())
    assert len(shown.summary) == 1 + len(effects)
    assert f"{100 * one['difference']:+.1f} between them" in shown.summary[1]
    drawn = [block for section in finding.sections for block in section.blocks if isinstance(block, FigureOf)]
    assert [block.table for block in drawn] == ["forest"]
    assert all(isinstance(text, str) and "{" not in text for text in (*finding.methods, *finding.caveats))


def test_scores_that_cannot_be_compared():
    lone = grid_scores().query("cell == 'small-clip' and seed == 0 and split == 'heldout'")
    for measure in MEASURES.values():
        with pytest.raises(VlmProbeError) as error:
            measure(lone)
        assert str(error.value) == (
            "no two cells differ in one factor and share a seed and its items, so that nothing can be compared; there "
            "are small-clip (seed 0, 1200 items)"
        )
