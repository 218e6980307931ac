"""Strips, grids and panels: every map on its pixels, on a scale that is stated, without gaps."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from matplotlib.collections import QuadMesh
from PIL import Image

from vlm_probe import figures
from vlm_probe.errors import VlmProbeError
from vlm_probe.figures.style import HEAT, figure_of
from vlm_probe.layout import ImageSpan, ImageTransform, PixelBox, UnitBox

WIDTH, HEIGHT, ROWS, COLS = 31, 19, 5, 3
IMAGE = Image.new("RGB", (WIDTH, HEIGHT), (10, 120, 200))
PADDED = ImageTransform.of((WIDTH, HEIGHT), (21, 21), pad=True)
CROPPED = ImageTransform.of((WIDTH, HEIGHT), (37, 23), crop=(21, 21))
KNOWN = {"title": "attention", "units": "probability", "model": "replica/x", "question": "Is it $5?"}


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def span(transform):
    return ImageSpan(np.arange(ROWS * COLS), (ROWS, COLS), np.arange(0), transform=transform)


def a_map(transform=None, dims=(), sizes=(), **attrs):
    """A map of different values, on its edges where the transform is known."""
    shape = (*sizes, ROWS, COLS)
    values = (1.0 + np.arange(np.prod(shape))).reshape(shape) / np.prod(shape)
    coords = span(transform).edges() if transform is not None else {}
    return xr.DataArray(values, dims=(*dims, "row", "col"), coords=coords, attrs=attrs)


def mesh(ax):
    (found,) = [one for one in ax.collections if isinstance(one, QuadMesh)]
    return found


def cells(ax):
    corners = np.asarray(mesh(ax).get_coordinates())
    return np.concatenate([corners[:-1, :-1], corners[1:, 1:]], axis=-1)


def colors_of(ax):
    return np.asarray(mesh(ax).get_array()).reshape(ROWS, COLS, 4)


def boxes_of(transform):
    return np.asarray([[span(transform).patch_to_box(r, c) for c in range(COLS)] for r in range(ROWS)], dtype=float)


def outlines(ax):
    return [(*p.get_xy(), p.get_x() + p.get_width(), p.get_y() + p.get_height()) for p in ax.patches]


def bar(panels):
    (one,) = [ax for ax in figure_of(panels).axes if not ax.images]
    return one


def said(panels):
    """The figure's title and the note under it."""
    return [" ".join(text.get_text().split()) for text in figure_of(panels).texts]


def test_layer_strip_has_a_panel_a_layer_and_one_scale():
    maps = a_map(CROPPED, ("layer",), (7,), **KNOWN).assign_coords(layer=range(2, 9))
    panels = figures.layer_strip(IMAGE, maps, boxes=[UnitBox(0, 0, 0.5, 0.5)])
    assert [ax.get_title() for ax in panels] == [f"layer {i}" for i in range(2, 9)]
    for i, ax in enumerate(panels):
        np.testing.assert_allclose(cells(ax), boxes_of(CROPPED), atol=1e-9)
        assert (ax.get_xlim(), ax.get_ylim()) == ((0, WIDTH), (HEIGHT, 0))
        np.testing.assert_allclose(colors_of(ax), HEAT(maps.values[i] / maps.values.max()))
        np.testing.assert_allclose(outlines(ax)[0], (0, 0, WIDTH / 2, HEIGHT / 2))
    assert said(panels) == ["attention", "replica/x; “Is it $5?”; one colour scale for all layers"]
    assert bar(panels).get_ylabel() == "probability"
    assert bar(panels).get_ylim() == (0, maps.values.max())


def test_head_grid_has_one_scale_and_says_what_it_left_out():
    maps = a_map(PADDED, ("layer", "head"), (5, 3), **KNOWN)
    maps.values[4, 1] /= 1000  # a head that hardly looks
    maps.values[4, 2] *= 10  # not drawn, and no part of the scale
    panels = figures.head_grid(IMAGE, maps, max_layers=3, max_heads=2)
    assert panels.shape == (3, 2)
    shown = maps.values[[0, 2, 4]][:, :2]
    top = shown.max()
    for ax, values in zip(panels.flat, shown.reshape(-1, ROWS, COLS), strict=True):
        np.testing.assert_allclose(cells(ax), boxes_of(PADDED), atol=1e-9)
        np.testing.assert_allclose(colors_of(ax), HEAT(np.sqrt(values / top)))
    assert [ax.texts[0].get_text() for ax in panels.flat] == ["0.07", "0.13", "0.47", "0.53", "0.87", "<0.01"]
    # What is next to nothing is drawn as next to nothing.
    assert colors_of(panels[2, 1])[..., 3].max() < 0.05 < colors_of(panels[2, 0])[..., 3].max()
    assert [ax.get_ylabel() for ax in panels[:, 0]] == ["layer 0", "layer 2", "layer 4"]
    assert [ax.get_title() for ax in panels[0]] == ["head 0", "head 1"]
    assert said(panels) == [
        "attention",
        "replica/x; “Is it $5?”; 3 of 5 layers (rows), 2 of 3 heads (columns); one colour scale; number: a map's "
        "highest patch",
    ]
    assert " ".join(bar(panels).get_ylabel().split()) == "probability, square-root scale"
    assert bar(panels).get_ylim() == (0, top)


def test_head_grid_of_all_heads_says_so():
    panels = figures.head_grid(IMAGE, a_map(None, ("layer", "head"), (2, 1)))
    assert said(panels) == [
        "all 2 layers (rows), the only head (columns); one colour scale; number: a map's highest patch"
    ]


@pytest.mark.parametrize("size", [(90, 30), (90, 60), (60, 90)], ids=["panorama", "landscape", "portrait"])
def test_panels_leave_no_gaps_and_the_bar_is_slim(size):
    image = Image.new("RGB", size)
    panels = figures.head_grid(image, a_map(None, ("layer", "head"), (3, 2)))
    figure = figure_of(panels)
    figure.canvas.draw()
    boxes = np.asarray([[ax.get_window_extent().extents for ax in row] for row in panels]) / figure.dpi
    heights, widths = boxes[..., 3] - boxes[..., 1], boxes[..., 2] - boxes[..., 0]
    across, down = boxes[:, 1:, 0] - boxes[:, :-1, 2], boxes[:-1, :, 1] - boxes[1:, :, 3]
    # In inches: a hair's breadth.
    np.testing.assert_allclose(np.concatenate([across.ravel(), down.ravel()]), 0.06 + np.zeros(3 + 4), atol=0.03)
    np.testing.assert_allclose(heights / widths, size[1] / size[0], rtol=0.02)
    beside = bar(panels).get_window_extent()
    assert beside.width / figure.dpi == pytest.approx(0.1, abs=0.02)
    assert beside.y1 / figure.dpi <= boxes[..., 3].max() + 0.01
    assert beside.y0 / figure.dpi >= boxes[..., 1].min() - 0.01


def test_no_words_of_a_grid_lie_over_others():
    panels = figures.head_grid(IMAGE, a_map(None, ("layer", "head"), (2, 3), **KNOWN))
    figure = figure_of(panels)
    figure.canvas.draw()
    lowest = min(text.get_window_extent().y0 for text in figure.texts)
    assert lowest >= max(ax.title.get_window_extent().y1 for ax in panels[0])
    assert figure.bbox.y1 >= max(text.get_window_extent().y1 for text in figure.texts)


def cases():
    other = Image.new("RGB", (13, 29))
    return [
        {"image": IMAGE, "map": a_map(PADDED), "boxes": [PixelBox(1, 2, 3, 5)], "text": "what costs $5?\nred $x$"},
        {"image": other, "map": a_map() / 7, "boxes": [UnitBox(0, 0, 1, 1)], "text": "second"},
    ]


def test_case_panels_take_every_case_where_it_is_and_say_that_scales_differ():
    panels = figures.case_panels(cases(), title="most inside", columns=3)
    first, second = panels
    np.testing.assert_allclose(cells(first), boxes_of(PADDED), atol=1e-9)
    assert outlines(first)[0] == (1, 2, 3, 5)
    assert outlines(second)[0] == (0, 0, 13, 29)
    assert cells(second)[-1, -1].tolist() == [13 * 2 / 3, 29 * 4 / 5, 13, 29]
    np.testing.assert_allclose(colors_of(second), colors_of(first))
    assert [ax.texts[0].get_text() for ax in panels] == ["1.00", "0.14"]
    assert first.get_xlabel() == "what costs $5?\nred $x$"
    assert said(panels) == [
        "most inside",
        "every map on a colour scale of its own; number: its highest patch; lines: a quarter and a half of that",
    ]
    assert [text.get_text() for text in bar(panels).get_yticklabels()] == ["0", "its own\nhighest"]
    figure_of(panels).canvas.draw()  # what looks like mathematics is none


def test_cases_without_a_picture_are_one_line():
    bad = cases()
    bad[1]["image"] = "x.png"
    with pytest.raises(VlmProbeError) as error:
        figures.case_panels(bad, title="most inside")
    assert str(error.value) == (
        "case_panels takes a picture (PIL Image) as image, got the text 'x.png'; open a file with PIL.Image.open"
    )
    with pytest.raises(VlmProbeError) as error:
        figures.case_panels([], title="most inside")
    assert str(error.value) == "case_panels draws one case or more, got none"


def test_maps_of_other_dimensions_are_one_line():
    with pytest.raises(VlmProbeError) as error:
        figures.head_grid(IMAGE, a_map(None, ("layer",), (2,)))
    assert str(error.value) == (
        "head_grid takes maps with the dimensions layer, head, row, col, these have layer, row, col"
    )
    with pytest.raises(VlmProbeError) as error:
        figures.layer_strip(IMAGE, a_map(None, ("layer", "head"), (2, 3)))
    assert str(error.value) == (
        "layer_strip takes maps with the dimensions layer, row, col, these have layer, head, row, col; choose one of "
        "head with .isel(), or average over it with .mean(..., keep_attrs=True)"
    )
