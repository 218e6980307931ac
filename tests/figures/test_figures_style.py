"""What all figures share: files, the user's settings, legends and titles, and that nothing is left to warn about."""

import ast
import inspect
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd
import pytest

from vlm_probe import figures
from vlm_probe.figures.style import legend_below, styled, titled
from vlm_probe.figures.tables import counts

TABLE = pd.DataFrame(
    {
        "model": ["a/$x$", "a/$x$", "b", "b"],
        "measure": ["image_mass", "sink_mass"] * 2,
        "layer": 0,
        "mean": [0.1, 0.2, 0.3, 0.4],
        "low": 0.0,
        "high": 0.5,
        "n": 3,
    }
)


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def test_one_drawing_gives_one_and_the_same_file(tmp_path):
    for folder in ("first", "second"):
        figures.save(figures.image_mass_by_layer(TABLE), tmp_path / folder, "mass")
    first, second = ((tmp_path / folder / "mass.svg").read_bytes() for folder in ("first", "second"))
    assert first == second


def test_one_figure_saved_twice_gives_one_and_the_same_file(tmp_path):
    ax = figures.image_mass_by_layer(TABLE)
    paths = [figures.save(ax, tmp_path / folder, "mass") for folder in ("first", "second")]
    assert [p.name for p in paths[0]] == ["mass.png", "mass.svg"]
    for first, second in zip(*paths, strict=True):
        assert first.read_bytes() == second.read_bytes()


def test_saving_closes_the_figure(tmp_path):
    figures.save(figures.image_mass_by_layer(TABLE), tmp_path, "mass")
    assert plt.get_fignums() == []


def test_the_users_settings_are_left_alone(tmp_path):
    with mpl.rc_context({"font.size": 17.0, "axes.spines.top": True, "svg.hashsalt": "mine"}):
        before = dict(mpl.rcParams)
        figures.save(figures.image_mass_by_layer(TABLE), tmp_path, "mass")
        with pytest.raises(ZeroDivisionError), styled():
            raise ZeroDivisionError
        assert dict(mpl.rcParams) == before


def test_importing_the_figures_changes_no_setting():
    assert mpl.rcParams["axes.prop_cycle"] == mpl.rcParamsDefault["axes.prop_cycle"]
    assert mpl.rcParams["font.size"] == mpl.rcParamsDefault["font.size"]


@pytest.mark.parametrize("layout", ["constrained", None])
def test_the_legend_is_below_the_label(layout):
    figure, ax = plt.subplots(layout=layout)
    figures.image_mass_by_layer(TABLE, ax)
    figure.canvas.draw()
    legend = ax.get_legend() or figure.legends[0]
    assert legend.get_window_extent().y1 <= ax.xaxis.label.get_window_extent().y0 + 2


def test_panels_side_by_side_have_a_legend_each():
    figure, panels = plt.subplots(1, 2, layout="constrained")
    for ax in panels:
        figures.image_mass_by_layer(TABLE, ax)
    assert figure.legends == []
    assert all(ax.get_legend() is not None for ax in panels)


def test_nothing_to_name_is_no_legend():
    _, ax = plt.subplots()
    legend_below(ax)
    assert ax.get_legend() is None


def test_long_titles_take_further_lines():
    figure, ax = plt.subplots(figsize=(4, 3), layout="constrained")
    with styled():
        titled(ax, "a question about the model with $very$ many words " * 3, "and what the data are in many words " * 3)
    figure.canvas.draw()
    assert ax.get_title(loc="left").count("\n") >= 4
    drawn: Any = ax  # has no public way to the title on the left
    for text in (drawn._left_title, ax.texts[0]):
        assert text.get_window_extent().x1 <= figure.bbox.x1
        assert text.get_window_extent().y1 <= figure.bbox.y1 + 1


def test_counts_in_words():
    assert counts(pd.DataFrame({"n": [36, 36.0]})) == "36"
    assert counts(pd.DataFrame({"n": [36, 30, float("nan")]})) == "30 or 36"
    assert counts(pd.DataFrame({"n": [3, 1, 2]})) == "1 to 3"
    assert counts(pd.DataFrame({"n": []})) == "?"


FOLDER = Path(inspect.getfile(figures)).parent


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda p: p.stem)
def test_figures_estimate_nothing(path):
    """No means, deviations, quantiles or draws, and seaborn is told to make none."""
    statistics = {"mean", "std", "sem", "var", "median", "quantile", "percentile", "bootstrap", "ppf"}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            assert node.func.attr not in statistics, f"{path.name}:{node.lineno} {node.func.attr}"
            if node.func.attr in ("lineplot", "pointplot", "barplot"):
                told = {keyword.arg: keyword.value for keyword in node.keywords}
                assert isinstance(told["errorbar"], ast.Constant)
                assert told["errorbar"].value is None
                assert isinstance(told["estimator"], ast.Constant)
                assert told["estimator"].value is None


def test_every_public_figure_says_what_it_draws():
    for name in figures.__all__:
        assert (inspect.getdoc(getattr(figures, name)) or "").strip(), name
