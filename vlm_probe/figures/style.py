"""What all figures share: sizes, and colours that survive colour blindness and grey printing."""

from __future__ import annotations

from collections.abc import Iterator
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

_RC: dict[Any, Any] = {
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.labelsize": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "figure.dpi": 110.0,
    "savefig.dpi": 160.0,
    "savefig.bbox": "tight",
    # One run gives one file: no random ids in SVG.
    "svg.hashsalt": "vlm_probe",
}


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


def models_of(table: pd.DataFrame) -> dict[str, str]:
    """Each model of a table with its colour."""
    names = dict.fromkeys(table["model"].tolist())
    return {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(names)}


def titled(ax: Axes, title: str, note: str) -> None:
    """A title on the left, and under it in small letters what the data are."""
    ax.set_title(f"{title}\n", loc="left")
    ax.text(0.0, 1.02, note, transform=ax.transAxes, fontsize=8, color=CONTROL, va="bottom")


def legend_below(ax: Axes) -> None:
    """Below the axes, where long model names cost no width."""
    ax.figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8)
