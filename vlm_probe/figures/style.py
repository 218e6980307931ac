"""What all figures share: titles, legends, files, and colours that survive colour blindness and grey printing."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.transforms import ScaledTranslation

from vlm_probe.figures.given import checked
from vlm_probe.files import make_folder, writing


def _heat() -> ListedColormap:
    """White through orange to dark red, and from clear to opaque: darker is always more."""
    colors = colormaps["YlOrRd"](np.linspace(0.1, 1, 128))
    colors[:, 3] = np.linspace(0.0, 0.9, 128)
    return ListedColormap(colors, name="heat")


HEAT = _heat()
"""For maps over a pale image: even in lightness, so it survives colour blindness and grey printing."""
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito (2008): one colour a model or series."""
CONTROL = "#777777"
"""Controls and chance levels."""
INK = "#333333"
"""In legends: what holds for every colour."""

_RC: dict[Any, Any] = {
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.labelsize": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    # Long enough for a dash on both sides of a marker.
    "legend.handlelength": 3.2,
    "figure.dpi": 110.0,
    "savefig.dpi": 160.0,
    "savefig.bbox": "tight",
    # One run gives one file: no random ids in SVG.
    "svg.hashsalt": "vlm_probe",
}
_LETTER = 0.52
"""Mean width of a letter, in font sizes."""


@contextmanager
def styled() -> Iterator[None]:
    """Draw with the house style, and leave the user's own settings alone."""
    with plt.rc_context(_RC):
        yield


def axes(ax: Axes | None, size: tuple[float, float] = (4.2, 3.4)) -> Axes:
    """The given axes, or those of a new figure."""
    return ax if ax is not None else plt.subplots(figsize=size, layout="constrained")[1]


def figure_of(drawn: Figure | Axes | np.ndarray) -> Figure:
    """The figure that axes are in; of an array of axes, that of the first."""
    one = drawn.flat[0] if isinstance(drawn, np.ndarray) else drawn
    figure = one if isinstance(one, Figure) else one.get_figure(root=True)
    assert figure is not None, "these axes have been removed from their figure"
    return figure


@checked
def save(drawn: Figure | Axes | np.ndarray, folder: Path, name: str) -> list[Path]:
    """Write a figure, or the one that axes (or an array of them) are in, as PNG and SVG and close it.

    Returns both paths. Raises VlmProbeError where they cannot be written, and for what is no figure.
    """
    figure = figure_of(drawn)
    make_folder(folder)
    paths = [folder / f"{name}.{suffix}" for suffix in ("png", "svg")]
    with styled():
        for path in paths:
            # The date would make every run's file a new one.
            with writing(path):
                figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)
    return paths


def colors_of(names: Iterable[str]) -> dict[str, str]:
    """A colour for every different name, in their order."""
    return {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(dict.fromkeys(names))}


def models_of(table: pd.DataFrame) -> dict[str, str]:
    """Each model of a table with its colour."""
    return colors_of(table["model"].tolist())


def _wrapped(ax: Axes, text: str, size: int) -> str:
    """Lines that fit above the axes."""
    wide = ax.get_position().width * _inches(ax)
    return textwrap.fill(text, max(20, int(wide * 72 / (size * _LETTER))))


def _inches(ax: Axes) -> float:
    figure = ax.get_figure(root=True)
    return float(figure.get_figwidth()) if figure is not None else 6.0


def titled(ax: Axes, title: str, note: str = "") -> None:
    """A title on the left, and under it in small letters what the data are; long ones take further lines.

    Names of models and questions are no mathematics, dollar signs or not.
    """
    below = _wrapped(ax, note, 8)
    lines = below.count("\n") + 1 if note else 0
    ax.set_title(_wrapped(ax, title, 10) + "\n" * lines, loc="left", parse_math=False)
    if note:
        ax.text(0.0, 1.02, below, transform=ax.transAxes, fontsize=8, color=CONTROL, va="bottom", parse_math=False)


def headline(figure: Figure, title: str, note: str = "") -> float:
    """A title over all panels of a figure and a note in small letters under it, in lines that fit the figure's width.

    Returns how high both are, in inches: they stay at the top of a figure that is made higher by as much.
    """
    wide, at, line = figure.get_figwidth(), 0.02, 1.25 / 72
    for text, size, color in ((title, 10, "black"), (note, 8, CONTROL)):
        if text:
            lines = textwrap.fill(text, max(20, int(wide * 72 / (size * _LETTER))))
            place = figure.transFigure + ScaledTranslation(0, -at, figure.dpi_scale_trans)
            look: dict[str, Any] = {"fontsize": size, "color": color, "va": "top", "transform": place}
            figure.text(0.0, 1.0, lines, parse_math=False, **look)
            at += line * size * (lines.count("\n") + 1) + 0.03
    return at


def either_way(left: str, right: str) -> str:
    """What lies on the two sides of 0, for an axis; long words take two lines.

    >>> either_way("A scores more", "B scores more")
    '← A scores more | B scores more →'
    """
    return f"← {left}{' | ' if len(left + right) <= 64 else chr(10)}{right} →"


LONGEST = 48
"""Characters of a model's name that are drawn: a folder's path would leave no room for the figure."""


def short(name: str) -> str:
    """A name as it is drawn: of a long path its end, line by line.

    >>> short("/home/somebody/checkpoints/2026-11-26/llava-gemma-2b-again")
    '.../checkpoints/2026-11-26/llava-gemma-2b-again'
    """
    lines = []
    for line in name.split("\n"):
        parts = line.split("/")
        while len("/".join(parts)) > LONGEST - 4 and len(parts) > 1:
            parts = parts[1:]
        kept = "/".join(parts)
        lines.append(line if len(line) <= LONGEST else f".../{kept}" if kept != line else line)
    return "\n".join(lines)


def legend_below(ax: Axes) -> None:
    """The legend below the axes, where long model names cost no width.

    Alone in a figure that lays itself out it takes the figure's whole width; else it hangs below the axes' own label.
    """
    handles, names = ax.get_legend_handles_labels()
    if not handles:
        return
    figure, labels = ax.figure, [short(name) for name in names]
    letters = max(len(line) for label in labels for line in label.split("\n"))
    columns = max(1, min(len(labels), 4, int(_inches(ax) * 72 / (8 * _LETTER * letters + 40))))
    if len(figure.axes) == 1 and isinstance(figure.get_layout_engine(), ConstrainedLayoutEngine):
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=8)
        return
    # Ticks and label keep their height in points whatever the layout does to the axes.
    root, outer = ax.get_figure(root=True), ax.get_tightbbox()
    assert root is not None
    assert outer is not None
    drop = ScaledTranslation(0, (outer.y0 - ax.bbox.y0) / root.dpi, root.dpi_scale_trans)
    hung: dict[str, Any] = {"bbox_to_anchor": (0.5, 0.0), "bbox_transform": ax.transAxes + drop}
    ax.legend(handles, labels, loc="upper center", ncols=1, fontsize=8, **hung)
