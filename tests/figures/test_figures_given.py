"""Every public figure returns its axes, and names what is no table, array or picture in one line."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from matplotlib.axes import Axes
from PIL import Image

from vlm_probe import figures
from vlm_probe.errors import VlmProbeError

DRAWN = [name for name in figures.__all__ if name not in ("save", "styled")]
GOOD: dict[Any, Any] = {
    pd.DataFrame: pd.DataFrame({"model": ["a"]}),
    xr.DataArray: xr.DataArray(np.zeros((2, 3)), dims=("row", "col")),
    Image.Image: Image.new("RGB", (3, 2)),
    Sequence: [],
    str: "shape",
}
SAID: dict[Any, tuple[str, str]] = {
    pd.DataFrame: ("a table (pandas DataFrame)", "read a file with pandas.read_csv or pandas.read_parquet"),
    xr.DataArray: ("a DataArray over patches", "vlm_probe.attention and vlm_probe.embedding return such arrays"),
    Image.Image: ("a picture (PIL Image)", "open a file with PIL.Image.open"),
    Axes: ("matplotlib Axes", "matplotlib.pyplot.subplots makes some"),
    Sequence: ("a list", "put a single one into a list"),
}


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def parameters(name):
    return inspect.signature(getattr(figures, name), eval_str=True).parameters


def kind(annotation):
    """What of `SAID` an annotation asks for, None for anything else."""
    options = [get_origin(one) or one for one in (annotation, *get_args(annotation))]
    return next((one for one in options if one in SAID), None)


ASKED = [(name, one) for name in DRAWN for one in parameters(name) if kind(parameters(name)[one].annotation)]


@pytest.mark.parametrize("name", DRAWN)
def test_every_figure_returns_its_axes(name):
    """Annotations hold: what is returned is checked by them in every test."""
    returned = inspect.signature(getattr(figures, name), eval_str=True).return_annotation
    assert returned in (Axes, np.ndarray)
    # Who can draw on given axes returns those; of several panels there is an array.
    assert (returned is Axes) == ("ax" in parameters(name))


@pytest.mark.parametrize("name", DRAWN)
def test_every_figure_asks_for_data(name):
    assert {one for of, one in ASKED if of == name} - {"ax", "boxes"}


@pytest.mark.parametrize(("name", "parameter"), ASKED)
@pytest.mark.parametrize("wrong", ["x.png", Path("x.png")], ids=["text", "path"])
def test_a_file_in_place_of_data_is_one_line(name, parameter, wrong):
    given = {
        one: GOOD[kind(about.annotation) or about.annotation]
        for one, about in parameters(name).items()
        if about.default is inspect.Parameter.empty
    }
    words, advice = SAID[kind(parameters(name)[parameter].annotation)]
    with pytest.raises(VlmProbeError) as error:
        getattr(figures, name)(**{**given, parameter: wrong})
    what = "text" if isinstance(wrong, str) else "path"
    assert str(error.value) == f"{name} takes {words} as {parameter}, got the {what} 'x.png'; {advice}"
    assert plt.get_fignums() == [], "nothing is drawn"


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (None, "None"),
        ({"model": ["a"]}, "an object of type dict"),
        ("x" * 99, f"the text '{'x' * 59}…'"),
    ],
)
def test_what_was_given_is_named(wrong, named):
    with pytest.raises(VlmProbeError) as error:
        figures.budget_bars(wrong)
    assert str(error.value) == (
        f"budget_bars takes a table (pandas DataFrame) as table, got {named}; read a file with pandas.read_csv or "
        "pandas.read_parquet"
    )


def test_the_images_of_a_prompt_in_place_of_its_picture_are_one_line():
    wrong: Any = [GOOD[Image.Image]]  # inputs.images[0], where [0][0] is the picture
    with pytest.raises(VlmProbeError) as error:
        figures.overlay(wrong, GOOD[xr.DataArray])
    assert str(error.value) == (
        "overlay takes a picture (PIL Image) as image, got an object of type list; open a file with PIL.Image.open"
    )


def test_too_few_arguments_are_still_pythons_own_error():
    draw: Any = figures.overlay
    with pytest.raises(TypeError):
        draw(GOOD[Image.Image])


def test_saving_takes_figures_axes_and_arrays_of_axes(tmp_path):
    figure, panels = plt.subplots(2, 2)
    for drawn in (figure, panels[0, 0], panels):
        assert [path.name for path in figures.save(drawn, tmp_path, "x")] == ["x.png", "x.svg", "x.pdf"]
    wrong: Any = "x.png"
    with pytest.raises(VlmProbeError) as error:
        figures.save(wrong, tmp_path, "x")
    assert str(error.value) == (
        "save takes a figure, axes or an array of axes as drawn, got the text 'x.png'; every function of "
        "vlm_probe.figures returns its axes"
    )
