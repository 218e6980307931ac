"""What all figures share: sizes, and colours that survive colour blindness and grey printing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

HEAT = "inferno"
"""Perceptually even and readable in grey: for maps over an image."""
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


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write a figure as PNG and SVG and close it; returns both paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.{suffix}" for suffix in ("png", "svg")]
    for path in paths:
        # The date would make every run's file a new one.
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)
    return paths
