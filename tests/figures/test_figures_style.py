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
from vlm_probe.figures.style import axes, figure_of, legend_below, styled, titled
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


def test_one_drawing_gives_one_and_the_same_files(tmp_path):
    kinds = ["mass.png", "mass.svg", "mass.pdf", "mass.csv"]
    for folder in ("first", "second"):
        paths = figures.save(figures.image_mass_by_layer(TABLE), tmp_path / folder, "mass", data=TABLE)
        assert paths == [tmp_path / folder / name for name in kinds]
    assert sorted(path.name for path in (tmp_path / "first").iterdir()) == sorted(kinds)
    for name in kinds:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes(), name


def test_one_figure_saved_twice_gives_one_and_the_same_file(tmp_path):
    ax = figures.image_mass_by_layer(TABLE)
    paths = [figures.save(ax, tmp_path / folder, "mass") for folder in ("first", "second")]
    assert [p.name for p in paths[0]] == ["mass.png", "mass.svg", "mass.pdf"]
    for first, second in zip(*paths, strict=True):
        assert first.read_bytes() == second.read_bytes()


def test_the_data_of_a_figure_are_the_table_it_shows(tmp_path):
    # An index is no column of it, and a value keeps its last digit.
    table = TABLE.assign(mean=[0.1, 1 / 3, float("nan"), 2e-17]).iloc[::-1]
    *_, path = figures.save(figures.image_mass_by_layer(table), tmp_path, "mass", data=table)
    pd.testing.assert_frame_equal(pd.read_csv(path), table.reset_index(drop=True))


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


def test_a_title_makes_the_figure_higher_and_takes_nothing_from_its_axes():
    with styled():
        bare, named = (axes(None) for _ in range(2))
        titled(bare, "")
        titled(named, "a question about the model with $very$ many words " * 3, "what the data are " * 9)
    for ax in (bare, named):
        figure_of(ax).canvas.draw()
    before, after = (figure_of(ax).get_size_inches() for ax in (bare, named))
    assert before[0] == after[0]
    assert after[1] - before[1] > 0.8
    drawn = [ax.get_window_extent().height for ax in (bare, named)]
    assert drawn[1] == pytest.approx(drawn[0], abs=2)


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
