"""What all figures share: titles, legends, files, and colours that survive colour blindness and grey printing."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.textpath import text_to_path
from matplotlib.transforms import ScaledTranslation

from vlm_probe.figures.given import checked
from vlm_probe.files import make_folder, writing
from vlm_probe.layout.boxes import Number


def _heat() -> ListedColormap:
    """White through orange to dark red, and from clear to opaque: darker is always more."""
    colors = colormaps["YlOrRd"](np.linspace(0.1, 1, 128))
    colors[:, 3] = np.linspace(0.0, 0.9, 128)
    return ListedColormap(colors, name="heat")


HEAT = _heat()
"""For maps over a pale image: even in lightness, so it survives colour blindness and grey printing."""
OUTLINE = "#7A0019"
"""Of patches that are outlined: as dark as the darkest of the heat."""
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito (2008): one colour a model or series."""
CONTROL = "#777777"
"""Controls and chance levels."""
INK = "#333333"
"""In legends: what holds for every colour."""

COLUMN = 3.3
"""Inches: a column of a paper, which is how wide a figure is that needs no more."""
_TITLE, _NOTE = 9.0, 7.0
"""Sizes of titles and of what stands under them, in points."""
_OWN = "vlm_probe"
"""How a figure is marked that `axes` made, so that it may be made higher for its title."""
_RC: dict[Any, Any] = {
    "font.size": 8.0,
    "axes.titlesize": _TITLE,
    "axes.labelsize": 8.0,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.fontsize": 7.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    # Long enough for a dash on both sides of a marker.
    "legend.handlelength": 2.8,
    "figure.dpi": 110.0,
    "savefig.dpi": 180.0,
    "savefig.bbox": "tight",
    # One run gives one file: no random ids in SVG.
    "svg.hashsalt": "vlm_probe",
}
_DATES: dict[str, dict[str, Any]] = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
"""By suffix: the date would make every run's file a new one."""
_HINTED = 1.06
"""How much wider small letters are in pixels than by their outlines."""
_SHORTEST = 10
"""Of a line, in font sizes: a narrower one would break words."""


@contextmanager
def styled() -> Iterator[None]:
    """Draw with the house style, and leave the user's own settings alone."""
    with plt.rc_context(_RC):
        yield


def axes(ax: Axes | None, high: Number = 2.6, wide: Number = COLUMN) -> Axes:
    """The given axes, or those of a new figure: so high without its title, and as wide as a column (inches)."""
    if ax is not None:
        return ax
    figure, new = plt.subplots(figsize=(wide, high), layout="constrained")
    figure.set_gid(_OWN)
    return new


def figure_of(drawn: Figure | Axes | np.ndarray) -> Figure:
    """The figure that axes are in; of an array of axes, that of the first."""
    one = drawn.flat[0] if isinstance(drawn, np.ndarray) else drawn
    figure = one if isinstance(one, Figure) else one.get_figure(root=True)
    assert figure is not None, "these axes have been removed from their figure"
    return figure


@checked
def save(drawn: Figure | Axes | np.ndarray, folder: Path, name: str, *, data: pd.DataFrame | None = None) -> list[Path]:
    """Write a figure, or the one that axes (or an array of them) are in, as PNG, SVG and PDF and close it.

    data: the table it shows, written beside it as CSV.

    Returns the paths. Raises VlmProbeError where they cannot be written, and for what is no figure.
    """
    figure = figure_of(drawn)
    make_folder(folder)
    paths = [folder / f"{name}.{suffix}" for suffix in _DATES]
    with styled():
        for path, undated in zip(paths, _DATES.values(), strict=True):
            with writing(path):
                figure.savefig(path, metadata=undated)
    plt.close(figure)
    if data is not None:
        paths.append(folder / f"{name}.csv")
        with writing(paths[-1]):
            data.to_csv(paths[-1], index=False)
    return paths


def colors_of(names: Iterable[str]) -> dict[str, str]:
    """A colour for every different name, in their order."""
    return {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(dict.fromkeys(names))}


def models_of(table: pd.DataFrame) -> dict[str, str]:
    """Each model of a table with its colour."""
    return colors_of(table["model"].tolist())


@lru_cache(maxsize=4096)
def length_of(text: str, size: Number) -> float:
    """Of the longest line of a text in letters of so many points, in inches."""
    font = FontProperties(size=size)
    points = max(text_to_path.get_text_width_height_descent(line, font, False)[0] for line in text.split("\n"))
    return _HINTED * points / 72


def _fill(text: str, inches: Number, size: Number) -> str:
    """Lines that are no longer; a word that is, as a path may be, breaks at a slash or dash."""
    room = max(float(inches), _SHORTEST * size / 72)
    # No letter is wider than the font's size, so that every part has room in a line.
    part_of = re.compile(rf"[/-]?[^/-]{{1,{int(room * 72 / size) - 3}}}[/-]?|[/-]")
    lines = [""]
    for word in re.split(r"\s+(?!→)", text.strip()):
        for number, part in enumerate([word] if length_of(word, size) <= room else part_of.findall(word)):
            longer = f"{lines[-1]}{' ' if lines[-1] and not number else ''}{part}"
            if not lines[-1] or length_of(longer, size) <= room:
                lines[-1] = longer
            else:
                lines.append(part)
    return "\n".join(lines)


def _inches(ax: Axes) -> float:
    figure = ax.get_figure(root=True)
    return float(figure.get_figwidth()) if figure is not None else 2 * COLUMN


def in_lines(name: str, wide: Number = COLUMN) -> str:
    """The name of a row, in lines that leave the axes most of the figure's width (inches)."""
    return "\n".join(_fill(line, 0.36 * wide, 7.5) for line in name.split("\n"))


def rows_high(rows: Iterable[str], series: int = 1) -> float:
    """Height of axes with so many named rows, with room for their names and for a dot of every series (inches)."""
    lines = [in_lines(row).count("\n") + 1 for row in dict.fromkeys(rows)]
    return len(lines) * max(0.12 + 0.1 * series, 0.125 * max(lines, default=1) + 0.07) + 0.55


def titled(ax: Axes, title: str, note: str = "") -> None:
    """A title on the left, and under it in small letters what the data are; long ones take further lines.

    A figure that `axes` made becomes higher by as much; on axes that were given they stand above these. Names of models
    and questions are no mathematics, dollar signs or not.
    """
    figure = figure_of(ax)
    if figure.get_gid() == _OWN:
        wide, high = figure.get_size_inches()
        # Longer labels would make the figure wider than it was asked to be.
        below = "\n".join(_fill(line, 0.7 * wide, 8) for line in ax.get_xlabel().split("\n"))
        ax.set_xlabel(below)
        ax.set_ylabel(_fill(ax.get_ylabel(), 0.75 * high, 8))
        _higher(figure, foot=0.14 * below.count("\n"))
        if title + note:
            headed(figure, title, note)
        return
    wide = ax.get_position().width * _inches(ax)
    below = _fill(note, wide, _NOTE)
    lines = below.count("\n") + 1 if note else 0
    ax.set_title(_fill(title, wide, _TITLE) + "\n" * lines, loc="left", parse_math=False)
    if note:
        look: dict[str, Any] = {"fontsize": _NOTE, "color": CONTROL, "va": "bottom", "transform": ax.transAxes}
        ax.text(0.0, 1.02, below, parse_math=False, **look)


def headed(figure: Figure, title: str, note: str) -> None:
    """A headline on top of a figure that lays itself out, which is made higher by as much."""
    _higher(figure, headline(figure, title, note))


def _higher(figure: Figure, head: Number = 0.0, foot: Number = 0.0) -> None:
    """Make a figure higher (inches): by what stands on its top, outside of its layout, and by what is laid out."""
    wide, high = figure.get_size_inches()
    figure.set_size_inches(wide, high + head + foot)
    engine = figure.get_layout_engine()
    if isinstance(engine, ConstrainedLayoutEngine):
        above = high * (1 - engine.get()["rect"][3]) + head
        engine.set(rect=(0, 0, 1, 1 - above / (high + head + foot)))


def headline(figure: Figure, title: str, note: str = "") -> float:
    """A title over all panels of a figure and a note in small letters under it, in lines that fit the figure's width.

    Returns how high both are, in inches: they stay at the top of a figure that is made higher by as much.
    """
    wide, at, line = figure.get_figwidth(), 0.02, 1.25 / 72
    for text, size, color in ((title, _TITLE, "black"), (note, _NOTE, CONTROL)):
        if text:
            lines = _fill(text, wide - 0.06, size)
            place = figure.transFigure + ScaledTranslation(0.02, -at, figure.dpi_scale_trans)
            look: dict[str, Any] = {"fontsize": size, "color": color, "va": "top", "transform": place}
            figure.text(0.0, 1.0, lines, parse_math=False, **look)
            at += line * size * (lines.count("\n") + 1) + 0.03
    return at


def either_way(left: str, right: str) -> str:
    """What lies on the two sides of 0, for an axis; long words take two lines.

    >>> either_way("A scores more", "B scores more")
    '← A scores more | B scores more →'
    """
    return f"← {left}{' | ' if len(left + right) <= 30 else chr(10)}{right} →"


LONGEST = 48
"""Characters of a model's name that are drawn: a folder's path would leave no room for the figure."""


def short(name: str, longest: int = LONGEST) -> str:
    """A name as it is drawn: of a long path its end, line by line.

    >>> short("/home/somebody/checkpoints/2026-11-26/llava-gemma-2b-again")
    '.../checkpoints/2026-11-26/llava-gemma-2b-again'
    """
    lines = []
    for line in name.split("\n"):
        parts = line.split("/")
        while len("/".join(parts)) > longest - 4 and len(parts) > 1:
            parts = parts[1:]
        kept = "/".join(parts)
        lines.append(line if len(line) <= longest else f".../{kept}" if kept != line else line)
    return "\n".join(lines)


def legend_below(ax: Axes) -> None:
    """The legend below the axes, where long model names cost no width.

    Alone in a figure that lays itself out it takes the figure's whole width; else it hangs below the axes' own label.
    """
    handles, names = ax.get_legend_handles_labels()
    if not handles:
        return
    if figure_of(ax).get_gid() == _OWN:
        legend_under(figure_of(ax), handles, names)
        return
    labels = [short(name) for name in names]
    # Ticks and label keep their height in points whatever the layout does to the axes.
    root, outer = ax.get_figure(root=True), ax.get_tightbbox()
    assert root is not None
    assert outer is not None
    drop = ScaledTranslation(0, (outer.y0 - ax.bbox.y0) / root.dpi, root.dpi_scale_trans)
    hung: dict[str, Any] = {"bbox_to_anchor": (0.5, 0.0), "bbox_transform": ax.transAxes + drop}
    ax.legend(handles, labels, loc="upper center", ncols=1, fontsize=7.5, **hung)


def legend_under(figure: Figure, handles: Sequence[Any], names: Sequence[str]) -> None:
    """A legend at the foot of a figure that lays itself out, in as many columns as have room; it is made higher."""
    labels = [short(name) for name in names]
    # A handle, and what is left free beside it and its name.
    each = max(length_of(label, 7.5) for label in labels) + 0.58
    columns = max(1, min(len(labels), 4, int(figure.get_figwidth() / each)))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=7.5)
    lines = sum(label.count("\n") + 1 for label in labels) / columns
    _higher(figure, foot=0.16 * math.ceil(lines) + 0.05)
