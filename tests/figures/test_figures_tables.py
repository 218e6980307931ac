"""Figures that are neither a forest nor lines by layer: matrices, projections, vocabularies."""

from itertools import pairwise
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from headed import note_of, title_of
from matplotlib.colors import same_color

from vlm_probe import figures
from vlm_probe.figures.style import PALETTE


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def legend(ax):
    found = ([ax.get_legend()] if ax.get_legend() else []) + ax.figure.legends
    return [text.get_text() for one in found for text in one.get_texts()]


def texts(ax):
    return [text.get_text() for text in ax.texts]


def lines(ax):
    return [[tuple(map(float, at)) for at in one.get_xydata()] for one in ax.lines if len(one.get_xdata())]


def test_similarity_heatmap_writes_every_number_in_its_cell():
    names = ["vision.blocks.0.hook_resid_post", "connector.hook_out", "language.hook_embed"]
    matrix = pd.DataFrame([[1.0, 0.25, 0.5], [0.75, 0.125, 0.0]], index=names[:2], columns=names)
    matrix.attrs = {"units": "cka", "items": 300}
    _, ax = plt.subplots()
    assert figures.similarity_heatmap(matrix, ax, rows="a", columns="b") is ax
    at = {tuple(text.get_position()): text.get_text() for text in ax.texts}
    for row in range(2):
        for column in range(3):
            assert at[column + 0.5, row + 0.5] == f"{matrix.iloc[row, column]:.2f}"
    cells = ax.collections[0].get_array()
    assert cells is not None
    assert cells.ravel().tolist() == matrix.to_numpy().ravel().tolist()
    assert ax.collections[0].get_clim() == (0, 1)
    assert [t.get_text() for t in ax.get_xticklabels()] == ["V0", "C out", "L embed"]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["V0", "C out"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first row is the highest
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("b", "a")
    assert title_of(ax) == "CKA (linear, debiased)"
    assert note_of(ax) == "n = 300 items"


def test_projection_draws_every_row_in_its_colour():
    table = pd.DataFrame({"x": [0.0, 1, 2, 3], "y": [5.0, 4, 3, 1], "modality": ["image", "text"] * 2})
    table.attrs = {"method": "pca", "explained": [0.4, 0.2], "trustworthiness": 0.9, "title": "language.hook_embed"}
    _, ax = plt.subplots()
    assert figures.projection(table, ax) is ax
    found: dict[Any, Any] = {c.get_label(): c for c in ax.collections}
    for name, color in (("image", PALETTE[0]), ("text", PALETTE[1])):
        own = table.loc[table["modality"] == name, ["x", "y"]]
        assert found[name].get_offsets().tolist() == own.to_numpy().tolist()
        assert same_color(found[name].get_facecolor()[0][:3], color)
    assert ax.get_xlabel() == "first direction (40% of the variance)"
    assert title_of(ax) == "PCA of L embed"
    assert legend(ax) == ["image", "text"]
    trust = "trustworthiness 0.90 (1: all neighbours are true, 0.5: chance)"
    assert note_of(ax) == f"model not named; question not named; n = 4 rows; {trust}"
    table.attrs |= {"model": "replica/x", "question": "What color?"}
    assert note_of(figures.projection(table)) == f"replica/x; “What color?”; n = 4 rows; {trust}"


def test_a_projection_of_many_questions_counts_them():
    table = pd.DataFrame({"x": [0.0, 1, 2, 3], "y": 0.0, "modality": "image", "item": [0, 0, 1, 4]})
    table.attrs = {"method": "umap", "trustworthiness": 0.9, "model": "replica/x"}
    assert note_of(figures.projection(table)).startswith("replica/x; n = 4 rows of 3 questions; trustworthiness 0.90")


def test_likeness_of_two_sets_says_of_what():
    table = pd.DataFrame({"row": ["x", "y"], "column": "z", "cka": [0.25, 0.75], "n": 31})
    _, ax = plt.subplots()
    assert figures.likeness(table, ax, title="How alike are their layers?") is ax
    assert {"0.25", "0.75"} <= set(texts(ax))
    assert note_of(ax) == "n = 31 items"
    assert title_of(ax) == "How alike are their layers?"
    assert title_of(figures.likeness(table)) == "CKA (linear, debiased)"


def test_twin_likeness_counts_pairs_once_and_begins_where_the_data_do():
    table = pd.DataFrame(
        {
            "model": ["a", "a", "b", "b"],
            "id": ["p", "q", "p", "q"],
            "percentile": [0.9, 0.8, 1.0, 0.95],
            "percentile_random": [0.99, 0.97, 0.96, 0.94],
            "both_right": [1.0, 0.0, 1.0, 1.0],
        }
    )
    _, ax = plt.subplots()
    assert figures.twin_likeness(table, ax) is ax
    found: Any = ax.collections
    drawn = {tuple(at): one for one in found for at in np.ma.getdata(one.get_offsets()).tolist()}
    drawn = {at: one for at, one in drawn.items() if not np.isnan(at).any()}
    assert set(drawn) == set(zip(table["percentile_random"], table["percentile"], strict=True))
    assert len(drawn[0.97, 0.8].get_facecolor()) == 0  # not both right: hollow
    assert same_color(drawn[0.99, 0.9].get_facecolor()[0], PALETTE[0])
    assert ax.get_xlim() == ax.get_ylim() == pytest.approx((0.79, 1.01))
    said = "share of other pairs that are less alike (axes not from 0); n = 2 pairs of twins; full: both right"
    assert note_of(ax) == said


def test_budget_bars_stand_end_to_end():
    table = pd.DataFrame(
        {
            "model": ["a"] * 3 + ["b"] * 2,
            "part": ["mlp", "embedding", "encoder", "mlp", "embedding"],
            "parameters": [5e6, 3e6, 2e6, 1e9, 3e9],
        }
    )
    _, ax = plt.subplots()
    assert figures.budget_bars(table, ax=ax) is ax
    patches: Any = ax.patches
    bars = [(p.get_x(), p.get_width(), p.get_y() + p.get_height() / 2) for p in patches if p.get_width() > 0]
    expected = [(0, 0.3, 0), (0.3, 0.5, 0), (0.8, 0.2, 0), (0, 0.75, 1), (0.75, 0.25, 1)]
    np.testing.assert_allclose(sorted(bars, key=lambda b: (b[2], b[0])), expected, atol=1e-12)
    assert {"30%", "50%", "20%", "75%", "25%", "10M", "4B"} <= set(texts(ax))
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "b"]
    assert ax.get_xlabel() == "share of parameters"
    assert title_of(ax) == "What does the vocabulary cost in parameters?"
    key = ax.get_legend()
    assert key is not None
    colors = {text.get_text(): p for text, p in zip(key.get_texts(), key.get_patches(), strict=True)}
    assert same_color(colors["embedding"].get_facecolor(), PALETTE[1])
    assert same_color(colors["encoder"].get_facecolor(), PALETTE[2])
    assert list(colors) == ["embedding", "mlp", "encoder"]  # those that are drawn


def test_budget_bars_say_what_they_are_shares_of():
    table = pd.DataFrame({"model": "a", "part": ["mlp", "norm"], "flops_per_token": [7, 0]})
    ax = figures.budget_bars(table, "flops_per_token")
    assert ax.get_xlabel() == "share of operations for a token"
    assert title_of(ax) == "What does the vocabulary cost in operations for a token?"
    assert legend(ax) == ["mlp"]
    assert note_of(ax) == "counted from the configuration; not drawn, as none is counted: norm"


def test_vocabulary_growth_draws_every_model():
    table = pd.DataFrame({"model": ["a", "a", "b", "b"], "tokens": [10, 100, 10, 100], "used": [5, 20, 7, 50]})
    _, ax = plt.subplots()
    assert figures.vocabulary_growth(table, ax) is ax
    assert lines(ax) == [[(10, 5), (100, 20)], [(10, 7), (100, 50)]]
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("tokens read", "different tokens")
    assert legend(ax) == ["a", "b"]


def test_lines_that_would_hide_each_other_are_one_with_all_names():
    rows = [(model, tokens, used) for model in "abc" for tokens, used in ((10, 5), (100, 20 + 7 * (model == "b")))]
    ax = figures.vocabulary_growth(pd.DataFrame(rows, columns=["model", "tokens", "used"]))
    assert lines(ax) == [[(10, 5), (100, 20)], [(10, 5), (100, 27)]]
    assert legend(ax) == ["a,\nc", "b"]


def test_lines_that_meet_are_all_seen():
    rows = [(model, tokens, used) for model in "abc" for tokens, used in ((1, 1), (10, 5), (100, 20 + ord(model)))]
    ax = figures.vocabulary_growth(pd.DataFrame(rows, columns=["model", "tokens", "used"]))
    drawn = [one for one in ax.lines if len(np.asarray(one.get_xdata()))]
    widths = [one.get_linewidth() for one in drawn]
    assert [one.get_color() for one in drawn] == list(PALETTE[:3])
    # Later lines lie above: each leaves a rim of those below.
    assert all(below - above >= 1 for below, above in pairwise(widths))
    assert len({one.get_zorder() for one in drawn}) == 1
    named = [one.get_linewidth() for one in ax.lines if not len(np.asarray(one.get_xdata()))]
    assert named == widths


def test_shrinking_draws_accuracy_with_its_band_and_what_can_be_spelled():
    table = pd.DataFrame(
        {
            "model": "a",
            "rows": [700, 300, 60],
            "accuracy": [0.9, 0.8, 0.1],
            "low": [0.1, 0.79, 0.05],
            "high": [0.91, 1.0, 0.6],
            "readable": [1.0, 0.95, 0.2],
        }
    )
    table.attrs = {"items": 36}
    _, ax = plt.subplots()
    assert figures.shrinking(table, ax) is ax
    # The whole vocabulary stands behind a gap, as far from the rest whatever its size.
    whole = pytest.approx(300 * 5**0.3)
    right, spelled, gap = lines(ax)
    assert right == [(60, 0.1), (300, 0.8), (whole, 0.9)]
    assert spelled == [(60, 0.2), (300, 0.95), (whole, 1.0)]
    assert 300 < gap[0][0] < right[2][0]
    corners = {tuple(at) for at in np.asarray(ax.collections[0].get_paths()[0].vertices).tolist()}
    at = right[2][0]
    assert corners == {(60, 0.05), (60, 0.6), (300, 0.79), (300, 1.0), (at, 0.1), (at, 0.91)}
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["100", "200", "all: 700"]
    assert len(ax.collections) == 1  # what can be spelled has no band
    assert ax.get_xscale() == "log"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("rows of the vocabulary", "share of all items")
    assert note_of(ax).startswith("n = 36 items; rows kept by frequency")
    assert legend(ax) == ["a", "answered right", "answer can be spelled"]


def test_shrinking_spreads_a_few_hundred_of_many_rows():
    both = {"accuracy": 0.5, "low": 0.4, "high": 0.6, "readable": 1.0, "n": 7}
    sizes = {"a": [262144, 328, 310], "b": [704, 328, 280]}
    table = pd.DataFrame([{"model": model, "rows": rows, **both} for model in sizes for rows in sizes[model]])
    ax = figures.shrinking(table)
    low, high = np.log(ax.get_xlim())
    (start, _), *_, (end, _) = lines(ax)[2]
    assert start == 280
    # Where the smallest and the largest of the small sizes are on the axis.
    least, most = (np.log([280, 328]) - low) / (high - low)
    assert most - least > 0.6
    assert lines(ax)[0][-1][0] == end  # all whole vocabularies are in one place
    assert [tick.get_text() for tick in ax.get_xticklabels()][-1] == "all: 704\nto 262,144"
    alone = figures.shrinking(table.loc[table["rows"] == 704])
    assert lines(alone) == [[(704, 0.5)], [(704, 1.0)]]


def test_shrinking_takes_the_number_of_items_from_a_column():
    table = pd.DataFrame(
        {"model": "a", "rows": [9, 5], "accuracy": 0.5, "low": 0.4, "high": 0.6, "readable": 1, "n": 7}
    )
    assert note_of(figures.shrinking(table)).startswith("n = 7 items;")


def test_indicator_curves_draw_every_kind_of_rows():
    words = ["known to be untrained", "used by the items' text", "all others"]
    rows = [
        {"model": "a", "rows": name, "indicator": at + i, "share": share, "n": 101 + i}
        for i, name in enumerate(words)
        for at, share in ((0.1, 0.0), (0.4, 0.5), (0.9, 1.0))
    ]
    _, ax = plt.subplots()
    assert figures.indicator_curves(pd.DataFrame(rows), ax) is ax
    assert lines(ax) == [[(0.1 + i, 0), (0.4 + i, 0.5), (0.9 + i, 1)] for i in range(3)]
    assert note_of(ax).startswith("n = 101 to 103 rows")
    assert legend(ax) == ["a", *words]


def test_change_over_seeds_draws_seeds_and_their_mean():
    both = {"first": "v3", "second": "v5", "split": "heldout", "kind": "all", "n": 700}
    seeds = [{**both, "seed": seed, "difference": difference} for seed, difference in ((0, 0.1), (1, -0.2), (2, 0.25))]
    mean = {**both, "seeds": 3, "difference": 0.05, "low": -0.4, "high": 0.5, "verdict": "undecided"}
    _, ax = plt.subplots()
    assert figures.change_over_seeds(pd.DataFrame([*seeds, mean]), ax) is ax
    found: list[Any] = [one.get_offsets() for one in ax.collections if hasattr(one, "get_offsets")]
    values = sorted(float(x) for offsets in found for x, _ in offsets.tolist() if len(offsets))
    assert [round(x, 9) for x in values if x] == [-0.2, 0.05, 0.1, 0.25]
    assert ax.get_xlabel().startswith("change in share right of 700 questions about held-out scenes")
    assert [t.get_text() for t in ax.get_yticklabels()] == ["v3 to v5"]
    assert title_of(ax) == "Does the size of the vocabulary itself matter on held-out scenes?"
