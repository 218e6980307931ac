"""A map over an image, and one with both signs.

A map over patches is a DataArray(row, col) that carries the pixel edges of its patches: coordinates left and right
along col, top and bottom along row (`ImageSpan.edges`). It is drawn there; without them, over the whole image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import xarray as xr
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Colormap, ListedColormap, Normalize
from matplotlib.ticker import MaxNLocator
from PIL import Image

from vlm_probe.figures.given import checked
from vlm_probe.figures.primitives import edges, height_of, on_image
from vlm_probe.figures.style import HEAT, OUTLINE, axes, figure_of, styled, titled
from vlm_probe.figures.tables import about, known_of
from vlm_probe.layout import AnyBox
from vlm_probe.layout.boxes import Number

Mode = Literal["outline", "heat"]
"""How a map lies over an image: outlined, so that the image can still be seen, or the more, the more opaque."""
LEVELS = ((0.25, 0.9), (0.5, 1.8))
"""What is outlined: patches that reach so much of the scale, by lines of so many points."""
_FAINT = 0.4
"""How opaque a map is that is outlined, of what it is that is not."""


def colors_in(mode: Mode) -> ListedColormap:
    """The colours of a map over an image."""
    if mode == "heat":
        return HEAT
    faint = HEAT(np.linspace(0, 1, HEAT.N))
    faint[:, 3] *= _FAINT
    return ListedColormap(faint, name="faint heat")


def heat_over(
    ax: Axes,
    image: Image.Image,
    map_: xr.DataArray,
    norm: Normalize,
    boxes: Sequence[AnyBox] = (),
    line: Number = 1.4,
    mode: Mode = "heat",
) -> None:
    """The image in pale colours and the map over it."""
    colors = colors_in(mode)

    def paint(values: np.ndarray) -> np.ndarray:
        return colors(np.clip(norm(values), 0, 1))

    on_image(image, ax, over=map_, paint=paint, boxes=boxes, line=line, pale=0.25 if mode == "outline" else 0.55)
    if mode == "outline":
        across, down = edges(map_, image)
        share = np.clip(norm(map_.transpose("row", "col").values), 0, 1)
        for level, wide in LEVELS:
            borders = outline(share >= level, across, down)
            # Dark on white is visible on any picture.
            for lw, color in ((wide + 1.4, "white"), (wide, OUTLINE)):
                ax.add_collection(LineCollection(borders, colors=color, linewidths=lw, capstyle="projecting", zorder=3))


def outline(inside: np.ndarray, across: np.ndarray, down: np.ndarray) -> list[list[tuple[float, float]]]:
    """The borders between patches that are inside and others, edge by edge.

    inside: [row, col]. across, down: pixel edges of columns and rows, one more than there are.

    >>> outline(np.array([[False, True]]), np.array([0, 8, 16]), np.array([0, 8]))[:1]
    [[(8.0, 0.0), (8.0, 8.0)]]
    """
    around = np.pad(inside, 1)
    upright = np.argwhere(around[1:-1, 1:] != around[1:-1, :-1])
    level = np.argwhere(around[1:, 1:-1] != around[:-1, 1:-1])
    x, y = (np.asarray(at, dtype=float).tolist() for at in (across, down))
    found = [[(x[col], y[row]), (x[col], y[row + 1])] for row, col in upright.tolist()]
    return found + [[(x[col], y[row]), (x[col + 1], y[row])] for row, col in level.tolist()]


def from_zero(map_: xr.DataArray, vmax: Number | None = None) -> Normalize:
    """A scale from 0 to the highest of all values, or to `vmax`."""
    return Normalize(0.0, highest(map_) if vmax is None else vmax)


def highest(map_: xr.DataArray) -> float:
    """The upper end of a scale from 0; 1 where nothing is above 0."""
    top = float(np.nanmax(map_.values))
    return top if top > 0 else 1.0


def slim_bar(ax: Axes, norm: Normalize, label: str, colors: Colormap = HEAT) -> None:
    """A colour bar in axes of its own, without a frame."""
    bar = figure_of(ax).colorbar(ScalarMappable(norm, colors), cax=ax)
    bar.set_label(label, fontsize=7, parse_math=False)
    bar.ax.tick_params(labelsize=7, length=2)
    bar.outline.set_visible(False)


def _beside(ax: Axes, norm: Normalize, label: str, colors: Colormap = HEAT) -> None:
    """A colour bar as high as the image is drawn, whatever its shape."""
    bar = ax.inset_axes((1.03, 0.0, 0.035, 1.0))
    slim_bar(bar, norm, label, colors)
    bar.yaxis.set_major_locator(MaxNLocator(5))


@checked
def overlay(
    image: Image.Image,
    map_: xr.DataArray,
    ax: Axes | None = None,
    *,
    boxes: Sequence[AnyBox] = (),
    title: str | None = None,
    vmax: Number | None = None,
    colorbar: bool = True,
    mode: Mode = "outline",
) -> Axes:
    """Draw a map over the original image.

    Parameters
    ----------
    map_: DataArray(row, col), from 0; its attrs give title and units, model and question, its coordinates the place of
        its patches.
    boxes: drawn as outlines; plain tuples are meant in pixels of the original image.
    title: in place of the map's own, and of the line under it that names model and question.
    vmax: upper end of the colour scale; the map's own maximum if None.
    mode: "outline": faint, with lines around the patches that reach a quarter and a half of the scale; "heat": darker
        patches hide what is below them.

    Raises VlmProbeError for a map with other dimensions, and for what is no picture or array.
    """
    with styled():
        ax = axes(ax, 2.6 * height_of(image) + 0.1)
        norm = from_zero(map_, vmax)
        heat_over(ax, image, map_, norm, boxes, mode=mode)
        if title is None:
            titled(ax, str(map_.attrs.get("title", "")), known_of(map_.attrs))
        else:
            titled(ax, title)
        if colorbar:
            _beside(ax, norm, str(map_.attrs.get("units", "")), colors_in(mode))
    return ax


@checked
def signed_overlay(
    image: Image.Image, map_: xr.DataArray, ax: Axes | None = None, *, boxes: Sequence[AnyBox] = ()
) -> Axes:
    """A map with both signs over the image: red speaks for, blue against, clear is nothing.

    map_: DataArray(row, col), as `attribute` returns it; its attrs give title, units, model and question (or prompt),
        and what completeness needs (output, output_baseline, completeness_error and baseline). The note says where
        model or question is not named.

    Raises VlmProbeError for a map with other dimensions, and for what is no picture or array.
    """
    with styled():
        ax = axes(ax, 2.6 * height_of(image) + 0.1)
        most = float(np.nanmax(np.abs(map_.values))) or 1.0
        norm, colors = Normalize(-most, most), colormaps["RdBu_r"]

        def paint(values: np.ndarray) -> np.ndarray:
            painted = colors(norm(values))
            painted[..., 3] = 0.85 * np.abs(values) / most
            return painted

        on_image(image, ax, over=map_, paint=paint, boxes=boxes, pale=0.45)
        note = "; ".join(part for part in (about(map_.attrs), _completeness(map_)) if part)
        titled(ax, str(map_.attrs.get("title", "")), note)
        _beside(ax, norm, str(map_.attrs.get("units", "")), colors)
    return ax


def _completeness(map_: xr.DataArray) -> str:
    error = map_.attrs.get("completeness_error")
    if error is None:
        return ""
    output, base = map_.attrs["output"], map_.attrs["output_baseline"]
    return f"logit {output:.2f}, at the {map_.attrs['baseline']} baseline {base:.2f}; the sum is off by {error:+.2f}"
