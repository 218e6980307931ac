"""Lines around patches: between those that reach a level of the scale and those that do not, and nowhere else."""

from collections import Counter
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from matplotlib.collections import LineCollection
from matplotlib.colors import same_color
from PIL import Image

from vlm_probe import figures
from vlm_probe.figures.maps import LEVELS, outline
from vlm_probe.figures.style import OUTLINE
from vlm_probe.layout import ImageSpan, ImageTransform

IMAGE = Image.new("RGB", (31, 19), (10, 120, 200))
ROWS, COLS = 5, 3
PATTERNS = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=7))


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def edges_of(inside: np.ndarray) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """Borders where column c begins at 10 c, and row r at 7 r."""
    rows, cols = inside.shape
    found = outline(inside, 10 * np.arange(cols + 1), 7 * np.arange(rows + 1))
    return [(start, end) for start, end in found]


def test_one_patch_has_four_borders_and_two_beside_each_other_six():
    inside = np.zeros((3, 4), dtype=bool)
    inside[1, 1] = True
    upright = {((10, 7), (10, 14)), ((20, 7), (20, 14))}
    assert set(edges_of(inside)) == {*upright, ((10, 7), (20, 7)), ((10, 14), (20, 14))}
    inside[1, 2] = True
    upright = {((10, 7), (10, 14)), ((30, 7), (30, 14))}
    level = {((x, y), (x + 10, y)) for x in (10, 20) for y in (7, 14)}
    assert set(edges_of(inside)) == upright | level


def test_a_hole_has_borders_and_the_rim_of_the_map_has_some():
    inside = np.ones((3, 3), dtype=bool)
    assert len(edges_of(inside)) == 12
    inside[1, 1] = False
    assert len(edges_of(inside)) == 16
    assert edges_of(np.zeros((3, 3), dtype=bool)) == []


@given(PATTERNS)
def test_borders_lie_between_inside_and_outside_and_nowhere_else(inside):
    found = edges_of(inside)
    rows, cols = inside.shape

    def at(row: int, col: int) -> bool:
        return 0 <= row < rows and 0 <= col < cols and bool(inside[row, col])

    expected = {((10 * c, 7 * r), (10 * c, 7 * (r + 1))) for r in range(rows) for c in range(cols + 1)
                if at(r, c - 1) != at(r, c)}  # fmt: skip
    expected |= {((10 * c, 7 * r), (10 * (c + 1), 7 * r)) for r in range(rows + 1) for c in range(cols)
                 if at(r - 1, c) != at(r, c)}  # fmt: skip
    assert len(found) == len(set(found))
    assert set(found) == expected


@given(PATTERNS)
def test_borders_close(inside):
    """As many go out of a corner as come in: no line has an end."""
    ends = Counter(end for border in edges_of(inside) for end in border)
    assert all(number in (2, 4) for number in ends.values())


@given(PATTERNS, st.integers(0, 2**16))
def test_borders_stand_at_the_edges_of_patches_whatever_these_are(inside, seed):
    rng = np.random.default_rng(seed)
    across, down = (np.cumsum(rng.uniform(0.5, 9, n + 1)) - 20 for n in inside.shape[::-1])
    evenly = {
        tuple((float(across[round(x / 10)]), float(down[round(y / 7)])) for x, y in border)
        for border in edges_of(inside)
    }
    assert {tuple(border) for border in outline(inside, across, down)} == evenly


def a_map(transform=None):
    values = np.linspace(0, 1, ROWS * COLS).reshape(ROWS, COLS) ** 2
    span = ImageSpan(np.arange(ROWS * COLS), (ROWS, COLS), np.arange(0), transform=transform)
    coords = span.edges() if transform is not None else {}
    return xr.DataArray(3 * values, dims=("row", "col"), coords=coords)


def lines(ax, color) -> dict[float, list[Any]]:
    """By their width, every line of a colour."""
    found: list[Any] = [one for one in ax.collections if isinstance(one, LineCollection)]
    return {
        round(float(one.get_linewidth()[0]), 3): sorted(np.asarray(one.get_segments()).round(6).tolist())
        for one in found
        if same_color(one.get_color()[0], color)
    }


def around(map_, level, across, down):
    share = map_.values / map_.values.max()
    return sorted(np.asarray(outline(share >= level, across, down)).round(6).tolist())


PADDED = ImageTransform.of(IMAGE.size, (21, 21), pad=True)


@pytest.mark.parametrize("transform", [None, PADDED], ids=["spread", "padded"])
def test_an_overlay_outlines_what_reaches_a_quarter_and_a_half(transform):
    map_ = a_map(transform)
    across, down = np.linspace(0, 31, COLS + 1), np.linspace(0, 19, ROWS + 1)
    if transform is not None:
        across = np.append(map_["left"], map_["right"][-1])
        down = np.append(map_["top"], map_["bottom"][-1])
    for drawn in (map_, map_.transpose("col", "row")):
        ax = figures.overlay(IMAGE, drawn)
        assert lines(ax, OUTLINE) == {wide: around(map_, level, across, down) for level, wide in LEVELS}
        # On white, which is seen on a dark picture.
        assert list(lines(ax, "white").values()) == list(lines(ax, OUTLINE).values())
    assert [level for level, _ in LEVELS] == [0.25, 0.5]


def test_the_scale_decides_what_is_outlined():
    map_ = a_map()
    across, down = np.linspace(0, 31, COLS + 1), np.linspace(0, 19, ROWS + 1)
    ax = figures.overlay(IMAGE, map_, vmax=6)
    assert lines(ax, OUTLINE) == {wide: around(map_, 2 * level, across, down) for level, wide in LEVELS}
    none = figures.overlay(IMAGE, map_, vmax=99)
    assert [found for found in lines(none, OUTLINE).values() if found] == []


def test_a_map_of_heat_has_no_lines():
    ax = figures.overlay(IMAGE, a_map(), mode="heat")
    assert lines(ax, OUTLINE) == {}


def test_every_case_is_outlined_on_its_own_scale():
    panels = [{"image": IMAGE, "map": map_, "boxes": [], "text": "which?"} for map_ in (a_map(), a_map() / 1000)]
    first, second = figures.case_panels(panels, title="cases")
    assert lines(first, OUTLINE) == lines(second, OUTLINE)
    assert all(lines(first, OUTLINE).values())
