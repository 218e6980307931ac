"""Maps, words and labels are drawn on the pixels their patches show."""

from typing import get_args

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from headed import note_of, title_of
from matplotlib.collections import QuadMesh
from matplotlib.colors import same_color
from PIL import Image

from vlm_probe import figures
from vlm_probe.errors import VlmProbeError
from vlm_probe.figures.maps import Mode, colors_in
from vlm_probe.figures.primitives import on_image
from vlm_probe.figures.style import HEAT, figure_of
from vlm_probe.layout import AnyBox, ImageSpan, ImageTransform, PixelBox, UnitBox

WIDTH, HEIGHT, ROWS, COLS = 31, 19, 5, 3
IMAGE = Image.new("RGB", (WIDTH, HEIGHT), (10, 120, 200))
PADDED = ImageTransform.of((WIDTH, HEIGHT), (21, 21), pad=True)
CROPPED = ImageTransform.of((WIDTH, HEIGHT), (37, 23), crop=(21, 21))


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
    found = [one for one in ax.collections if isinstance(one, QuadMesh)]
    assert len(found) == 1
    return found[0]


def cells(ax):
    """The box on the image of every patch that is drawn: [row, col, (left, top, right, bottom)]."""
    corners = np.asarray(mesh(ax).get_coordinates())
    return np.concatenate([corners[:-1, :-1], corners[1:, 1:]], axis=-1)


def colors_of(ax):
    """The colour of every patch that is drawn: [row, col, red-green-blue-alpha]."""
    return np.asarray(mesh(ax).get_array()).reshape(ROWS, COLS, 4)


def boxes_of(transform):
    """What the layout says that every patch shows."""
    return np.asarray([[span(transform).patch_to_box(r, c) for c in range(COLS)] for r in range(ROWS)], dtype=float)


def evenly():
    x, y = WIDTH / COLS, HEIGHT / ROWS
    return np.asarray([[(c * x, r * y, (c + 1) * x, (r + 1) * y) for c in range(COLS)] for r in range(ROWS)])


def shows_the_image(ax):
    """All of the image and nothing beyond it, upright."""
    assert ax.get_xlim() == (0, WIDTH)
    assert ax.get_ylim() == (HEIGHT, 0)
    assert tuple(ax.images[0].get_extent()) == (0, WIDTH, HEIGHT, 0)


def bar(ax):
    (one,) = ax.child_axes
    return one


def outlines(ax):
    return [(*p.get_xy(), p.get_x() + p.get_width(), p.get_y() + p.get_height()) for p in ax.patches]


def test_the_padded_map_reaches_beyond_the_image_and_the_cropped_one_does_not_cover_it():
    padded, cropped = boxes_of(PADDED), boxes_of(CROPPED)
    assert padded[0, 0, 1] < 0
    assert padded[-1, -1, 3] > HEIGHT
    assert cropped[0, 0, 0] > 0
    assert cropped[-1, -1, 2] < WIDTH


@pytest.mark.parametrize("mode", get_args(Mode))
@pytest.mark.parametrize("transform", [PADDED, CROPPED], ids=["padded", "cropped"])
def test_overlay_draws_every_patch_on_the_pixels_it_shows(transform, mode):
    map_ = a_map(transform, title="relevancy", units="share")
    _, ax = plt.subplots()
    assert figures.overlay(IMAGE, map_, ax, mode=mode) is ax
    np.testing.assert_allclose(cells(ax), boxes_of(transform), atol=1e-9)
    shows_the_image(ax)
    colors = colors_of(ax)
    expected = HEAT(map_.values / map_.values.max())
    if mode == "outline":
        expected[..., 3] *= 0.4  # the image can still be seen
    np.testing.assert_allclose(colors, expected)
    assert title_of(ax) == "relevancy"
    assert bar(ax).get_ylabel() == "share"


def test_without_edges_the_patches_are_spread_over_the_image():
    np.testing.assert_allclose(cells(figures.overlay(IMAGE, a_map())), evenly())


def test_columns_before_rows_are_the_same_map():
    one, other = (figures.overlay(IMAGE, m) for m in (a_map(PADDED), a_map(PADDED).transpose("col", "row")))
    np.testing.assert_array_equal(colors_of(one), colors_of(other))
    np.testing.assert_allclose(cells(other), boxes_of(PADDED), atol=1e-9)


def test_the_scale_ends_where_it_is_told_to():
    ax = figures.overlay(IMAGE, a_map(), vmax=2, colorbar=False, title="mine")
    assert ax.child_axes == []
    assert title_of(ax) == "mine"
    np.testing.assert_allclose(colors_of(ax)[-1, -1], colors_in("outline")(0.5))


def test_boxes_of_both_types_are_at_the_same_place():
    box = PixelBox(3, 4, 17, 11)
    same: tuple[AnyBox, ...] = (box, box.to_unit(WIDTH, HEIGHT), (box.left, box.top, box.right, box.bottom))
    drawn = [outlines(figures.overlay(IMAGE, a_map(PADDED), boxes=[one])) for one in same]
    for found in drawn:
        np.testing.assert_allclose(found, [box, box])  # white on black
    # Shares that would be a fine box of pixels too.
    found = outlines(figures.overlay(IMAGE, a_map(), boxes=[UnitBox(0, 0, 1, 1)]))
    np.testing.assert_allclose(found[0], (0, 0, WIDTH, HEIGHT))


def test_a_map_of_many_layers_is_refused():
    _, ax = plt.subplots()
    with pytest.raises(VlmProbeError) as error:
        on_image(IMAGE, ax, over=a_map(PADDED, ("layer",), (2,)), paint=HEAT)
    assert str(error.value) == (
        "a map over patches has the dimensions row and col, this one layer, row, col; choose one of the others with "
        ".isel(), or average over it"
    )


def test_signed_overlay_is_red_for_and_blue_against_and_clear_at_nothing():
    values = np.zeros((ROWS, COLS))
    values[0, 0], values[1, 2] = 2.0, -1.0
    told = {"completeness_error": 0.02, "output": 7.0, "output_baseline": -0.5, "baseline": "mean"}
    map_ = a_map(PADDED, title="gradients", units="logits", **told).copy(data=values)
    _, ax = plt.subplots()
    assert figures.signed_overlay(IMAGE, map_, ax, boxes=[(1, 2, 3, 4)]) is ax
    np.testing.assert_allclose(cells(ax), boxes_of(PADDED), atol=1e-9)
    shows_the_image(ax)
    colors = colors_of(ax)
    most, against = colors[0, 0], colors[1, 2]
    assert most[0] > most[2]
    assert against[2] > against[0]
    assert most[3] == pytest.approx(0.85)
    assert against[3] == pytest.approx(0.425)
    assert colors[4, 0, 3] == 0
    assert outlines(ax) == [(1, 2, 3, 4)] * 2
    assert bar(ax).get_ylabel() == "logits"
    rests = "logit 7.00, at the mean baseline -0.50; the sum is off by +0.02"
    assert note_of(ax) == f"model not named; question not named; {rests}"
    named = map_.assign_attrs(model="replica/x", prompt="<bos><image>\nWhat is it?<eot>")
    assert note_of(figures.signed_overlay(IMAGE, named)) == f"replica/x; “What is it?”; {rests}"


def test_overlay_names_model_and_question_where_the_map_does():
    known = a_map(title="relevancy", model="replica/x", question="What $is$ it?")
    ax = figures.overlay(IMAGE, known)
    assert note_of(ax) == "replica/x; “What $is$ it?”"
    assert note_of(figures.overlay(IMAGE, a_map(title="relevancy"))) == ""
    named = figures.overlay(IMAGE, known, title="a panel of several")
    assert (title_of(named), note_of(named)) == ("a panel of several", "")


@pytest.mark.parametrize("size", [(90, 30), (30, 90)], ids=["landscape", "portrait"])
def test_the_colour_bar_is_as_high_as_the_image(size):
    ax = figures.overlay(Image.new("RGB", size), a_map())
    figure_of(ax).canvas.draw()
    image, beside = ax.get_window_extent(), bar(ax).get_window_extent()
    assert (beside.y0, beside.y1) == pytest.approx((image.y0, image.y1), abs=1)
    assert beside.width < image.width / 4


def labels():
    values = np.full((2, ROWS, COLS), "ground", dtype=object)
    values[1, 0, 2], values[1, 3, 1], values[1, 4, 0] = "red", "odd", "red"
    return xr.DataArray(values.astype(str), dims=("item", "row", "col"), coords=span(PADDED).edges())


def test_label_map_draws_an_item_of_many_in_its_labels_colours():
    _, ax = plt.subplots()
    assert figures.label_map(IMAGE, labels().isel(item=1), ax, boxes=[UnitBox(0, 0, 0.5, 1)]) is ax
    np.testing.assert_allclose(cells(ax), boxes_of(PADDED), atol=1e-9)
    colors = colors_of(ax)
    assert {(r, c) for r, c in np.argwhere(colors[..., 3] > 0).tolist()} == {(0, 2), (3, 1), (4, 0)}
    assert same_color(colors[0, 2][:3], "red")
    assert same_color(colors[4, 0][:3], "red")
    assert not same_color(colors[3, 1][:3], "red")
    legend = ax.get_legend()
    assert legend is not None
    assert [t.get_text() for t in legend.get_texts()] == ["odd", "red"]
    np.testing.assert_allclose(outlines(ax)[0], (0, 0, WIDTH / 2, HEIGHT))


def test_label_map_of_nothing_has_no_legend():
    ax = figures.label_map(IMAGE, labels().isel(item=0))
    assert ax.get_legend() is None
    assert ax.figure.legends == []


def words(edges=True):
    grid = [(r, c) for r in range(ROWS) for c in range(COLS)]
    table = pd.DataFrame(grid, columns=["row", "col"])
    table = table.assign(image=0, rank=0, token=[f" w{r}{c}" for r, c in grid], score=np.linspace(0.1, 0.9, len(grid)))
    if edges:
        table = table.assign(
            **dict(zip(["left", "top", "right", "bottom"], boxes_of(PADDED).reshape(-1, 4).T, strict=True))
        )
    more = [table.assign(rank=1, token="second"), table.assign(image=1, token="other")]
    found = pd.concat([table, *more], ignore_index=True)
    found.attrs = {"title": "nearest", "units": "cosine", "model": "replica/x"}
    return found


@pytest.mark.parametrize("edges", [True, False], ids=["where they are", "spread"])
def test_words_stand_in_the_middle_of_their_patches(edges):
    _, ax = plt.subplots()
    assert figures.words_on_image(IMAGE, words(edges), ax) is ax
    at = {t.get_text(): t.get_position() for t in ax.texts if t.get_text().startswith("␣w")}
    boxes = boxes_of(PADDED) if edges else evenly()
    assert len(at) == ROWS * COLS
    for r in range(ROWS):
        for c in range(COLS):
            left, top, right, bottom = boxes[r, c]
            np.testing.assert_allclose(at[f"␣w{r}{c}"], ((left + right) / 2, (top + bottom) / 2), atol=1e-9)
    shows_the_image(ax)
    assert note_of(ax) == "replica/x; question not named; best per patch; cosine 0.10 to 0.90; ␣: a space"
    assert "␣second" not in at
    assert title_of(ax) == "nearest"


def test_words_of_another_image_and_long_ones():
    table = words().assign(token="background")
    ax = figures.words_on_image(IMAGE, table, number=1, longest=5)
    assert [t.get_text() for t in ax.texts].count("back…") == ROWS * COLS


def test_tokens_that_differ_in_a_space_look_different():
    table = words()
    table = table.loc[(table["rank"] == 0) & (table["image"] == 0)].assign(token=[" yellow", "yellow", "\n"] * ROWS)
    table.attrs["prompt"] = "<bos><image><image>What color is it?"
    ax = figures.words_on_image(IMAGE, table)
    drawn = [t.get_text() for t in ax.texts]
    assert [drawn.count(text) for text in ("␣yellow", "yellow", "↵")] == [ROWS] * 3
    assert "“What color is it?”" in note_of(ax)


def test_words_in_the_padding_are_not_written_beside_the_image():
    ax = figures.words_on_image(IMAGE, words())
    assert all(t.get_clip_on() for t in ax.texts if t.get_text().startswith("␣w"))
