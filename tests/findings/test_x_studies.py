"""X2, X3 and V6 on the studies that tell their causes apart: simulated tables with something planted, and with nothing;
and studies of which there is no table, or half of one."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import planting
import pytest
from crossed import N, grid_of, study_table

from vlm_probe import findings
from vlm_probe.errors import VlmProbeError
from vlm_probe.evidence import Verdict, judge_all
from vlm_probe.findings import interactions
from vlm_probe.findings.interactions import GRID, PAPER
from vlm_probe.findings.v6_size import FINDING as V6
from vlm_probe.findings.v6_size import vocabulary_size
from vlm_probe.findings.x2_encoder_size import FINDING as X2
from vlm_probe.findings.x2_encoder_size import encoder_by_size
from vlm_probe.findings.x3_vocabulary_size import FINDING as X3
from vlm_probe.findings.x3_vocabulary_size import vocabulary_by_size
from vlm_probe.studies import results, tabled
from vlm_probe.studies.effects import FEWEST_RUNS
from vlm_probe.studies.study import ROW_CHANGES, SEEING, STUDIES, TAUGHT

SPLITS = ("heldout", "novel")
ROWS = {"dead": 1.0, "trained": 2.0, "narrow": 1.0, "untied": 3.0}
"""Steps of rows that every change goes up by one."""
CASES = {
    "X2": ("encoder", X2, encoder_by_size, {SEEING: 1.0}),
    "X3": ("vocabulary", X3, vocabulary_by_size, ROWS),
}
CORNERS = {
    "X2": [(f"small-{kind}", f"large-{SEEING}") for kind in TAUGHT],
    "X3": [(f"small-clip-{first}", f"large-clip-{second}") for first, second in ROW_CHANGES],
}


def steps(of: dict[str, float], by: float) -> dict[str, float]:
    return {level: by * n for level, n in of.items()}


def measured_of(id, seeds, **planted):
    """What X2 or X3 measures of a simulated study (and X2 of the grid that is committed)."""
    study, _, measure, *_ = CASES[id]
    table = study_table(np.random.default_rng(7), study, seeds, **planted)
    return measure(tables={**({"grid": results("grid")} if id == "X2" else {}), study: table})


def judged(id, measured) -> pd.DataFrame:
    """The claims about the study, not about grids."""
    study, finding, *_ = CASES[id]
    rows = judge_all(finding.claims, measured, finding=id)
    return pd.DataFrame([row for row in rows if study in row.models])


@pytest.mark.parametrize("id", CASES)
def test_what_a_level_does_to_the_larger_model_is_found(id):
    _, finding, _, planted = CASES[id]
    toward = 0.12 if id == "X3" else -0.12
    for by, verdict in ((toward, Verdict.SUPPORTED), (-toward, Verdict.CONTRADICTED)):
        # The most that is planted at the large cell is three steps: it must stay off both ends.
        alone = steps(planted, -by / 2)
        measured = measured_of(id, 7, alone=alone, together=steps(planted, by))
        rows = judged(id, measured)
        tested = rows.loc[rows["verdict"] != Verdict.DESCRIPTIVE]
        assert tested["claim"].tolist() == [f"{a} to {b}, {split}" for a, b in CORNERS[id] for split in SPLITS]
        assert tested["verdict"].tolist() == [verdict] * 8
        assert tested["difference"].to_numpy(dtype=float) == pytest.approx(by, abs=0.05)
        assert set(tested["clusters"]) == {7}
        areas = rows.loc[rows["verdict"] == Verdict.DESCRIPTIVE]
        assert areas["claim"].tolist() == [f"{one}, along training" for one in tested["claim"]]
        assert areas["difference"].to_numpy(dtype=float) == pytest.approx(by, abs=0.05)
        assert areas["p_corrected"].isna().all()
        assert (areas["low"] < areas["high"]).all()
        shown = finding.shown(measured, [])
        over_seeds = shown.tables["over seeds"]
        own = over_seeds.loc[over_seeds["of"].isin(tested["claim"].tolist())]
        assert own["area"].tolist() == areas["difference"].tolist()
        assert own["difference"].tolist() == tested["difference"].tolist()
        assert (
            sum(corner in line for line in shown.summary for corner in (f"{a} to {b}, " for a, b in CORNERS[id])) == 8
        )


def test_one_kind_of_clip_alone_is_told_from_the_others():
    """CLIP that was told of one object helps the larger model more: DINO in its place adds less, and in no other's."""
    rows = judged("X2", measured_of("X2", 7, together={"clip-one": 0.12}))
    tested = rows.loc[rows["verdict"] != Verdict.DESCRIPTIVE].set_index("claim")["verdict"]
    for kind in TAUGHT:
        for split in SPLITS:
            decided = tested[f"small-{kind} to large-{SEEING}, {split}"]
            assert decided == Verdict.SUPPORTED if kind == "clip-one" else not Verdict(decided).decided


@pytest.mark.parametrize("id", CASES)
def test_what_makes_no_difference_that_matters_is_equivalent(id):
    rows = judged(id, measured_of(id, 61, together={}, spread=0.002))
    tested = rows.loc[rows["verdict"] != Verdict.DESCRIPTIVE]
    assert tested["verdict"].tolist() == [Verdict.EQUIVALENT] * 8


@pytest.mark.parametrize("id", CASES)
def test_few_seeds_decide_nothing(id):
    _, _, _, planted = CASES[id]
    rows = judged(id, measured_of(id, 3, together=steps(planted, 0.1)))
    tested = rows.loc[rows["verdict"] != Verdict.DESCRIPTIVE]
    assert set(tested["reason"]) == {"3 training seeds, 5 would do"}


def share_decided(claims, tables: Mapping[str, pd.DataFrame]) -> float:
    """Of great tables of runs, five seeds at a time: how often any claim is decided, corrected as it is printed."""
    by_run = {name: dict(list(runs.groupby(runs["seed"] // FEWEST_RUNS))) for name, runs in tables.items()}
    hits = 0
    for run in range(planting.RUNS):
        rows = judge_all(claims, {name: {"runs": own[run]} for name, own in by_run.items()})
        assert {row.clusters for row in rows} == {FEWEST_RUNS}
        hits += any(row.verdict.decided for row in rows)
    return hits / planting.RUNS


@pytest.mark.parametrize("id", CASES)
def test_with_nothing_there_little_is_decided(id):
    """However much every change does by itself; on one split, since simulated ones are alike."""
    study, finding, measure, planted = CASES[id]
    seeds = planting.RUNS * FEWEST_RUNS
    table = study_table(np.random.default_rng(3), study, seeds, alone=steps(planted, -0.06), budgets=(1.0,))
    measured = measure(tables={"grid": results("grid"), study: table})
    (of,) = {one for one in measured if one.endswith(study)}
    claims = [one for one in finding.claims if one.about == (of,) and one.id.endswith("heldout")]
    assert len(claims) == 4
    assert share_decided(claims, {of: measured[of]["runs"]}) <= planting.MOST


def test_rows_of_a_vocabulary_are_told_apart():
    """V6: what every change of rows does, at either size."""
    for by, verdict in ((0.08, Verdict.SUPPORTED), (-0.08, Verdict.CONTRADICTED)):
        table = study_table(np.random.default_rng(7), "vocabulary", 7, alone=steps(ROWS, by))
        measured = vocabulary_size(tables={"vocabulary": table})
        assert set(measured) == {
            f"replica/{size}-clip-{second} against replica/{size}-clip-{first}"
            for size in ("small", "large")
            for first, second in ROW_CHANGES
        }
        rows = judge_all(V6.claims, measured)
        assert [row.verdict for row in rows] == [verdict] * 16
        assert [row.difference for row in rows] == pytest.approx([by] * 16, abs=0.03)
        shown = V6.shown(measured, [])
        assert len(shown.summary) == 16
        means = shown.tables["novel"].query("seed.isna()")
        assert means["verdict"].tolist() == [verdict] * 8
        assert means["seeds"].tolist() == [7] * 8
    assert shown.summary[0].startswith(
        "replica/small-clip-dead against replica/small-clip-none (a vocabulary with 4,096 rows more that are never "
        f"read): of {N:,} questions about held-out scenes the share right changes by -"
    )


def test_of_rows_that_do_nothing_little_is_said():
    seeds = planting.RUNS * FEWEST_RUNS
    table = study_table(np.random.default_rng(3), "vocabulary", seeds, budgets=(1.0,)).query("size == 'small'")
    found = vocabulary_size(tables={"vocabulary": table})
    assert share_decided(V6.claims[:1], {name: tables["runs"] for name, tables in found.items()}) <= planting.MOST


def test_a_study_without_a_table_leaves_what_is_read_today(monkeypatch):
    """Whichever tables are committed: with the grid's alone nothing is said of other studies, and nothing breaks."""
    grid = results("grid")
    monkeypatch.setattr(interactions, "committed", lambda: {"grid": grid})
    assert list(encoder_by_size()) == [PAPER, GRID, f"{GRID}, along training"]
    shown = X2.shown(encoder_by_size(), [])
    assert not any("dino-128" in line for line in shown.summary)
    monkeypatch.setattr("vlm_probe.findings.x3_vocabulary_size.committed", dict)
    assert list(vocabulary_by_size()) == [GRID]
    monkeypatch.setattr("vlm_probe.findings.v6_size.committed", dict)
    assert list(vocabulary_size()) == ["replica/small-clip-v20480 against replica/small-clip-v320"]
    run = findings.run(["X2", "X3", "V6"], [])
    assert run.skipped == []
    assert set(run.evidence.query("finding == 'X3'")["models"]) == {GRID}
    assert "grid" in tabled()


def test_half_a_table_takes_nothing_from_the_rest():
    """One arm of the study, or arms of one size alone."""
    grid, whole = results("grid"), study_table(np.random.default_rng(7), "encoder", 5)
    for part in (whole.query("arm == 'small-clip'"), whole.query("size == 'small'")):
        measured = encoder_by_size(tables={"grid": grid, "encoder": part})
        assert {PAPER, GRID} <= set(measured)
        rows = [row for row in judge_all(X2.claims, measured) if row.models == GRID]
        assert len(rows) == 4
        shown = X2.shown(measured, [])
        missing = [
            line for line in shown.summary if line.endswith("no training seed has all four cells; 5 seeds would do.")
        ]
        assert len(missing) == (4 if len(part["arm"].unique()) > 1 else 0)
    rows = study_table(np.random.default_rng(7), "vocabulary", 5).query("rows == 'none'")
    with pytest.raises(VlmProbeError, match="^no two arms of the study vocabulary differ in their rows alone"):
        vocabulary_size(tables={"vocabulary": rows})
    with pytest.raises(VlmProbeError, match="^no two cells differ in one factor"):
        vocabulary_by_size(tables={"vocabulary": rows.query("size == 'small'")})


def test_scores_of_ones_own_are_read_in_place_of_every_study():
    rng = np.random.default_rng(7)
    cells = [STUDIES["grid"].arms[name] for name in STUDIES["grid"].arms]
    assert list(encoder_by_size(grid_of(rng, cells, 5))) == [PAPER, GRID]
