"""A map over an image, and one with both signs.

A map over patches is a DataArray(row, col) that carries the pixel edges of its patches: coordinates left and right
along col, top and bottom along row (`ImageSpan.edges`). It is drawn there; without them, over the whole image.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.ticker import MaxNLocator
from PIL import Image

from vlm_probe.figures.given import checked
from vlm_probe.figures.primitives import height_of, on_image
from vlm_probe.figures.style import HEAT, axes, figure_of, styled, titled
from vlm_probe.figures.tables import about, known_of
from vlm_probe.layout import AnyBox
from vlm_probe.layout.boxes import Number


def heat_over(
    ax: Axes, image: Image.Image, map_: xr.DataArray, norm: Normalize, boxes: Sequence[AnyBox], line: Number = 1.4
) -> None:
    """The image in pale colours and the map over it: the more, the less of the image shows through."""
    on_image(image, ax, over=map_, paint=lambda values: HEAT(np.clip(norm(values), 0, 1)), boxes=boxes, line=line)


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
    bar.set_label(label, fontsize=8, parse_math=False)
    bar.ax.tick_params(labelsize=8, length=2)
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
) -> Axes:
    """Draw a map over the original image.

    Parameters
    ----------
    map_: DataArray(row, col), from 0; its attrs give title and units, model and question, its coordinates the place of
        its patches.
    boxes: drawn as outlines; plain tuples are meant in pixels of the original image.
    title: in place of the map's own, and of the line under it that names model and question.
    vmax: upper end of the colour scale; the map's own maximum if None.

    Raises VlmProbeError for a map with other dimensions, and for what is no picture or array.
    """
    with styled():
        ax = axes(ax, (4.3, 3.2 * height_of(image) + 0.6))
        norm = from_zero(map_, vmax)
        heat_over(ax, image, map_, norm, boxes)
        if title is None:
            titled(ax, str(map_.attrs.get("title", "")), known_of(map_.attrs))
        else:
            titled(ax, title)
        if colorbar:
            _beside(ax, norm, str(map_.attrs.get("units", "")))
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
        ax = axes(ax, (4.8, 3.7 * height_of(image) + 0.7))
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
