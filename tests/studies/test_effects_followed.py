"""What goes with a decided difference: planted at one place and found there, on nothing hardly ever."""

import json
import re
import shutil
from itertools import product

import numpy as np
import pandas as pd
import pytest
from tiny import untyped

from vlm_probe.causal.knockout import ROUTES
from vlm_probe.errors import VlmProbeError
from vlm_probe.studies import (
    at_budget,
    effects_followed,
    grid_differences,
    grid_effects,
    inside,
    reading_differences,
    readings,
    result_tables,
    results,
)
from vlm_probe.studies.inside import ANSWER, FOLLOWED, OTHER_PICTURE, PROPERTIES, SCORED, cut
from vlm_probe.studies.study import STUDIES

SEEDS = 5
BETWEEN = {"encoder": 0.05, "connector": 0.08, "last layer": 0.1}
"""How much the difference of two arms at a place varies from seed to seed (the standard deviation, as small-clip and
large-clip have it at the connector and the last layer over five seeds)."""
ANSWERS_BETWEEN = 0.015
"""Of answers: 0.7 to 4 points in the grid's runs."""
NO_QUESTION, NO_ANSWER, NO_EITHER = (cut(f"image to {end}") for end in ("question", "answer", "both"))
RANDOM = {cut(route, random=True) for route in ROUTES}
PLACES = {
    ("all", SCORED): 0.6,
    ("all", ANSWER): 0.6,
    ("all", OTHER_PICTURE): 0.4,
    **{("shape", place): 0.4 for place in ("encoder", "connector", "last layer")},
    **{("all", cut(route)): 0.4 for route in ROUTES},
    **{("all", place): 0.55 for place in RANDOM},
    ("color", "encoder"): 0.9,
}
QUESTION_LOST = "answers lost without\nattention from question to image"
ANSWER_LOST = "answers lost without\nattention from answer to image"
EITHER_LOST = "answers lost without\nattention from either to image"
PICTURE_LOST = "answers lost with\nanother picture"
EVERYWHERE = dict.fromkeys([("all", place) for place in (SCORED, ANSWER, *RANDOM)], 0.06)
"""What an arm gains whose answers alone are better, by whatever is taken from them here."""


def table_of(rng, gains, seeds=SEEDS, shared=(), splits=("heldout", "novel")):
    """Readings of small-clip and large-clip: the second has gains[(place, kind)] more; shared places are the same."""
    rows = []
    runs = [(seed, split) for seed in range(seeds) for split in splits]
    for (seed, split), (kind, place) in product(runs, PLACES):
        both = PLACES[kind, place] + rng.normal(0, 0.03)
        for arm in ("small-clip", "large-clip"):
            own = 0.0 if (kind, place) in shared else rng.normal(0, BETWEEN.get(place, ANSWERS_BETWEEN) / np.sqrt(2))
            gain = gains.get((kind, place), 0.0) if arm == "large-clip" else 0.0
            n = 449 if place in ("encoder", "connector", "last layer") else 701
            about = {"arm": arm, "seed": seed, "split": split, "kind": kind, "place": place, "n": n}
            rows.append({**about, "share": round((both + own + gain) * n) / n})
    study = STUDIES["grid"]
    table = pd.DataFrame(rows)
    about = pd.DataFrame([{"arm": arm, **result_tables.factors_of(study.arms[arm], study)} for arm in study.arms])
    return about.merge(table, on="arm")


def effects_of(verdict="supported", splits=("heldout", "novel")):
    """As `grid_effects` has them of answers, and of one question type, which nobody follows."""
    about = {"factor": "size", "first": "small-clip", "second": "large-clip", "n": 1400, "seeds": 5, "difference": 0.05}
    rows = [
        {**about, "split": split, "kind": kind, "verdict": verdict} for split in splits for kind in ("all", "shape")
    ]
    return pd.DataFrame(rows)


def followed(table, **given):
    return untyped(effects_followed(effects_of(**given), reading_differences(table)))


def test_every_route_and_property_has_a_place():
    words = {name for what in FOLLOWED.values() for name in (what.place, what.less) if name is not None}
    assert words <= {place for _, place in PLACES}
    assert {what.kind for what in FOLLOWED.values()} <= {"all", *PROPERTIES}
    assert next(iter(FOLLOWED)) == "answers"
    assert {QUESTION_LOST, ANSWER_LOST, EITHER_LOST, PICTURE_LOST} < set(FOLLOWED)


def test_a_decided_difference_is_followed_by_hand():
    rng = np.random.default_rng(0)
    table = table_of(rng, {})
    small, large = ((table["arm"] == arm) & (table["place"] == "connector") for arm in ("small-clip", "large-clip"))
    novel = table["split"] == "novel"
    gains = np.array([0.1, 0.2, 0.3, 0.2, 0.2])
    table.loc[large & novel, "share"] = table.loc[small & novel, "share"].to_numpy() + gains
    found = followed(table, splits=("novel",))
    assert found["kind"].tolist() == list(FOLLOWED)
    assert set(found["split"]) == {"novel"}
    row = found.set_index("kind").loc["shapes read from the connector"]
    # Student's t of 4: 2.776 * 0.0707 / sqrt(5)
    assert (row["difference"], row["low"], row["high"]) == pytest.approx((0.2, 0.2 - 0.0878, 0.2 + 0.0878), abs=1e-3)
    assert (row["verdict"], row["n"], row["seeds"]) == ("supported", 449, 5)


def test_what_is_lost_is_a_difference_of_differences_by_hand():
    places = (ANSWER, NO_QUESTION, *RANDOM)
    table = table_of(np.random.default_rng(7), {}, shared=[("all", place) for place in places])
    control = cut("image to question", random=True)
    large = (table["arm"] == "large-clip") & (table["split"] == "novel")
    # The second arm has 0.01 more under random edges and 0.04 to 0.08 less under the cut.
    table.loc[large & (table["place"] == control), "share"] += 0.01
    table.loc[large & (table["place"] == NO_QUESTION), "share"] -= np.array([0.04, 0.05, 0.06, 0.07, 0.08])
    row = followed(table, splits=("novel",)).set_index("kind").loc[QUESTION_LOST]
    # It loses so much more; held to random edges 0.01 beyond it. Student's t of 4: 2.776 * 0.0158 / sqrt(5)
    assert (row["difference"], row["low"], row["high"]) == pytest.approx((0.06, 0.06 - 0.0196, 0.07 + 0.0196), abs=1e-3)
    whole = {
        (arm, place): own["share"].to_numpy()
        for (arm, place), own in untyped(table.query("split == 'novel'")).groupby(["arm", "place"])
    }
    for arm, column in (("small-clip", "a"), ("large-clip", "b")):
        assert row[column] == pytest.approx((whole[arm, ANSWER] - whole[arm, NO_QUESTION]).mean())


@pytest.mark.parametrize(("by", "verdict"), [(0.0155, "equivalent"), (0.0165, "undecided")])
def test_two_points_do_not_matter(by, verdict):
    table = table_of(np.random.default_rng(8), {}, shared=[("shape", "connector")])
    large = (table["arm"] == "large-clip") & (table["place"] == "connector") & (table["split"] == "novel")
    # Their standard deviation is `by`, so that the interval is 2.776 / sqrt(5) = 1.24 of it wide each way.
    table.loc[large, "share"] += by * np.array([1, -1, 1, -1, 0])
    found = followed(table, splits=("novel",)).set_index("kind")
    assert found.loc["shapes read from the connector", "verdict"] == verdict


def test_effects_stand_in_their_order_whichever_way_they_go():
    effects = pd.concat([effects_of(splits=("novel",)), effects_of("contradicted", splits=("heldout",))])
    found = untyped(effects_followed(effects, reading_differences(table_of(np.random.default_rng(9), {}))))
    assert found["split"].tolist() == ["novel"] * len(FOLLOWED) + ["heldout"] * len(FOLLOWED)
    assert found["kind"].tolist() == [*FOLLOWED, *FOLLOWED]


def test_the_effect_s_own_row_is_the_effect():
    table = table_of(np.random.default_rng(8), {})  # no seed's answers differ, and yet the effect is what was decided
    effects = effects_of().assign(low=0.01, high=0.09, p=0.001, p_holm=0.004, reason="")
    found = untyped(effects_followed(effects, reading_differences(table))).query("kind == 'answers'")
    whole = effects.query("kind == 'all'").drop(columns="kind").reset_index(drop=True)
    assert found.filter(list(whole)).reset_index(drop=True).to_dict("records") == whole.to_dict("records")


def test_what_is_not_decided_is_not_followed():
    table = table_of(np.random.default_rng(1), {})
    assert followed(table, verdict="undecided").empty
    assert followed(table, verdict="equivalent").empty
    other = effects_of().assign(first="small-dino")
    assert effects_followed(other, reading_differences(table)).empty


def test_arms_of_too_few_seeds_are_named():
    found = followed(table_of(np.random.default_rng(2), {("shape", "connector"): 0.3}, seeds=4), splits=("novel",))
    assert found.empty
    assert found.attrs["left_out"] == ["small-clip to large-clip, novel: 4 seeds looked into, 5 do"]
    other = effects_of(splits=("novel",)).assign(first="small-dino")
    found = effects_followed(other, reading_differences(table_of(np.random.default_rng(2), {})))
    assert found.attrs["left_out"] == ["small-dino to large-clip, novel: 0 seeds looked into, 5 do"]


def test_what_two_arms_share_is_equivalent():
    shared = [("shape", "encoder")]
    found = followed(table_of(np.random.default_rng(3), EVERYWHERE, shared=shared)).set_index("kind")
    assert found.loc["shapes read from the encoder", "verdict"].tolist() == ["equivalent"] * 2
    assert found.loc["shapes read from the encoder", "difference"].tolist() == [0, 0]


def simulated(rng, gains, runs):
    """What is called in so many studies of one truth, and their verdicts by words; splits stand for studies here."""
    splits = [str(number) for number in range(runs)]
    found = followed(table_of(rng, gains, splits=splits), splits=splits).query("kind != 'answers'")
    verdicts = found.pivot(index="split", columns="kind", values="verdict").loc[splits]
    decided = verdicts.isin(["supported", "contradicted"])
    return [set(decided.columns[row]) for row in decided.to_numpy()], verdicts


KEPT = EVERYWHERE | {("all", place): 0.06 for place in (OTHER_PICTURE, NO_QUESTION, NO_ANSWER, NO_EITHER)}
"""Six points more in answers, and as much more left wherever the picture or a route is taken away."""


@pytest.mark.parametrize(
    ("planted", "rows"),
    [
        ({("shape", "encoder"): 0.2}, {"shapes read from the encoder"}),
        ({("all", NO_QUESTION): 0.0}, {QUESTION_LOST}),
        ({("all", NO_EITHER): 0.0}, {EITHER_LOST}),
        ({("all", OTHER_PICTURE): 0.0}, {PICTURE_LOST}),
    ],
    ids=["read at the encoder", "carried by one route", "carried by whichever is left", "seen"],
)
def test_a_difference_planted_at_one_place_is_found_there(planted, rows, capsys):
    runs = 200
    called, _ = simulated(np.random.default_rng(4), KEPT | planted, runs)
    found, alone = sum(rows <= at for at in called), sum(rows == at for at in called)
    with capsys.disabled():
        print(f"\n{SEEDS} seeds, 6 points of answers, 20 of shapes: {rows} in {found} of {runs}, no other in {alone}")
    assert found >= 0.5 * runs
    assert alone >= found - 0.07 * runs


def test_what_any_cut_does_is_no_route():
    """An arm that random edges hurt more, and no route; and one whose answers are gone with either."""
    control, runs = cut("image to question", random=True), 200
    fragile, _ = simulated(np.random.default_rng(6), KEPT | {("all", control): -0.06}, runs)
    assert sum(QUESTION_LOST in at for at in fragile) <= 0.05 * runs
    at_the_floor = {("all", control): 0.0, ("all", NO_QUESTION): 0.0}
    _, verdicts = simulated(np.random.default_rng(7), KEPT | at_the_floor, runs)
    assert (verdicts[QUESTION_LOST] == "equivalent").mean() <= 0.05


def test_on_nothing_hardly_any_place_is_called():
    runs = 600
    number = sum(map(bool, simulated(np.random.default_rng(5), KEPT, runs)[0]))
    assert number <= 0.05 * runs, number


def test_runs_that_share_no_seed_are_named():
    table = table_of(np.random.default_rng(9), {})
    apart = table.loc[(table["arm"] == "small-clip") | (table["seed"] > 9)]
    with pytest.raises(VlmProbeError, match=r"there are small-clip \(seed 0, 701 items\), small-clip \(seed 1, "):
        reading_differences(apart)


@pytest.mark.parametrize("what", ["twice", "missing", "of others", "nowhere"])
def test_runs_that_were_not_read_alike_are_refused(what):
    table = untyped(table_of(np.random.default_rng(9), {}))
    one = table.index[(table["place"] == "connector") & (table["seed"] == 3)][:1]
    if what == "twice":
        table = pd.concat([table, table.loc[one]])
    elif what == "missing":
        table = table.drop(one)
    elif what == "nowhere":
        table = table.loc[table["place"] != "connector"]
    else:
        one = table.index[(table["place"] == NO_ANSWER) & (table["seed"] == 3)][:1]
        table.loc[one, "n"] = 97
    word = ANSWER_LOST if what == "of others" else "shapes read from the connector"
    with pytest.raises(VlmProbeError, match=f"^not every run has one reading for {re.escape(repr(word))}; look into"):
        reading_differences(table)


def looked_into(runs, arm, seed, share, *, scored=0.5):
    """What a run leaves that scored 0.5, and was looked into: the model of that run, or one that scores otherwise."""
    folder = runs / f"study-{seed}" / f"seed-{seed}" / arm
    folder.mkdir(parents=True, exist_ok=True)
    row = {"split": "novel", "kind": "all", "place": "answer", "n": 7, "share": share}
    own = [
        {"split": split, "kind": "all", "place": SCORED, "n": 9, "share": share}
        for split, share in (("heldout", 0.5), ("novel", scored))
    ]
    (folder / inside.INSIDE).write_text(json.dumps([*own, row]))
    scores = [{"split": split, "kind": "all", "n": 9, "accuracy": 0.5} for split in ("heldout", "novel", "dev")]
    scored = [{**one, "budget": budget, "scenes": 8} for one in scores for budget in (0.5, 1.0)]
    scored.append({**scored[1], "kind": "color", "accuracy": 0.1})
    made = dict.fromkeys(result_tables.MADE, 1)
    about = {"study": "grid", "also": ["vocabulary"], "arm": arm, "seed": seed, "scores": scored, "made": made}
    (folder / result_tables.SCORES).write_text(json.dumps(about))
    return {"seed": seed, **row}


def test_tables_are_collected_shipped_and_read(tmp_path, monkeypatch):
    runs, package = tmp_path / "runs", tmp_path / "package"
    first = looked_into(runs, "small-clip", 5, 0.25)
    narrow = looked_into(runs, "large-clip-narrow", 2, 0.25)
    looked_into(runs, "of-another-version", 2, 0.25)
    inside.ship(tmp_path / "nothing", package)
    tables = package / "studies" / "tables"
    assert not tables.exists()
    result_tables.ship(runs, package)
    inside.ship(runs, package)
    monkeypatch.setattr(result_tables, "committed_tables", lambda: tables)
    found = readings("vocabulary").query("place == 'answer'")
    assert found.to_dict("records") == [
        {"arm": "large-clip-narrow", "size": "large", "encoder": "clip", "pretrained": True, "vocabulary": 704}
        | {"rows": "narrow", **narrow}
    ]
    grid = readings("grid")
    assert grid.filter(list(first)).query("place == 'answer'").to_dict("records") == [first]
    scored = grid.query("place == 'as scored'").filter(["split", "kind", "n", "share"]).to_numpy().tolist()
    assert scored == [["heldout", "all", 9, 0.5], ["novel", "all", 9, 0.5]]
    # A run that is looked into again takes the place of what was there, and no other's.
    looked_into(runs, "small-clip", 5, 0.75)
    shutil.rmtree(runs / "study-2")
    inside.ship(runs, package)
    assert readings("grid").query("place == 'answer'")["share"].tolist() == [0.75]
    assert readings("vocabulary").query("place == 'answer'")["share"].tolist() == [0.25]
    assert set(readings("grid").filter(["arm", "seed"]).itertuples(index=False, name=None)) == {("small-clip", 5)}
    # An arm of another version stays nobody's.
    file = tables / "inside.csv"
    file.write_text(file.read_text() + "gone-arm,5,novel,all,answer,7,0.5\n")
    # Nor does a model count that scores otherwise than the run, be it on one split alone.
    looked_into(runs, "small-clip", 5, 0.25, scored=0.501)
    inside.ship(runs, package)
    with pytest.raises(VlmProbeError, match="^nobody looked inside a run of study grid yet; "):
        readings("grid")
    looked_into(runs, "small-clip", 5, 0.25)
    inside.ship(runs, package)
    assert len(readings("grid"))
    # What scored otherwise is another run.
    file = tables / "grid.csv"
    file.write_text(file.read_text().replace("novel,all,9,0.5", "novel,all,9,0.25"))
    message = "^nobody looked inside a run of study grid yet; vlm-probe study grid --seeds 5 does$"
    with pytest.raises(VlmProbeError, match=message):
        readings("grid")
    (tables / "inside.csv").unlink()
    with pytest.raises(VlmProbeError, match="^nobody looked inside a run of study vocabulary yet; "):
        readings("vocabulary")


@pytest.mark.parametrize("text", ["", "[{", "[1, 2]", "{}", '[{"split": "novel"}]'])
def test_a_file_that_has_no_readings_is_named(text, tmp_path):
    looked_into(tmp_path, "small-clip", 5, 0.25)
    (file,) = tmp_path.rglob(inside.INSIDE)
    file.write_text(text)
    with pytest.raises(VlmProbeError, match=f"^{file} has no readings .*; without it the run is looked into again$"):
        inside.collect(tmp_path)


def test_what_is_committed_is_of_whole_runs_and_alike_where_arms_share_it():
    table = inside.committed()
    assert list(table) == [*inside.COLUMNS]
    assert not table.duplicated(["arm", "seed", "split", "kind", "place"]).any()
    assert table["share"].between(0, 1).all()
    if table.empty:
        pytest.skip("no run that was looked into is shipped yet")
    for (_, seed), own in untyped(table).groupby(["arm", "seed"]):
        assert set(zip(own["kind"], own["place"], strict=True)) >= set(PLACES)
        assert own["split"].value_counts().nunique() == 1
        assert int(seed) >= 0
    # What no training touches is the same in every arm of a seed.
    same = untyped(table.query("place == 'pixels'"))
    assert (same.groupby(["seed", "split", "kind", "place"])["share"].apply(np.ptp) < 0.01).all()
    # And the answers are those that were scored, but for their number, and that the first token decides.
    shares = untyped(
        table.query("kind == 'all'").pivot(index=["arm", "seed", "split"], columns="place", values="share")
    )
    assert ((shares[inside.SCORED] - shares[ANSWER]).abs() < 0.06).all()


def test_effects_of_answers_name_the_pairs_that_are_followed():
    table = at_budget(results("grid")).query("kind == 'all'")
    effects = grid_effects(grid_differences(table))
    assert {"factor", "first", "second", "split", "kind", "verdict"} <= set(effects)
