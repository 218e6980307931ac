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

from vlm_probe.files import make_folder


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


def save(drawn: Figure | Axes, folder: Path, name: str) -> list[Path]:
    """Write a figure, or the one that axes are in, as PNG and SVG and close it; returns both paths.

    Raises VlmProbeError where the folder cannot be written.
    """
    figure = drawn if isinstance(drawn, Figure) else drawn.get_figure(root=True)
    assert figure is not None, "these axes have been removed from their figure"
    make_folder(folder)
    paths = [folder / f"{name}.{suffix}" for suffix in ("png", "svg")]
    with styled():
        for path in paths:
            # The date would make every run's file a new one.
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


def headline(figure: Figure, title: str, note: str = "") -> None:
    """A title over all panels of a figure, in lines that fit its width."""
    letters = max(20, int(figure.get_figwidth() * 72 / (10 * _LETTER)))
    text = "\n".join(textwrap.fill(line, letters) for line in (title, note) if line)
    figure.suptitle(text, fontsize=10, parse_math=False)


def legend_below(ax: Axes) -> None:
    """The legend below the axes, where long model names cost no width.

    Alone in a figure that lays itself out it takes the figure's whole width; else it hangs below the axes' own label.
    """
    handles, labels = ax.get_legend_handles_labels()
    if not handles:
        return
    figure = ax.figure
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
