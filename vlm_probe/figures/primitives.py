"""What figures are made of: a forest of dots, lines by layer, something over an image, a matrix.

Each takes a table (or an image), the names of its columns and the axes, draws what stands there and returns the axes.
None estimates: a dot is a row's value, an interval reaches from its row's low to its high. Seaborn draws the marks and
is told to estimate nothing (estimator=None, errorbar=None); intervals that are known already are no argument of its
functions, so they are matplotlib's lines and bands.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from PIL import Image

from vlm_probe.errors import VlmProbeError
from vlm_probe.figures.style import CONTROL, INK, PALETTE, colors_of, figure_of, in_lines
from vlm_probe.figures.tables import names, numbers, where
from vlm_probe.layout import AnyBox, PixelBox, UnitBox
from vlm_probe.layout.boxes import Number

Look = tuple[str, str, str]
"""How a measure is drawn: line style, marker, and its words in the legend."""


def forest(
    table: pd.DataFrame,
    ax: Axes,
    *,
    y: str,
    x: str,
    low: str | None = "low",
    high: str | None = "high",
    hue: str | None = None,
    colors: Mapping[str, str] | None = None,
    color: str = PALETTE[0],
    rows: Sequence[str] | None = None,
    marker: str | Mapping[str, str] = "o",
    size: Number = 4.5,
    dodge: Number = 0.7,
    shift: Number = 0.0,
    label: str | None = None,
    zero: bool = False,
    controls: Mapping[str, tuple[str, str]] | None = None,
) -> Axes:
    """Dots with intervals, one line a name.

    Parameters
    ----------
    y: column of names: one line each, in the order they come in, or that of `rows`.
    x: column of values. A row without one draws nothing.
    low, high: columns of the interval's ends, drawn as they are. Where they are missing the dot is hollow, and the
        legend says what that means. None: no intervals are meant, and all dots are full.
    hue: column of series: a colour each (`colors`, or the palette's), a marker each where `marker` is a mapping, and
        side by side over `dodge` of a line's height; their names are the legend's.
    size: of a dot, in points. shift: how far below the line's middle, in lines.
    color, label: without hue, of all dots, and the legend's words.
    zero: a line at 0.
    controls: column -> (line style, words): short grey lines across a name's line, one for every different value.
    """
    import seaborn as sns  # slow to import

    lines = names(table, y) if rows is None else list(rows)
    at = {name: i for i, name in enumerate(lines)}
    groups = [(label, table)] if hue is None else [(one, where(table, hue, one)) for one in names(table, hue)]
    colors = colors or (colors_of(names(table, hue)) if hue is not None else {})
    # A series without any value takes no room.
    slots = [group for group, own in groups if not np.isnan(numbers(own, x)).all()]
    step = dodge / max(len(slots), 1)
    bare = False
    for words, own in groups:
        ink = color if hue is None else colors[str(words)]
        mark = marker if isinstance(marker, str) else marker[str(words)]
        slot = slots.index(words) - (len(slots) - 1) / 2 if words in slots else 0.0
        place = np.asarray([at[str(name)] for name in own[y].tolist()], dtype=float) + slot * step + shift
        value, known = numbers(own, x), np.ones(len(own), dtype=bool)
        if low is not None and high is not None:
            ends = numbers(own, low, high)
            known = ~np.isnan(ends).any(axis=1)
            ax.hlines(place[known], ends[known, 0], ends[known, 1], color=ink, lw=1.4)
        # Unfilled marks ("|") are all edge, and never hollow.
        full: dict[str, Any] = {"color": ink, "lw": 1.6 if mark in "|_x+" else 0}
        hollow: dict[str, Any] = {"facecolor": "white", "edgecolor": ink, "lw": 1.2}
        there = ~np.isnan(value)
        bare |= mark not in "|_x+" and bool((~known & there).any())
        solid = known | (mark in "|_x+")
        for which, how in ((solid & there, full), (~solid & there, hollow)):
            if which.any():
                sns.scatterplot(
                    x=value[which],
                    y=place[which],
                    marker=mark,
                    s=size**2,
                    label=words,
                    legend=False,
                    ax=ax,
                    zorder=3,
                    **how,
                )
                words = None
        if words is not None:  # nothing of it could be drawn: the legend names it all the same
            ax.scatter([], [], marker=mark, s=size**2, color=ink, label=words)
    if bare:
        ax.scatter([], [], s=size**2, facecolor="white", edgecolor=INK, lw=1.2, label="open: no interval")
    for column, (style, words) in (controls or {}).items():
        marks = table.filter([y, column]).drop_duplicates().dropna()
        place = np.asarray([at[str(name)] for name in marks[y].tolist()], dtype=float)
        across: dict[str, Any] = {"color": CONTROL, "lw": 1.6, "ls": style, "label": words}
        ax.vlines(numbers(marks, column), place - 0.4, place + 0.4, **across)
    if zero:
        ax.axvline(0, color=CONTROL, lw=0.8, zorder=0)
    ax.set_yticks(range(len(lines)), [in_lines(line, figure_of(ax).get_figwidth()) for line in lines])
    ax.set(ylim=(len(lines) - 0.5, -0.5), ylabel="")
    ax.grid(axis="x", lw=0.4, alpha=0.5)
    ax.set_axisbelow(True)
    return ax


def by_layer(
    table: pd.DataFrame,
    ax: Axes,
    *,
    y: str,
    x: str = "layer",
    low: str | None = "low",
    high: str | None = "high",
    hue: str = "model",
    colors: Mapping[str, str] | None = None,
    style: str | None = None,
    styles: Mapping[str, Look] | None = None,
    marker: str = "o",
    nested: bool = False,
) -> Axes:
    """Lines with bands along the layers, or along named points.

    Parameters
    ----------
    x: column of numbers, or of names: those stand side by side in the order they come in.
    y: column of values. A row without one draws nothing.
    low, high: columns of the band's ends, drawn as they are; no band where they are None, not in the table or missing.
    hue: column of series, a colour each: `colors`, or the palette's.
    style: column of measures, and `styles`: how each is drawn. Rows of other measures are left out. Without it all
        lines are full, with one `marker` ("" for none).
    nested: the first series is the widest line and the lowest, so that of several in one place all are seen.

    The legend gets an entry for every series, in its colour, and one for every measure where there are several.
    """
    import seaborn as sns  # slow to import

    colors = colors or colors_of(names(table, hue))
    looks = styles if style is not None and styles is not None else {"": ("-", marker, "")}
    widths = {series: 1.5 + (1.4 * (len(colors) - 1 - i) if nested else 0.0) for i, series in enumerate(colors)}
    at: dict[str, int] = {}
    if not pd.api.types.is_numeric_dtype(table[x]):
        at = {name: i for i, name in enumerate(names(table, x))}
        crowded = 0 if len(at) <= 8 else 60 if len(at) <= 24 else 90
        ax.set_xticks(range(len(at)), list(at), rotation=crowded, fontsize=7.5)
        if crowded == 60:
            _end_at_ticks(ax)
    for series, color in colors.items():
        for measure, (line, mark, _) in looks.items():
            own = where(table, hue, series)
            own = where(own, style, measure) if style is not None else own
            place = np.asarray([at[str(name)] for name in own[x].tolist()], dtype=float) if at else numbers(own, x)
            order = np.argsort(place, kind="stable")
            own, place = own.iloc[order], place[order]
            sns.lineplot(
                x=place,
                y=numbers(own, y),
                color=color,
                ls=line,
                lw=widths[series],
                marker=mark or None,
                ms=5,
                estimator=None,
                errorbar=None,
                legend=False,
                ax=ax,
            )
            if low is not None and high is not None and {low, high} <= set(table):
                ends = numbers(own, low, high)
                if not np.isnan(ends).all():
                    ax.fill_between(place, ends[:, 0], ends[:, 1], color=color, alpha=0.15, lw=0)
    one = len(looks) == 1
    for series, color in colors.items():
        line, mark, _ = next(iter(looks.values())) if one else ("-", "", "")
        ax.plot([], [], color=color, ls=line, lw=widths[series], marker=mark, ms=5, mec="w", label=series)
    for line, mark, words in () if one else looks.values():
        ax.plot([], [], color=INK, ls=line, marker=mark, ms=5, mec="w", label=words)
    ax.grid(axis="y", lw=0.4, alpha=0.5)
    return ax


def level(table: pd.DataFrame, ax: Axes, *, y: str, words: str, hue: str = "model", colors: Mapping[str, str]) -> Axes:
    """A dotted line across, at a value that is one for all layers.

    y: its column. Where all series have one value the line is grey, else every series has its own, in its colour.
    """
    different = table.filter([hue, y]).drop_duplicates().dropna()
    values = numbers(different, y)
    alike = np.allclose(values, values[:1], rtol=1e-6)
    for series, value in zip(different[hue][: 1 if alike else None], values, strict=False):
        ax.axhline(float(value), color=CONTROL if alike else colors[str(series)], ls=":", lw=1.6)
    ax.plot([], [], color=CONTROL if alike else INK, ls=":", lw=1.6, label=words)
    return ax


def heat(
    matrix: pd.DataFrame, ax: Axes, *, vmin: Number = 0.0, vmax: Number = 1.0, label: str = "", decimals: int = 2
) -> Axes:
    """A matrix in colours with its numbers, rows and columns named as the table's are.

    label: what is measured, for the colour bar.
    """
    import seaborn as sns  # slow to import

    sns.heatmap(
        matrix,
        ax=ax,
        vmin=vmin,
        vmax=vmax,
        cmap="viridis",
        annot=True,
        fmt=f".{decimals}f",
        annot_kws={"size": 6.5},
        xticklabels=True,
        yticklabels=True,
        cbar_kws={"label": label, "shrink": 0.85, "pad": 0.02},
    )
    ax.tick_params(length=0, labelsize=7.5)
    ax.tick_params(axis="x", rotation=60)
    ax.tick_params(axis="y", rotation=0)
    _end_at_ticks(ax)
    ax.set(xlabel="", ylabel="")
    return ax


def _end_at_ticks(ax: Axes) -> None:
    """Names aslant end where they belong to; centered, long ones would end at one of their neighbours."""
    for name in ax.get_xticklabels():
        name.set(ha="right", va="center", rotation_mode="anchor")


def on_image(
    image: Image.Image,
    ax: Axes,
    *,
    over: xr.DataArray | None = None,
    paint: Callable[[np.ndarray], np.ndarray] | None = None,
    boxes: Sequence[AnyBox] = (),
    pale: Number = 0.55,
    line: Number = 1.4,
) -> Axes:
    """An image in pale colours, something over it, and boxes outlined.

    Parameters
    ----------
    over: a map over patches, DataArray(row, col). Its coordinates left and right (along col), top and bottom (along
        row) are the pixel edges of its patches on the image; without them the patches are spread over the whole image.
    paint: from the map's values [row, col] to colours [row, col, red-green-blue-alpha].
    boxes: a PixelBox or a plain tuple is meant in pixels of the original image, a UnitBox in shares of it.
    pale: how far towards white the image is (0: as it is). line: width of the outlines, in points.

    Raises VlmProbeError for a map with other dimensions than row and col.
    """
    # With its alpha, in float32: matplotlib would add one, in float64, and take four times as long to draw the picture.
    shown = np.ones((image.height, image.width, 4), dtype=np.float32)
    shown[..., :3] = pale + (1 - pale) * np.asarray(image.convert("RGB"), dtype=np.float32) / 255
    ax.imshow(shown, extent=(0, image.width, image.height, 0), interpolation="nearest")
    if over is not None and paint is not None:
        across, down = edges(over, image)
        # Drawn in pixels even in SVG: as shapes, clear patches would show seams between them.
        ax.pcolormesh(across, down, paint(over.transpose("row", "col").values), rasterized=True, zorder=1)
    for left, top, right, bottom in (in_pixels(box, image) for box in boxes):
        # White on black is visible on any colour of a map.
        for width, color in ((line + 1.6, "black"), (line, "white")):
            ax.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, ec=color, lw=width, zorder=2))
    # The map may reach beyond the image, or cover some of it only.
    ax.set(xlim=(0, image.width), ylim=(image.height, 0), xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set_visible(False)
    return ax


def edges(map_: xr.DataArray, image: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    """The pixel edges of a map's columns and rows on the image: one more than there are columns, and rows."""
    if set(map_.dims) != {"row", "col"}:
        raise VlmProbeError(
            f"a map over patches has the dimensions row and col, this one {', '.join(map(str, map_.dims))}; choose one "
            "of the others with .isel(), or average over it"
        )
    if not {"left", "right", "top", "bottom"} <= set(map_.coords):
        return (
            np.linspace(0, image.width, map_.sizes["col"] + 1),
            np.linspace(0, image.height, map_.sizes["row"] + 1),
        )
    across, down = (
        np.append(map_.coords[first].values, map_.coords[last].values[-1])
        for first, last in (("left", "right"), ("top", "bottom"))
    )
    return across, down


def in_pixels(box: AnyBox, image: Image.Image) -> PixelBox:
    """A box in pixels of the image."""
    return box.to_pixels(*image.size) if isinstance(box, UnitBox) else PixelBox(*box)


def height_of(*images: Image.Image) -> float:
    """Height of the highest image's panel, in widths: panels as high as they are wide would leave gaps."""
    return max((min(max(image.height / image.width, 0.25), 2.5) for image in images), default=1.0)
