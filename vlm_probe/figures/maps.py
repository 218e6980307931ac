"""Maps over an image: one, one with both signs, a strip of layers, a grid of layers and heads, panels of cases.

A map over patches is a DataArray(row, col) that carries the pixel edges of its patches: coordinates left and right
along col, top and bottom along row (`ImageSpan.edges`). It is drawn there; without them, over the whole image.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from PIL import Image

from vlm_probe.figures.primitives import height_of, on_image
from vlm_probe.figures.style import HEAT, axes, headline, styled, titled
from vlm_probe.layout import AnyBox
from vlm_probe.layout.boxes import Number


def _over(
    ax: Axes, image: Image.Image, map_: xr.DataArray, norm: Normalize, boxes: Sequence[AnyBox], line: Number = 1.4
) -> None:
    """The image in pale colours and the map over it: the more, the less of the image shows through."""
    on_image(image, ax, over=map_, paint=lambda values: HEAT(np.clip(norm(values), 0, 1)), boxes=boxes, line=line)


def _norm(map_: xr.DataArray, vmax: Number | None = None) -> Normalize:
    top = float(np.nanmax(map_.values)) if vmax is None else vmax
    return Normalize(0.0, top if top > 0 else 1.0)


def _colorbar(figure: Any, norm: Normalize, ax: Any, label: str, colors: Colormap = HEAT) -> None:
    bar = figure.colorbar(ScalarMappable(norm, colors), ax=ax, shrink=0.85, pad=0.02)
    bar.set_label(label)
    bar.outline.set_visible(False)


def _relative_colorbar(figure: Any, ax: Any) -> None:
    """For panels that have a scale of their own each: from zero to the panel's highest patch."""
    bar = figure.colorbar(ScalarMappable(Normalize(0, 1), HEAT), ax=ax, shrink=0.6, pad=0.01)
    bar.set_ticks([0, 1], labels=["0", "panel's\nhighest"])
    bar.outline.set_visible(False)


def _title(title: str | None, map_: xr.DataArray) -> str:
    return title if title is not None else str(map_.attrs.get("title", ""))


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
    map_: DataArray(row, col), from 0; its attrs give title and units, its coordinates the place of its patches.
    boxes: drawn as outlines; plain tuples are meant in pixels of the original image.
    vmax: upper end of the colour scale; the map's own maximum if None.
    """
    with styled():
        ax = axes(ax, (4.3, 3.2 * height_of(image) + 0.6))
        norm = _norm(map_, vmax)
        _over(ax, image, map_, norm, boxes)
        titled(ax, _title(title, map_))
        if colorbar:
            _colorbar(ax.figure, norm, ax, str(map_.attrs.get("units", "")))
    return ax


def signed_overlay(
    image: Image.Image, map_: xr.DataArray, ax: Axes | None = None, *, boxes: Sequence[AnyBox] = ()
) -> Axes:
    """A map with both signs over the image: red speaks for, blue against, clear is nothing.

    map_: DataArray(row, col), as `attribute` returns it; its attrs give title, units, and what completeness needs
        (output, output_baseline, completeness_error and baseline).
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
        titled(ax, _title(None, map_), _completeness(map_))
        _colorbar(ax.figure, norm, ax, str(map_.attrs.get("units", "")), colors)
    return ax


def _completeness(map_: xr.DataArray) -> str:
    error = map_.attrs.get("completeness_error")
    if error is None:
        return ""
    output, base = map_.attrs["output"], map_.attrs["output_baseline"]
    return f"logit {output:.2f}, at the {map_.attrs['baseline']} baseline {base:.2f}; the sum is off by {error:+.2f}"


def layer_strip(
    image: Image.Image,
    maps: xr.DataArray,
    *,
    boxes: Sequence[AnyBox] = (),
    title: str | None = None,
    columns: int = 6,
) -> Figure:
    """One map a layer, DataArray(layer, row, col), on a shared colour scale."""
    with styled():
        n = maps.sizes["layer"]
        wide, high = min(n, columns), -(-n // columns)
        size = (1.75 * wide + 0.9, (1.7 * height_of(image) + 0.25) * high + 0.5)
        figure, grid = plt.subplots(high, wide, figsize=size, layout="constrained", squeeze=False)
        norm = _norm(maps)
        for i, ax in enumerate(grid.flat):
            if i >= n:
                ax.axis("off")
                continue
            _over(ax, image, maps.isel(layer=i), norm, boxes)
            ax.set_title(f"layer {int(maps.layer[i])}", fontsize=9)
        headline(figure, _title(title, maps))
        _colorbar(figure, norm, list(grid.flat), str(maps.attrs.get("units", "")))
    return figure


def head_grid(
    image: Image.Image,
    maps: xr.DataArray,
    *,
    boxes: Sequence[AnyBox] = (),
    title: str | None = None,
    max_layers: int = 12,
    max_heads: int = 16,
) -> Figure:
    """One map for every head (column) of every layer (row), DataArray(layer, head, row, col).

    Each map has its own colour scale, or the strongest head would hide all others; what it reaches
    is printed in its corner. Deep models show `max_layers` layers, evenly spaced, and the title says
    so.
    """
    with styled():
        layers = np.unique(
            np.linspace(0, maps.sizes["layer"] - 1, min(max_layers, maps.sizes["layer"])).round().astype(int)
        )
        heads = min(max_heads, maps.sizes["head"])
        cell = min(1.3, 12.0 / heads)
        size = (cell * heads + 0.9, cell * height_of(image) * len(layers) + 0.9)
        figure, grid = plt.subplots(len(layers), heads, figsize=size, layout="constrained", squeeze=False)
        for row, layer in zip(grid, layers, strict=True):
            for head, ax in enumerate(row):
                map_ = maps.isel(layer=int(layer), head=head)
                norm = _norm(map_)
                _over(ax, image, map_, norm, boxes, line=0.7)
                black = {"facecolor": "black", "alpha": 0.65, "pad": 0.8, "linewidth": 0}
                reached = {"ha": "right", "va": "bottom", "fontsize": 6.5, "color": "white", "bbox": black}
                ax.text(0.97, 0.03, f"{float(np.nanmax(map_.values)):.2f}", transform=ax.transAxes, **reached)
                if head == 0:
                    words = f"layer {int(maps.layer[int(layer)])}"
                    ax.set_ylabel(words, fontsize=8, rotation=0, ha="right", va="center")
                if layer == layers[0]:
                    ax.set_title(f"head {head}", fontsize=8)
        shown = [f"{len(layers)} of {maps.sizes['layer']} layers"] if len(layers) < maps.sizes["layer"] else []
        shown += [f"{heads} of {maps.sizes['head']} heads"] if heads < maps.sizes["head"] else []
        text = _title(title, maps) + (f" ({', '.join(shown)})" if shown else "")
        headline(figure, text, f"{maps.attrs.get('units', '')}, own scale per head; number: highest patch")
        _relative_colorbar(figure, list(grid.flat))
    return figure


def case_panels(cases: Sequence[dict[str, Any]], *, title: str, columns: int = 4) -> Figure:
    """Several maps with their questions: each case has image, map, boxes and text."""
    with styled():
        high = -(-len(cases) // columns)
        size = (2.5 * columns, (2.3 * height_of(*(case["image"] for case in cases)) + 0.8) * high + 0.4)
        figure, grid = plt.subplots(high, columns, figsize=size, layout="constrained", squeeze=False)
        for ax in grid.flat:
            ax.axis("off")
        for ax, case in zip(grid.flat, cases, strict=False):
            _over(ax, case["image"], case["map"], _norm(case["map"]), case["boxes"])
            ax.axis("on")
            lines = [textwrap.fill(line, 30) for line in case["text"].split("\n")]
            # Text from questions and models is no mathematics, dollar signs or not.
            ax.set_xlabel("\n".join(lines), fontsize=8, parse_math=False)
        headline(figure, title)
        _relative_colorbar(figure, list(grid.flat))
    return figure
