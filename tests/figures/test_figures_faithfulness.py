"""Figures of maps: what stands in the table is drawn, and nothing else."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from headed import note_of, one_line
from matplotlib.collections import PathCollection
from PIL import Image

from vlm_probe.errors import VlmProbeError
from vlm_probe.figures.faithfulness import maps_beyond_random, right_map_right_answer
from vlm_probe.figures.tokens import token_strip

PICTURE = Image.new("RGB", (20, 12), "white")


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def dots(ax) -> set[tuple[float, float]]:
    marks = [one for one in ax.collections if isinstance(one, PathCollection)]
    drawn = [tuple(map(float, at)) for one in marks for at in np.asarray(one.get_offsets()).reshape(-1, 2)]
    return {(round(x, 6), round(y, 6)) for x, y in drawn if np.isfinite(x)}


def test_a_map_stands_beside_that_of_another_picture():
    table = pd.DataFrame(
        {
            "map": ["relevancy through the encoder", "relevancy through the encoder", "centre"],
            "of": ["this item", "another item", "this item"],
            "difference": [0.3, 0.05, -0.1],
            "low": [0.2, -0.05, -0.2],
            "high": [0.4, 0.15, 0.0],
            "n": [40, 40, 40],
        }
    )
    ax = maps_beyond_random(table, note="a model")
    rows = [one.get_text() for one in ax.get_yticklabels()]
    assert [one_line(row) for row in rows] == ["relevancy through the encoder", "centre"]
    assert [row.count("\n") for row in rows] == [1, 0], "long names take two lines"
    assert {x for x, _ in dots(ax)} == {0.3, 0.05, -0.1}
    ends = [tuple(line[:, 0].round(6)) for one in ax.collections for line in getattr(one, "get_segments", list)()]
    assert set(ends) == {(0.2, 0.4), (-0.05, 0.15), (-0.2, 0.0)}
    assert note_of(ax) == "a model; n = 40 items; 95 % intervals over pictures"


def test_right_maps_and_wrong_ones_are_two_dots_a_line():
    table = pd.DataFrame(
        {
            "map": ["relevancy", "relevancy", "knockout", "knockout"],
            "right_map": [True, False, True, False],
            "accuracy": [0.9, 0.6, 1.0, np.nan],
            "low": [0.8, 0.4, 0.9, np.nan],
            "high": [0.95, 0.8, 1.0, np.nan],
            "n": [30, 10, 40, 0],
        }
    )
    ax = right_map_right_answer(table)
    assert [one.get_text() for one in ax.get_yticklabels()] == ["relevancy\n(n=30 + 10)", "knockout\n(n=40 + 0)"]
    assert {x for x, _ in dots(ax)} == {0.9, 0.6, 1.0}


def maps(n: int) -> xr.DataArray:
    values = np.arange(n * 6, dtype=float).reshape(n, 2, 3)
    coords = {"token": [" a", ",", " a", "b"][:n], "probability": ("token", np.linspace(1, 0.25, n))}
    return xr.DataArray(values, dims=("token", "row", "col"), coords=coords, attrs={"title": "Relevancy"})


def test_a_picture_a_token_in_their_order():
    panels = token_strip(PICTURE, maps(4))
    texts = ["1. ␣a\np = 1.00", "2. ,\np = 0.75", "3. ␣a\np = 0.50", "4. b\np = 0.25"]
    assert [ax.get_xlabel() for ax in panels] == texts
    highest = [one.get_text() for ax in panels for one in ax.texts]
    assert highest == ["5.00", "11.00", "17.00", "23.00"]


def test_of_a_long_answer_the_title_says_what_is_left_out():
    (panel,) = token_strip(PICTURE, maps(3), most=1)
    said = " ".join(one.get_text() for one in panel.figure.texts).replace("\n", " ")
    assert "Relevancy (the first 1 of 3 tokens)" in said


def test_what_is_no_strip():
    with pytest.raises(VlmProbeError, match="^token_strip takes maps with the dimensions token, row, col"):
        token_strip(PICTURE, maps(2).isel(token=0))
    with pytest.raises(VlmProbeError, match="^token_strip draws one token or more, got none"):
        token_strip(PICTURE, maps(2).isel(token=slice(0)))
