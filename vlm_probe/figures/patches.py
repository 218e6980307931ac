"""What stands at every patch, drawn over the image: words, labels, and signed attributions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgb
from matplotlib.patches import Patch, Rectangle
from PIL import Image

from vlm_probe.figures.maps import outline, show_pale
from vlm_probe.figures.style import PALETTE, axes, styled, titled
from vlm_probe.layout import AnyBox, ImageSpan, PixelBox


def _places(image: Image.Image, span: ImageSpan | None, grid: tuple[int, int]) -> dict[tuple[int, int], PixelBox]:
    """Every patch's box on the original image."""
    rows, cols = grid
    if span is not None and span.transform is not None:
        return {(r, c): span.patch_to_box(r, c) for r in range(rows) for c in range(cols)}
    x, y = image.width / cols, image.height / rows
    return {(r, c): PixelBox(c * x, r * y, (c + 1) * x, (r + 1) * y) for r in range(rows) for c in range(cols)}


def words_on_image(
    image: Image.Image,
    nearest: pd.DataFrame,
    ax: Axes | None = None,
    *,
    span: ImageSpan | None = None,
    number: int = 0,
    longest: int = 7,
) -> Axes:
    """The nearest word of every patch, written on it; the bolder the ground, the nearer.

    nearest: as `nearest_tokens` returns it, or another table with columns image, row, col, rank, token
        and score. number: which image of the prompt. longest: characters of a word that are shown.
    """
    rows = nearest.query("image == @number and rank == 0")
    grid = (int(rows["row"].to_numpy().max()) + 1, int(rows["col"].to_numpy().max()) + 1)
    with styled():
        ax = axes(ax, (max(4.0, 0.62 * grid[1]), max(4.2, 0.62 * grid[0] + 0.5)))
        show_pale(ax, image, 0.35)
        places = _places(image, span, grid)
        scores = rows["score"].to_numpy(dtype=float)
        near = scores if nearest.attrs.get("units") != "euclidean" else -scores
        depth = (near - near.min()) / max(float(np.ptp(near)), 1e-12)
        size = min(8.5, 190 / max(grid) / 2.2)
        for (row, col, token), strength in zip(
            rows[["row", "col", "token"]].itertuples(index=False), depth, strict=True
        ):
            left, top, right, bottom = places[row, col]
            text = str(token).strip() or repr(str(token))
            ax.text(
                (left + right) / 2, (top + bottom) / 2, text if len(text) <= longest else text[: longest - 1] + "…",
                ha="center", va="center", fontsize=size, parse_math=False,
                bbox={"facecolor": "white", "alpha": 0.25 + 0.6 * float(strength), "pad": 0.6, "linewidth": 0},
            )  # fmt: skip
        unit = nearest.attrs.get("units", "cosine")
        note = f"best per patch; {unit} {scores.min():.2f} to {scores.max():.2f}"
        titled(ax, str(nearest.attrs.get("title", "nearest tokens")), note)
    return ax


def label_map(
    image: Image.Image,
    labels: xr.DataArray,
    ax: Axes | None = None,
    *,
    span: ImageSpan | None = None,
    boxes: Sequence[AnyBox] = (),
    ground: str = "ground",
) -> Axes:
    """Every patch in the colour of what a probe takes it for; true boxes outlined.

    labels: DataArray(row, col) of one item, as `spatial_probe` returns it. Labels that name a colour
    are drawn in it.
    """
    with styled():
        ax = axes(ax, (4.4, 4.2))
        show_pale(ax, image, 0.55)
        grid = (labels.sizes["row"], labels.sizes["col"])
        names = [str(n) for n in np.unique(labels.values) if n != ground]
        colors = {name: _color(name, i) for i, name in enumerate(names)}
        for (row, col), (left, top, right, bottom) in _places(image, span, grid).items():
            name = str(labels.values[row, col])
            if name != ground:
                ax.add_patch(
                    Rectangle((left, top), right - left, bottom - top, facecolor=colors[name], alpha=0.6, lw=0)
                )
        outline(ax, boxes)
        titled(ax, str(labels.attrs.get("title", "spatial probe")), "outlined: the true boxes" if boxes else "")
        handles = [Patch(facecolor=color, alpha=0.6, label=name) for name, color in colors.items()]
        if handles:
            ax.figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(handles)), fontsize=8)
    return ax


def _color(name: str, number: int) -> tuple[float, float, float]:
    try:
        return to_rgb(name.split(" ")[0])
    except ValueError:
        return to_rgb(PALETTE[number % len(PALETTE)])


def signed_overlay(
    image: Image.Image,
    map_: xr.DataArray,
    ax: Axes | None = None,
    *,
    span: ImageSpan | None = None,
    boxes: Sequence[AnyBox] = (),
) -> Axes:
    """A map with both signs over the image: red speaks for, blue against, clear is nothing.

    map_: DataArray(row, col), as `attribute` returns it; its attrs give title and units.
    """
    with styled():
        ax = axes(ax, (4.8, 4.2))
        show_pale(ax, image, 0.45)
        values = map_.transpose("row", "col").values
        top = float(np.abs(values).max()) or 1.0
        norm, colors = Normalize(-top, top), colormaps["RdBu_r"]
        for (row, col), (left, up, right, down) in _places(image, span, values.shape).items():
            value = float(values[row, col])
            color = (*colors(norm(value))[:3], 0.85 * abs(value) / top)
            ax.add_patch(Rectangle((left, up), right - left, down - up, facecolor=color, lw=0))
        outline(ax, boxes)
        titled(ax, str(map_.attrs.get("title", "")), _completeness(map_))
        bar = ax.figure.colorbar(ScalarMappable(norm, colors), ax=ax, shrink=0.85, pad=0.02)
        bar.set_label(str(map_.attrs.get("units", "")))
        bar.outline.set_visible(False)
    return ax


def _completeness(map_: xr.DataArray) -> str:
    error = map_.attrs.get("completeness_error")
    if error is None:
        return ""
    whole = map_.attrs["output"] - map_.attrs["output_baseline"]
    return f"sum of all is off by {error:+.2f} of {whole:.2f} logits ({map_.attrs['baseline']} baseline)"
