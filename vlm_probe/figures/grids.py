"""Many maps over images: a strip of layers, a grid of layers and heads, panels of cases.

All panels of a figure are on one colour scale that its bar states, or the figure says that each has its own.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, PowerNorm
from PIL import Image

from vlm_probe.errors import VlmProbeError
from vlm_probe.figures.given import check_dimensions, check_pictures, checked
from vlm_probe.figures.maps import colors_in, from_zero, heat_over, highest, slim_bar
from vlm_probe.figures.primitives import height_of
from vlm_probe.figures.style import figure_of, headline, styled
from vlm_probe.figures.tables import known_of
from vlm_probe.layout import AnyBox

_NARROWEST = 4.2
"""Inches: what headlines need."""
_BAR = 0.95
"""Inches beside the panels, for the colour bar with its words."""


def _panels(
    rows: int,
    columns: int,
    size: tuple[float, float],
    title: str,
    note: str,
    *,
    left: float = 0.05,
    above: float = 0.05,
    below: float = 0.05,
    gap: float = 0.06,
    names: float = 0.0,
) -> tuple[np.ndarray, Axes]:
    """Panels [row, column] under a headline, and the axes of a slim colour bar beside them.

    Everything in inches, since a layout that shares out what room there is leaves gaps between landscapes.

    size: width and height of a panel. left, names: of all panels, for the names of rows, and above all, for those of
    columns. above, below: every panel, for its title and its text. gap: between panels.
    """
    across = columns * size[0] + (columns - 1) * gap
    down = rows * (size[1] + above + below) + (rows - 1) * gap
    wide = max(left + across + _BAR, _NARROWEST)
    figure = plt.figure(figsize=(wide, down))
    # How many lines the headline takes depends on the width alone.
    head = headline(figure, title, note) + 0.03 + names
    high = down + head
    figure.set_size_inches(wide, high)
    grid = np.empty((rows, columns), dtype=object)
    for row in range(rows):
        bottom = high - head - above - size[1] - row * (size[1] + above + below + gap)
        for column in range(columns):
            start = left + column * (size[0] + gap)
            place = (start / wide, bottom / high, size[0] / wide, size[1] / high)
            grid[row, column] = figure.add_axes(place)
    tall = min(down - above - below, 1.9)
    bar = figure.add_axes(((left + across + 0.12) / wide, (high - head - above - tall) / high, 0.1 / wide, tall / high))
    return grid, bar


def _wrapped(words: str, bar: Axes) -> str:
    """The bar's words in lines as long as it is high."""
    high = bar.get_position().height * figure_of(bar).get_figheight()
    return textwrap.fill(words, max(12, int(high * 72 / (8 * 0.52))), break_on_hyphens=False)


def _own_scales(bar: Axes) -> None:
    """For panels that have a scale of their own each: from zero to the panel's highest patch."""
    slim_bar(bar, Normalize(0, 1), "", colors_in("outline"))
    bar.set_yticks([0, 1], ["0", "its own\nhighest"])


def _reached(ax: Axes, map_: xr.DataArray) -> None:
    """The highest patch of a map, as a number in the corner."""
    top = float(np.nanmax(map_.values))
    black = {"facecolor": "black", "alpha": 0.65, "pad": 0.8, "linewidth": 0}
    look: dict[str, Any] = {"ha": "right", "va": "bottom", "fontsize": 6.5, "color": "white", "bbox": black}
    ax.text(0.97, 0.03, "<0.01" if 0 < top < 0.005 else f"{top:.2f}", transform=ax.transAxes, **look)


def _title(title: str | None, map_: xr.DataArray) -> str:
    return title if title is not None else str(map_.attrs.get("title", ""))


def _joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part)


@checked
def layer_strip(
    image: Image.Image,
    maps: xr.DataArray,
    *,
    boxes: Sequence[AnyBox] = (),
    title: str | None = None,
    columns: int = 6,
) -> np.ndarray:
    """One map a layer, on one colour scale; the layers' axes [layer].

    maps: DataArray(layer, row, col), from 0; attrs give title, units, model and question.

    Raises VlmProbeError for maps with other dimensions, and for what is no picture or array.
    """
    check_dimensions("layer_strip", maps, "layer", "row", "col")
    with styled():
        n = maps.sizes["layer"]
        wide, high = min(n, columns), -(-n // columns)
        size = (1.7, 1.7 * height_of(image))
        note = _joined(known_of(maps.attrs), "one colour scale for all layers")
        grid, bar = _panels(high, wide, size, _title(title, maps), note, above=0.2)
        panels, norm = grid.ravel(), from_zero(maps)
        for ax, layer in zip(panels, range(n), strict=False):
            heat_over(ax, image, maps.isel(layer=layer), norm, boxes)
            ax.set_title(f"layer {int(maps.layer[layer])}", fontsize=9, pad=3)
        for ax in panels[n:]:
            ax.remove()
        slim_bar(bar, norm, _wrapped(str(maps.attrs.get("units", "")), bar))
    return panels[:n]


@checked
def head_grid(
    image: Image.Image,
    maps: xr.DataArray,
    *,
    boxes: Sequence[AnyBox] = (),
    title: str | None = None,
    max_layers: int = 12,
    max_heads: int = 16,
) -> np.ndarray:
    """Maps of heads (columns) of layers (rows), on one colour scale; their axes [layer, head].

    The scale is that of the square root, or the strongest head would hide all others, and is the same for all: what is
    drawn as strongly is as much. What a map reaches is printed in its corner. Deep models show `max_layers` layers,
    evenly spaced, and the note says how many of how many layers and heads are drawn.

    maps: DataArray(layer, head, row, col), from 0; attrs give title, units, model and question.

    Raises VlmProbeError for maps with other dimensions, and for what is no picture or array.
    """
    check_dimensions("head_grid", maps, "layer", "head", "row", "col")
    with styled():
        layers = np.unique(
            np.linspace(0, maps.sizes["layer"] - 1, min(max_layers, maps.sizes["layer"])).round().astype(int)
        )
        heads = min(max_heads, maps.sizes["head"])
        cell = min(1.3, 12.0 / heads)
        shown = maps.isel(layer=layers, head=slice(heads))
        counted = f"{_of(len(layers), maps.sizes['layer'], 'layer')} (rows), {_of(heads, maps.sizes['head'], 'head')}"
        note = _joined(known_of(maps.attrs), f"{counted} (columns); one colour scale; number: a map's highest patch")
        size = (cell, cell * height_of(image))
        room = {"left": 0.55, "names": 0.18, "above": 0.0, "below": 0.0}
        grid, bar = _panels(len(layers), heads, size, _title(title, maps), note, **room)
        norm = PowerNorm(0.5, 0.0, highest(shown))
        for row, axes_of_layer in enumerate(grid):
            for head, ax in enumerate(axes_of_layer):
                map_ = shown.isel(layer=row, head=head)
                heat_over(ax, image, map_, norm, boxes, line=0.7)
                _reached(ax, map_)
                if head == 0:
                    words = f"layer {int(maps.layer[int(layers[row])])}"
                    ax.set_ylabel(words, fontsize=7.5, rotation=0, ha="right", va="center")
                if row == 0:
                    ax.set_title(f"head {head}", fontsize=7.5, pad=2)
        units = str(maps.attrs.get("units", ""))
        slim_bar(bar, norm, _wrapped(_joined(units, "square-root scale").replace("; ", ", "), bar))
    return grid


def _of(shown: int, there: int, what: str) -> str:
    """How many of how many."""
    if shown < there:
        return f"{shown} of {there} {what}s"
    return f"all {there} {what}s" if there > 1 else f"the only {what}"


@checked
def case_panels(cases: Sequence[dict[str, Any]], *, title: str, columns: int = 4) -> np.ndarray:
    """Several maps with their questions, each on a colour scale of its own; their axes [case].

    cases: each has image, map (DataArray(row, col), from 0), boxes and text.

    Raises VlmProbeError where there is no case, and for one whose image is no picture or whose map no array.
    """
    if not len(cases):
        raise VlmProbeError("case_panels draws one case or more, got none")
    check_pictures("case_panels", cases)
    with styled():
        # Text from questions and models is no mathematics, dollar signs or not.
        texts = ["\n".join(textwrap.fill(line, 34) for line in case["text"].split("\n")) for case in cases]
        across, lines = min(columns, len(cases)), max(text.count("\n") + 1 for text in texts)
        size = (2.3, 2.3 * height_of(*(case["image"] for case in cases)))
        note = "every map on a colour scale of its own; number: its highest patch; lines: a quarter and a half of that"
        grid, bar = _panels(-(-len(cases) // across), across, size, title, note, below=0.15 * lines + 0.1, gap=0.1)
        panels = grid.ravel()
        for ax, case, text in zip(panels, cases, texts, strict=False):
            heat_over(ax, case["image"], case["map"], from_zero(case["map"]), case["boxes"], mode="outline")
            _reached(ax, case["map"])
            ax.set_xlabel(text, fontsize=7.5, parse_math=False)
        for ax in panels[len(cases) :]:
            ax.remove()
        _own_scales(bar)
    return panels[: len(cases)]
