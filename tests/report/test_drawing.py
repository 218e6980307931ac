"""What a figure says came of the claim it shows, and the tables beside figures."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from matplotlib import pyplot as plt
from PIL import Image
from tiny import untyped

from vlm_probe.findings import questions, run
from vlm_probe.findings.finding import Cases, FigureOf
from vlm_probe.findings.questions import QUESTIONS
from vlm_probe.report import studied
from vlm_probe.report.drawing import chapters, claimed, draw, draw_cases, points, title_of
from vlm_probe.studies.study import ROW_CHANGES


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def figure(*claims: str, says: str = "answers change with the object") -> FigureOf:
    return FigureOf("any", "measures_by_model", "any", "caption", "alt", says=says, claims=claims)


def evidence(*rows: tuple[str, str, str]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["claim", "models", "verdict"])


def test_one_verdict_is_said_once_for_however_many():
    rows = [("object", f"replica/{name}", "supported") for name in "abcde"]
    assert claimed(figure("object"), evidence(*rows[:1])) == "Answers change with the object: supported"
    assert claimed(figure("object"), evidence(*rows)) == "Answers change with the object: supported"


def test_different_verdicts_are_said_by_model():
    rows = [("object", "replica/a", "supported"), ("object", "Intel/b", "undecided"), ("object", "c", "supported")]
    assert claimed(figure("object"), evidence(*rows)) == (
        "Answers change with the object: supported for a, c; undecided for Intel/b"
    )


def test_of_many_verdicts_there_is_a_count():
    rows = [("object", f"replica/{name}", "undecided" if name in "bd" else "supported") for name in "abcde"]
    assert claimed(figure("object"), evidence(*rows)) == "Answers change with the object: 3 supported, 2 undecided"
    # Two claims of one model: "for a" could mean either.
    both = [("color_random", "replica/a", "supported"), ("shape_random", "replica/a", "contradicted")]
    assert claimed(figure("*_random"), evidence(*both)) == (
        "Answers change with the object: 1 supported, 1 contradicted"
    )


def test_nothing_is_said_where_nothing_was_tested():
    assert claimed(figure("object"), evidence()) == ""
    assert claimed(figure("object"), evidence(("object", "replica/a", "descriptive"))) == ""
    assert claimed(figure("object"), evidence(("object_more", "replica/a", "supported"))) == ""
    assert claimed(figure(says=""), evidence(("object", "replica/a", "supported"))) == ""


def test_patterns_name_the_claims_of_a_split_and_no_others():
    rows = [
        ("small-clip to large-clip, heldout", "replicas", "supported"),
        ("small-dino to large-dino, heldout", "replicas", "supported"),
        ("small-clip to large-clip, heldout, along training", "replicas", "contradicted"),
        ("small-clip to large-clip, novel", "replicas", "undecided"),
        ("gqa, CLIP", "the paper", "descriptive"),
    ]
    assert claimed(figure("*, heldout"), evidence(*rows)).endswith(": supported")
    assert claimed(figure("*, heldout", "*, novel"), evidence(*rows)).endswith(": 2 supported, 1 undecided")
    # A claim is named by its whole id, in its case.
    assert claimed(figure("heldout"), evidence(*rows)) == claimed(figure("*, Heldout"), evidence(*rows)) == ""


def test_every_figure_comes_with_its_table_and_is_titled_with_what_came_of_its_claim():
    (chapter,) = chapters(run(["V6"], []))
    drawn = draw(chapter)
    assert list(drawn) == [one.name for one in chapter.figures] == ["size_heldout", "size_novel"]
    for one in chapter.figures:
        made, table = drawn[one.name]
        pd.testing.assert_frame_equal(table, chapter.shown.tables[one.table])
        verdicts = {row["verdict"] for row in chapter.evidence.to_dict("records") if row["claim"] in one.claims}
        assert title_of(made) == f"{one.says}: {verdicts.pop()}"


def test_a_figure_without_a_claim_keeps_its_own_title():
    (chapter,) = chapters(run(["X1"], []))
    untested = chapter.evidence.assign(verdict="descriptive")
    chapter.evidence = untested
    ((made, _),) = draw(chapter).values()
    assert title_of(made) == chapter.figures[0].given["title"]


def test_the_data_of_cases_are_their_maps_patch_by_patch():
    image = Image.new("RGB", (12, 8))
    maps = [xr.DataArray(np.arange(6.0).reshape(2, 3) + i, dims=("row", "col"), attrs={"title": "x"}) for i in range(2)]
    panels = [{"image": image, "map": one, "boxes": [], "text": f"what?\n{i}"} for i, one in enumerate(maps)]
    made, table = draw_cases(Cases("replica/a", "best", "most inside", panels))
    assert title_of(made) == "most inside"
    assert list(table) == ["case", "text", "row", "col", "value"]
    for number, own in table.groupby("case"):
        assert own["text"].unique().tolist() == [f"what?\n{number}"]
        np.testing.assert_array_equal(own.pivot(index="row", columns="col", values="value"), maps[int(str(number))])


def test_a_chapter_tells_what_goes_with_what_is_decided(monkeypatch):
    about = {"factor": "size", "first": "small-clip", "second": "large-clip", "n": 701, "seeds": 5}
    places = [
        ("answers", 0.05, "supported"),
        ("shapes read from the encoder", 0.0, "equivalent"),
        ("answers lost with\nanother picture", 0.06, "supported"),
        ("shapes read from the last layer", -0.07, "contradicted"),
        ("shapes read from the connector", 0.02, "undecided"),
    ]
    rows = [
        {**about, "split": split, "kind": kind, "difference": by, "low": by - 0.1, "high": by + 0.1, "verdict": verdict}
        for split in ("heldout", "novel")
        for kind, by, verdict in places
    ]
    found = pd.DataFrame(rows)
    each = pd.concat([found.assign(seed=seed) for seed in range(5)], ignore_index=True)
    monkeypatch.setattr(questions, "_followed", lambda study: (each, found))
    said = studied.followed_in_words(QUESTIONS["size"])
    assert said == [
        f"small-clip to large-clip, {scenes}: answers +5.0 points. With it: answers lost with another picture (+6.0). "
        "Against it: shapes read from the last layer (-7.0). The same in both: shapes read from the encoder. Not told: "
        "shapes read from the connector."
        for scenes in ("held-out scenes", "scenes with novel kinds")
    ]
    figure, data = studied.followed_drawn(QUESTIONS["size"])
    assert data.equals(found)
    assert title_of(figure) == (
        "What goes with the change by size, over training seeds: 2 supported, 2 contradicted, 2 equivalent, 2 undecided"
    )
    assert len(figure.axes) == 2
    assert studied.followed_in_words(QUESTIONS["encoder"]) == []


@pytest.mark.parametrize("further", [False, True])
def test_what_a_chapter_tells_to_go_with_effects_is_of_the_effects_that_are_decided(further):
    for question in QUESTIONS.values():
        _, found = questions.followed(question, further=further)
        _, effects = questions.studied(question, further=further)
        key = ["first", "second", "split"]
        own = untyped(found.query("kind == 'answers'")).filter([*key, "difference", "verdict"])
        whole = own.merge(effects, on=[*key, "difference", "verdict"])
        assert len(whole) == len(own) == len(studied.followed_in_words(question, further=further))
        assert set(own["verdict"]) <= {"supported", "contradicted"}


def test_a_chapter_tells_what_the_study_says_of_its_factor_alone():
    for name, question in QUESTIONS.items():
        said = studied.in_words(question)
        differences, effects = questions.studied(question)
        assert bool(said) == bool(len(effects)) == (name != "vocabulary")
        if not said:
            continue
        counts = Counter(effects["verdict"].tolist())
        ways = {"supported": "for", "contradicted": "against"}
        for verdict, way in ways.items():
            assert (f"{counts[verdict]} {way} it" in said) == (counts[verdict] > 0)
        assert f"{len(effects) - counts['undecided'] or 'none'} of {len(effects)} comparisons" in said
        figure, data = studied.drawn(question)
        assert data.equals(effects)
        assert "over training seeds: " in title_of(figure)
        table = studied.table(question)
        assert len(table.rows) == len(effects)
        assert {row[table.header.index("difference")] for row in table.rows} == {
            f"{value:.3f}" for value in effects["difference"].tolist()
        }
        # A mean is that of its seeds.
        pair = ["first", "second", "split"]
        seeds = untyped(differences).groupby(pair)["difference"].mean().rename("mean").reset_index()
        both = effects.merge(seeds, on=pair)
        assert len(both) == len(effects)
        np.testing.assert_allclose(both["mean"].to_numpy(), both["difference"].to_numpy())


def test_a_further_study_is_told_change_by_change():
    """What is said of every change is of its own arms, whichever their sizes and scenes."""
    assert [name for name, question in QUESTIONS.items() if question.further] == ["vocabulary", "encoder"]
    question = QUESTIONS["encoder"]
    said = studied.further_in_words(question)
    _, effects = questions.studied(question, further=True)
    assert set(effects["factor"]) == {"encoder"}
    assert len(said) == 7
    assert len(effects) == 7 * 2 * 2, "of two sizes, on two kinds of scenes"
    (one,) = [text for text in said if text.startswith("CLIP without hard twins in place of CLIP ")]
    own = effects.loc[effects["first"].str.endswith("-clip") & effects["second"].str.endswith("-clip-alone")]
    assert len(own) == 4
    low, high = 100 * own["difference"].min(), 100 * own["difference"].max()
    assert f" brings {low:+.1f} to {high:+.1f} points; " in one
    figure, data = studied.drawn(question, further=True)
    assert data.equals(effects)
    assert title_of(figure).startswith("What each change of study encoder brings, over training seeds: ")
    assert len(studied.table(question, further=True).rows) == len(effects)
    assert studied.further_in_words(QUESTIONS["size"]) == []
    assert studied.further_briefly(QUESTIONS["size"]) == ""


def test_changes_of_a_vocabularys_rows_are_told_in_their_words(monkeypatch):
    about = {"factor": "rows", "seeds": 5, "kind": "all", "split": "heldout"}
    rows = [
        {**about, "first": "small-clip-none", "second": "small-clip-dead", "difference": -0.03, "verdict": "undecided"},
        {**about, "first": "large-clip-none", "second": "large-clip-dead", "difference": -0.01, "verdict": "undecided"},
        {
            **about,
            "first": "large-clip-dead",
            "second": "large-clip-trained",
            "difference": 0.04,
            "verdict": "supported",
        },
    ]
    monkeypatch.setattr(questions, "tabled", lambda: ["grid", "vocabulary"])
    monkeypatch.setattr(questions, "_effects", lambda study: (pd.DataFrame(rows), pd.DataFrame(rows)))
    dead, trained = ROW_CHANGES["none", "dead"], ROW_CHANGES["dead", "trained"]
    read = f"{trained} brings +4.0 points; 1 of 1 comparison is decided (1 for it)"
    assert studied.further_in_words(QUESTIONS["vocabulary"]) == [
        f"{dead} brings -3.0 to -1.0 points; none of 2 comparisons is decided",
        read,
    ]
    about = f"Study vocabulary: over 5 training seeds: {read}."
    assert studied.further_briefly(QUESTIONS["vocabulary"]) == about
    few = untyped(pd.DataFrame(rows)).assign(seeds=[5, 1, 5])
    monkeypatch.setattr(questions, "_effects", lambda study: (few, few))
    assert studied.further_briefly(QUESTIONS["vocabulary"]) == f"{about[:-1]}; 1 more of too few seeds."
    one = untyped(few).assign(verdict="undecided")
    monkeypatch.setattr(questions, "_effects", lambda study: (one, one))
    assert studied.further_briefly(QUESTIONS["vocabulary"]) == (
        "Study vocabulary: over 5 training seeds: none of 2 comparisons is decided; 1 more of too few seeds."
    )
    none = untyped(few).assign(seeds=[1, 1, 1])
    monkeypatch.setattr(questions, "_effects", lambda study: (none, none))
    assert studied.further_briefly(QUESTIONS["vocabulary"]) == (
        "Study vocabulary: too little to decide any of 3 comparisons (1 training seed, 5 would do)."
    )


def test_differences_are_told_in_points():
    assert points([0.031, -0.02]) == "-2.0 to +3.1 points"
    assert points([-0.0001]) == "+0.0 points"
    assert points([float("nan"), 0.02]) == points([0.02, float("nan")]) == "+2.0 points"
    assert points([float("nan")]) == "an unknown number of points"
