"""Dots with intervals: what is drawn is what the table says."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from headed import note_of, one_line
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import same_color

from vlm_probe import figures
from vlm_probe.figures.primitives import forest
from vlm_probe.figures.style import CONTROL, PALETTE


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def face(dot) -> Any:
    return dot.get_facecolor()[0]


def ink(dot) -> Any:
    """The colour of a dot: its face's, or of a hollow one its edge's."""
    return dot.get_edgecolor()[0] if not len(dot.get_facecolor()) or same_color(face(dot), "white") else face(dot)


def dots(ax, color=None):
    """(value, height) of every dot of a colour, from above."""
    found = []
    for one in ax.collections:
        if isinstance(one, PathCollection):
            offsets: Any = one.get_offsets()
            if color is None or (len(offsets) and same_color(ink(one), color)):
                found += [tuple(map(float, at)) for at in offsets]
    return sorted(found, key=lambda at: at[1])


def intervals(ax, color=None):
    """(low, high, height) of every interval of a colour, from above."""
    found = []
    for one in ax.collections:
        if isinstance(one, LineCollection):
            colors: Any = one.get_color()
            if color is None or same_color(colors[0], color):
                ends = [(segment[0], segment[1]) for segment in one.get_segments()]
                found += [(float(a[0]), float(b[0]), float(a[1])) for a, b in ends if a[1] == b[1]]
    return sorted(found, key=lambda at: at[2])


def marks(ax, style):
    """Values of the short lines across, by the row they are on."""
    return {
        round(float(np.mean(segment[:, 1]))): float(segment[0][0])
        for one in ax.collections
        if isinstance(one, LineCollection) and one.get_label() == style
        for segment in one.get_segments()
    }


def rows(ax):
    return [label.get_text() for label in ax.get_yticklabels()]


def legend(ax):
    """What the legend names, of the axes or of their figure."""
    found = ([ax.get_legend()] if ax.get_legend() else []) + ax.figure.legends
    return [text.get_text() for one in found for text in one.get_texts()]


def drawn_at(ax, color, table, value="accuracy"):
    """The dots and intervals of one series are the rows of a table, in the table's order."""
    assert [x for x, _ in dots(ax, color)] == table[value].tolist()
    assert [(low, high) for low, high, _ in intervals(ax, color)] == list(zip(table["low"], table["high"], strict=True))
    assert [y for _, y in dots(ax, color)] == [y for _, _, y in intervals(ax, color)]


ACCURACY = pd.DataFrame(
    {
        "model": ["a"] * 3 + ["b"] * 3,
        "kind": ["color", "shape", "all"] * 2,
        "accuracy": [0.5, 0.75, 0.625, 0.25, 1.0, 0.7],
        # No interval that any formula gives: the drawing follows the table.
        "low": [0.1, 0.7, 0.6, 0.24, 0.2, 0.7],
        "high": [0.9, 0.8, 0.7, 0.99, 1.0, 0.701],
        "chance": [0.2, 0.5, 0.35] * 2,
        "blind": [0.3, 0.4, 0.36] * 2,
        "n": [4, 5, 9] * 2,
    }
)


def test_accuracy_by_type_draws_every_model_at_its_values():
    _, ax = plt.subplots()
    assert figures.accuracy_by_type(ACCURACY, ax) is ax
    for model, color in (("a", PALETTE[0]), ("b", PALETTE[1])):
        drawn_at(ax, color, ACCURACY[ACCURACY["model"] == model])
    assert rows(ax) == ["color (n=4)", "shape (n=5)", "all (n=9)"]
    assert marks(ax, "chance") == {0: 0.2, 1: 0.5, 2: 0.35}
    assert marks(ax, "best guess, image unseen") == {0: 0.3, 1: 0.4, 2: 0.36}
    assert ax.get_xlabel() == "accuracy (share right)"
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first row is the highest
    assert legend(ax) == ["a", "b", "chance", "best guess, image unseen"]


def test_models_stand_side_by_side_within_their_row():
    ax = figures.accuracy_by_type(ACCURACY)
    for row, (first, second) in enumerate(zip(dots(ax, PALETTE[0]), dots(ax, PALETTE[1]), strict=True)):
        assert row - 0.5 < first[1] < second[1] < row + 0.5


def test_models_with_different_numbers_of_items_say_both():
    ax = figures.accuracy_by_type(ACCURACY.assign(n=[4, 5, 9, 6, 5, 11]))
    assert rows(ax) == ["color (n=4 or 6)", "shape (n=5)", "all (n=9 or 11)"]


def test_falsified_ends_are_drawn_as_they_are():
    false = ACCURACY.assign(low=ACCURACY["low"].to_numpy()[::-1], high=0.123)
    ax = figures.accuracy_by_type(false)
    drawn_at(ax, PALETTE[0], false.query("model == 'a'"))
    drawn_at(ax, PALETTE[1], false.query("model == 'b'"))


COMPARISON = pd.DataFrame(
    {
        "family": ["gqa", "pope", "mmvp", "mme"],
        "n": [20, 21, 2, 7],
        "difference": [0.1, -0.2, 0.3, -0.05],
        "low": [0.02, -0.5, np.nan, -0.09],
        "high": [0.15, 0.1, np.nan, -0.01],
        # Of an interval without 0 whose test does not confirm it, too: only the table says so.
        "verdict": ["supported", "undecided", "undecided", "undecided"],
    }
)
COMPARISON.attrs = {"first": "a/small", "second": "b/large"}


def test_difference_by_family_colours_by_the_verdict():
    _, ax = plt.subplots()
    assert figures.difference_by_family(COMPARISON, ax) is ax
    assert dots(ax, PALETTE[0]) == [(0.1, 0.0)]
    assert dots(ax, CONTROL) == [(-0.2, 1.0), (0.3, 2.0), (-0.05, 3.0)]
    assert intervals(ax, PALETTE[0]) == [(0.02, 0.15, 0.0)]
    assert intervals(ax, CONTROL) == [(-0.5, 0.1, 1.0), (-0.09, -0.01, 3.0)]
    assert rows(ax) == ["gqa (n=20)", "pope (n=21)", "mmvp (n=2)", "mme (n=7)"]
    assert ax.get_xlabel() == "score of b/large\nminus a/small\n← a/small scores more\nb/large scores more →"
    assert [np.asarray(line.get_xdata())[0] for line in ax.lines] == [0]
    assert legend(ax) == ["b/large scores more", "undecided", "open: no interval"]
    hollow = [c for c in ax.collections if isinstance(c, PathCollection) and same_color(face(c), "white")]
    drawn = [tuple(map(float, at)) for c in hollow for at in np.ma.getdata(c.get_offsets())]
    assert [at for at in drawn if not np.isnan(at).any()] == [(0.3, 2.0)]
    assert note_of(ax).startswith("two checkpoints on the same items;")


def test_difference_by_family_says_whom_every_verdict_favours():
    table = COMPARISON.assign(verdict=["contradicted", "equivalent", "descriptive", "supported"])
    table.attrs = COMPARISON.attrs
    ax = figures.difference_by_family(table)
    words = ["a/small scores more", "no difference that matters", "not tested", "b/large scores more"]
    assert legend(ax) == [*words, "open: no interval"]
    assert [dots(ax, color)[0][1] for color in PALETTE[:3]] == [3.0, 0.0, 1.0]
    assert dots(ax, CONTROL) == [(0.3, 2.0)]


POINTING = pd.DataFrame(
    {
        "model": ["a", "a", "b", "b"],
        "measure": ["points_other", "points_asked"] * 2,
        "mean": [0.2, 0.6, 0.3, 0.5],
        "low": [0.1, 0.59, 0.29, 0.4],
        "high": [0.5, 0.61, 0.31, 0.9],
        "n": [30, 36] * 2,
    }
)


def test_pointing_game_has_the_asked_object_first():
    _, ax = plt.subplots()
    assert figures.pointing_game(POINTING, ax) is ax
    order = ["points_asked", "points_other"]
    for model, color in (("a", PALETTE[0]), ("b", PALETTE[1])):
        drawn_at(ax, color, POINTING[POINTING["model"] == model].set_index("measure").loc[order], "mean")
    assert rows(ax) == ["an object asked about\n(n=36)", "another of its scene\n(n=30)"]
    assert "share of objects" in ax.get_xlabel()
    assert legend(ax) == ["a", "b"]


def test_probes_have_a_random_encoder_a_model_in_its_colour():
    table = pd.DataFrame(
        {
            "model": ["a", "b"],
            "label": "shape",
            "mean": [0.5, 0.6],
            "low": [0.1, 0.59],
            "high": [0.9, 0.61],
            "random": [0.3, 0.4],
            "pixels": 0.2,
            "common": 0.25,
            "n": 30,
        }
    )
    _, ax = plt.subplots()
    assert figures.probes_with_controls(table, ax) is ax
    for color, own in zip(PALETTE, table.to_dict("records"), strict=False):
        (mean, height), (random, beside) = sorted(dots(ax, color), reverse=True)
        assert (mean, random) == (own["mean"], own["random"])
        assert height == beside
        assert intervals(ax, color) == [(own["low"], own["high"], height)]
    assert marks(ax, "six numbers of the pixels") == {0: 0.2}
    controls = ["six numbers of the pixels", "most frequent label"]
    assert legend(ax) == ["a", "b", "a, random encoder", "b, random encoder", *controls]


MEASURES = pd.DataFrame(
    {"model": "a", "measure": ["right", "found"], "mean": [0.9, 0.1], "low": [0.7, -0.4], "high": [1.3, 0.6], "n": 7}
)


def test_shares_and_their_intervals_end_at_0_and_1():
    _, ax = plt.subplots()
    assert figures.measures_by_model(MEASURES, ax, title="shares", note="95 %") is ax
    assert [x for x, _ in dots(ax)] == [0.9, 0.1]
    assert [(low, high) for low, high, _ in intervals(ax)] == [(0.7, 1.0), (0.0, 0.6)]
    assert ax.get_xlim() == (-0.02, 1.02)
    assert note_of(ax) == "95 %; cut off at 0 and 1"
    assert note_of(figures.measures_by_model(MEASURES.assign(low=0.0, high=1.0), note="95 %")) == "95 %"


def test_what_is_no_share_is_drawn_as_it_is():
    ax = figures.measures_by_model(MEASURES, label="cosine", shares=False)
    assert [(low, high) for low, high, _ in intervals(ax)] == [(0.7, 1.3), (-0.4, 0.6)]
    assert ax.get_xlim()[0] < -0.4
    assert ax.get_xlim()[1] > 1.3
    assert note_of(ax) == ""


SCORES = pd.DataFrame(
    {
        "cell": ["small", "large", "small"],
        "seed": [1, 0, 0],
        "split": "heldout",
        "accuracy": [0.5, 0.8, 0.6],
        "low": [0.49, 0.1, 0.2],
        "high": [0.9, 0.81, 0.61],
        "n": 120,
    }
)


def test_scores_by_seed_has_a_colour_a_seed():
    _, ax = plt.subplots()
    assert figures.scores_by_seed(SCORES, ax) is ax
    drawn_at(ax, PALETTE[0], SCORES.iloc[[2, 1]])
    drawn_at(ax, PALETTE[1], SCORES.iloc[[0]])
    assert rows(ax) == ["small", "large"]
    assert ax.get_xlabel() == "accuracy (share right) on held-out scenes"
    assert note_of(ax) == "n = 120 questions; 95 % intervals over questions, not over trainings"
    assert legend(ax) == ["seed 0", "seed 1"]


DIFFERENCES = pd.DataFrame(
    {
        "first": ["s", "s", "s", "t", "u", "u"],
        "second": ["l", "l", "l", "m", "n", "n"],
        "kind": "all",
        "seed": [0, 1, 2, 0, 0, 1],
        "difference": [0.1, 0.2, 0.4, -0.1, 0.3, 0.31],
    }
)
EFFECTS = pd.DataFrame(
    {
        "first": ["s", "t", "u"],
        "second": ["l", "m", "n"],
        "split": "novel",
        "kind": "all",
        "n": [120, 60, 60],
        "seeds": [3, 1, 2],
        # Neither the mean of the seeds, nor an interval about it, nor what that would decide: only the table says so.
        "difference": [0.25, -0.1, 0.35],
        "low": [-0.3, np.nan, 0.34],
        "high": [0.26, np.nan, 0.36],
        "verdict": ["supported", "undecided", "undecided"],
    }
)


def test_effect_over_seeds_draws_seeds_and_what_the_table_says_of_them():
    ax = figures.effect_over_seeds(DIFFERENCES, EFFECTS)
    black = "#000000"
    assert [x for x, _ in dots(ax, PALETTE[0])] == [0.1, -0.1, 0.3]
    assert [x for x, _ in dots(ax, PALETTE[1])] == [0.2, 0.31]
    assert [x for x, _ in dots(ax, PALETTE[2])] == [0.4]
    assert [x for x, _ in dots(ax, black)] == [0.25]
    assert [x for x, _ in dots(ax, CONTROL)] == [0.35]  # of one seed there is no mean
    assert [(low, high) for low, high, _ in intervals(ax, black)] == [(-0.3, 0.26)]
    assert [(low, high) for low, high, _ in intervals(ax, CONTROL)] == [(0.34, 0.36)]
    assert rows(ax) == ["s to l", "t to m", "u to n"]
    # The two sides are too long for one line.
    assert ax.get_xlabel().endswith("\nthe second is →")
    assert one_line(ax.get_xlabel()) == (
        "change in share right of 60 or 120 questions about scenes with novel kinds "
        "← the first of a pair is right more often the second is →"
    )
    means = [f"mean of seeds and 95 %: {verdict}" for verdict in ("supported", "undecided")]
    assert legend(ax) == ["seed 0", "seed 1", "seed 2", *means]


def test_effect_over_seeds_on_given_axes_leaves_the_legend_to_the_caller():
    _, ax = plt.subplots()
    assert figures.effect_over_seeds(DIFFERENCES, EFFECTS, ax, by="kind", title="size") is ax
    assert legend(ax) == []
    assert rows(ax) == ["all"]


def test_a_change_within_one_pair_names_both_of_it():
    _, ax = plt.subplots()
    figures.effect_over_seeds(DIFFERENCES.iloc[:3], EFFECTS.iloc[:1], ax, by="kind")
    assert ax.get_xlabel().split("\n")[1:] == ["← s is right more often", "l is right more often →"]


PUBLISHED = pd.DataFrame(
    {
        "name": ["GQA", "MMVP", "TextVQA"] * 3,
        "fixed": ["CLIP"] * 3 + ["DINO"] * 3 + ["none"] * 3,
        "relative": [-11.0, 3.0, np.nan, 5.0, np.nan, np.nan, np.nan, np.nan, np.nan],
    }
)


def test_published_effect_names_what_is_missing():
    _, ax = plt.subplots()
    assert figures.published_effect(PUBLISHED, ax, title="size") is ax
    assert [x for x, _ in dots(ax, PALETTE[0])] == [-11.0, 3.0]
    assert [x for x, _ in dots(ax, PALETTE[1])] == [5.0]
    assert intervals(ax) == []
    assert rows(ax) == ["GQA", "MMVP", "TextVQA"]
    assert [t.get_position()[1] for t in ax.texts if t.get_text() == "not at hand"] == [2]
    sides = ["← the first scores higher", "the second scores higher →"]
    assert ax.get_xlabel().split("\n") == ["change relative to the first, %", *sides]
    named = figures.published_effect(PUBLISHED, first="2B", second="7B")
    assert named.get_xlabel() == "change relative to 2B, %\n← 2B scores higher\n7B scores higher →"
    assert legend(ax) == ["CLIP (2 of 3 published)", "DINO (1 of 3 published)", "none (0 of 3 published)"]


CROSSED = pd.DataFrame(
    [
        ("GQA", "paper", "the paper, CLIP", -10.0, np.nan, np.nan),
        ("MMVP", "paper", "the paper, CLIP", np.nan, np.nan, np.nan),
        ("GQA", "paper", "the paper, DINOv2", np.nan, np.nan, np.nan),
        ("MMVP", "paper", "the paper, DINOv2", np.nan, np.nan, np.nan),
        ("s to l,\nheld-out scenes", "seed", "replicas", 2.0, np.nan, np.nan),
        ("s to l,\nheld-out scenes", "seed", "replicas", 5.0, np.nan, np.nan),
        # Neither the mean of the two nor an interval about it: only the table says so.
        ("s to l,\nheld-out scenes", "mean", "mean of seeds", 4.0, -9.0, 4.5),
    ],
    columns=["name", "series", "what", "relative", "low", "high"],
)


def test_interactions_draws_the_paper_beside_the_replicas():
    _, ax = plt.subplots()
    assert figures.interactions(CROSSED, ax, title="size by connector") is ax
    assert [x for x, _ in dots(ax, PALETTE[0])] == [-10.0]
    assert [x for x, _ in dots(ax, PALETTE[2])] == [2.0, 5.0]
    assert [(round(y), x) for x, y in dots(ax, "#000000")] == [(2, 4.0)]
    assert [(low, high) for low, high, _ in intervals(ax)] == [(-9.0, 4.5)]
    assert not any(
        same_color(face(c), "white") for c in ax.collections if isinstance(c, PathCollection) and len(c.get_facecolor())
    )
    assert rows(ax) == ["GQA", "MMVP", "s to l,\nheld-out scenes"]
    assert [t.get_position()[1] for t in ax.texts if t.get_text() == "not at hand"] == [1]
    assert legend(ax) == ["the paper, CLIP", "the paper, DINOv2", "replicas", "mean of seeds"]
    assert [np.asarray(line.get_xdata())[0] for line in ax.lines] == [0]
    sides = ["← the one change adds less", "adds more where the other was made →"]
    assert ax.get_xlabel().split("\n") == ["difference of the two changes, % of the number before both", *sides]
    named = figures.interactions(CROSSED, adds="the 7B", at="with pretraining")
    assert named.get_xlabel().endswith("\n← the 7B adds less\nadds more with pretraining →")
    empty = figures.interactions(CROSSED.iloc[2:4])
    assert dots(empty) == []
    assert [t.get_text() for t in empty.texts].count("not at hand") == 2
    assert list(empty.lines) == []
    assert list(empty.get_xticks()) == []


def test_a_dot_without_an_interval_is_hollow_and_a_row_without_a_value_is_empty():
    table = pd.DataFrame({"name": ["x", "y", "z"], "value": [1.0, np.nan, 3.0], "low": [0.5, 1, np.nan], "high": 2.0})
    _, ax = plt.subplots()
    assert forest(table, ax, y="name", x="value", controls={"value": (":", "again")}) is ax
    assert dots(ax) == [(1.0, 0.0), (3.0, 2.0)]
    hollow = [same_color(face(c), "white") for c in ax.collections if isinstance(c, PathCollection)]
    assert hollow == [False, True, True]  # the last is the legend's
    assert ax.get_legend_handles_labels()[1] == ["open: no interval", "again"]
    assert rows(ax) == ["x", "y", "z"]
    assert marks(ax, "again") == {0: 1.0, 2: 3.0}
