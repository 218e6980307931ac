"""Maps over an image: one, a strip of layers, a grid of layers and heads."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from vlm_probe.figures.style import HEAT, axes, styled
from vlm_probe.layout import AnyBox, ImageSpan


def _extent(span: ImageSpan | None, image: Image.Image, shape: tuple[int, int]) -> tuple[float, float, float, float]:
    """Where the patch grid lies on the original image: left, right, bottom, top."""
    if span is None or span.transform is None:
        return 0.0, float(image.width), float(image.height), 0.0
    left, top, _, _ = span.patch_to_box(0, 0)
    _, _, right, bottom = span.patch_to_box(shape[0] - 1, shape[1] - 1)
    return left, right, bottom, top


def show_pale(ax: Axes, image: Image.Image, pale: float) -> None:
    """The image without axes, so far towards white (0: as it is)."""
    shown = pale + (1 - pale) * np.asarray(image.convert("RGB"), dtype=np.float32) / 255
    ax.imshow(shown, extent=(0, image.width, image.height, 0), interpolation="nearest")
    ax.set(xlim=(0, image.width), ylim=(image.height, 0), xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set_visible(False)


def outline(ax: Axes, boxes: Sequence[AnyBox]) -> None:
    """Boxes in white on black: visible on any colour of a map."""
    for left, top, right, bottom in boxes:
        for width, color in ((3.0, "black"), (1.4, "white")):
            ax.add_patch(
                Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=color, linewidth=width)
            )


def _paint(
    ax: Axes, image: Image.Image, values: np.ndarray, norm: Normalize, span: ImageSpan | None, boxes: Sequence[AnyBox]
) -> None:
    """The image in pale colours and the map over it: the more, the less of the image shows through."""
    heat = HEAT(np.clip(norm(values), 0, 1))
    show_pale(ax, image, 0.55)
    ax.imshow(heat, extent=_extent(span, image, values.shape), interpolation="nearest")
    outline(ax, boxes)
    # The map's extent may be smaller than the image's.
    ax.set(xlim=(0, image.width), ylim=(image.height, 0))


def _norm(values: np.ndarray, vmax: float | None) -> Normalize:
    top = float(np.nanmax(values)) if vmax is None else vmax
    return Normalize(0.0, top if top > 0 else 1.0)


def _colorbar(figure: Any, norm: Normalize, ax: Any, label: str) -> None:
    bar = figure.colorbar(ScalarMappable(norm, HEAT), ax=ax, shrink=0.85, pad=0.02)
    bar.set_label(label)
    bar.outline.set_visible(False)


def _relative_colorbar(figure: Any, ax: Any) -> None:
    """For panels that have a scale of their own each: from zero to the panel's highest patch."""
    bar = figure.colorbar(ScalarMappable(Normalize(0, 1), HEAT), ax=ax, shrink=0.6, pad=0.01)
    bar.set_ticks([0, 1], labels=["0", "panel's\nhighest"])
    bar.outline.set_visible(False)


def overlay(
    image: Image.Image,
    map_: xr.DataArray,
    ax: Axes | None = None,
    *,
    span: ImageSpan | None = None,
    boxes: Sequence[AnyBox] = (),
    title: str | None = None,
    vmax: float | None = None,
    colorbar: bool = True,
) -> Axes:
    """Draw a map over the original image.

    Parameters
    ----------
    map_: DataArray(row, col), from 0; its attrs give title and units.
    span: the image's place in the layout, which knows padding and cropping; without it the patches
        are spread over the whole image.
    boxes: drawn as outlines, in pixels of the original image.
    vmax: upper end of the colour scale; the map's own maximum if None.
    """
    with styled():
        ax = axes(ax)
        values = map_.transpose("row", "col").values
        norm = _norm(values, vmax)
        _paint(ax, image, values, norm, span, boxes)
        ax.set_title(title if title is not None else map_.attrs.get("title", ""), wrap=True, parse_math=False)
        if colorbar:
            _colorbar(ax.figure, norm, ax, map_.attrs.get("units", ""))
    return ax


def layer_strip(
    image: Image.Image,
    maps: xr.DataArray,
    *,
    span: ImageSpan | None = None,
    boxes: Sequence[AnyBox] = (),
    title: str | None = None,
    columns: int = 6,
) -> Figure:
    """One map a layer, DataArray(layer, row, col), on a shared colour scale."""
    with styled():
        n = maps.sizes["layer"]
        wide, high = min(n, columns), -(-n // columns)
        figure, grid = plt.subplots(
            high, wide, figsize=(1.75 * wide + 0.9, 1.95 * high + 0.5), layout="constrained", squeeze=False
        )
        norm = _norm(maps.values, None)
        for i, ax in enumerate(grid.flat):
            if i >= n:
                ax.axis("off")
                continue
            _paint(ax, image, maps.isel(layer=i).transpose("row", "col").values, norm, span, boxes)
            ax.set_title(f"layer {int(maps.layer[i])}", fontsize=9)
        figure.suptitle(title if title is not None else maps.attrs.get("title", ""), fontsize=10)
        _colorbar(figure, norm, list(grid.flat), maps.attrs.get("units", ""))
    return figure


def head_grid(
    image: Image.Image,
    maps: xr.DataArray,
    *,
    span: ImageSpan | None = None,
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
        figure, grid = plt.subplots(
            len(layers), heads, figsize=(cell * heads + 0.6, cell * len(layers) + 0.8),
            layout="constrained", squeeze=False,
        )  # fmt: skip
        for row, layer in zip(grid, layers, strict=True):
            for head, ax in enumerate(row):
                values = maps.isel(layer=int(layer), head=head).transpose("row", "col").values
                _paint(ax, image, values, _norm(values, None), span, boxes)
                ax.text(
                    0.97, 0.03, f"{values.max():.2f}", transform=ax.transAxes, ha="right", va="bottom", fontsize=6.5,
                    color="white", bbox={"facecolor": "black", "alpha": 0.65, "pad": 0.8, "linewidth": 0},
                )  # fmt: skip
                if head == 0:
                    ax.set_ylabel(f"layer {int(maps.layer[int(layer)])}", fontsize=8)
                if layer == layers[0]:
                    ax.set_title(f"head {head}", fontsize=8)
        text = title if title is not None else maps.attrs.get("title", "")
        shown = [f"{len(layers)} of {maps.sizes['layer']} layers"] if len(layers) < maps.sizes["layer"] else []
        shown += [f"{heads} of {maps.sizes['head']} heads"] if heads < maps.sizes["head"] else []
        note = f"{maps.attrs.get('units', '')}, own scale per head; number: highest patch"
        figure.suptitle(text + (f" ({', '.join(shown)})" if shown else "") + "\n" + note, fontsize=9)
        _relative_colorbar(figure, list(grid.flat))
    return figure


def case_panels(cases: Sequence[dict[str, Any]], *, title: str, columns: int = 4) -> Figure:
    """Several maps with their questions: each case has image, map, span, boxes and text."""
    with styled():
        high = -(-len(cases) // columns)
        figure, grid = plt.subplots(
            high, columns, figsize=(2.5 * columns, 3.1 * high + 0.3), layout="constrained", squeeze=False
        )
        for ax in grid.flat:
            ax.axis("off")
        for ax, case in zip(grid.flat, cases, strict=False):
            values = case["map"].transpose("row", "col").values
            _paint(ax, case["image"], values, _norm(values, None), case["span"], case["boxes"])
            ax.axis("on")
            lines = [textwrap.fill(line, 30) for line in case["text"].split("\n")]
            # Text from questions and models is no mathematics, dollar signs or not.
            ax.set_xlabel("\n".join(lines), fontsize=8, parse_math=False)
        figure.suptitle(title, fontsize=10, parse_math=False)
        _relative_colorbar(figure, list(grid.flat))
    return figure
