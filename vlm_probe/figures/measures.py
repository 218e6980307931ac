"""Several measures of every model on one axis, each beside what it is held against."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from vlm_probe.figures.primitives import forest
from vlm_probe.figures.style import axes, legend_below, models_of, styled, titled
from vlm_probe.figures.tables import counted, names


def measures_by_model(
    table: pd.DataFrame, ax: Axes | None = None, *, title: str = "", label: str = "share right", note: str = ""
) -> Axes:
    """A line a measure, a dot a model.

    table: columns model, measure (in words), mean, low, high (NaN where there is no interval), n (items or rows).
    label: of the axis. note: below the title.
    """
    with styled():
        models = models_of(table)
        lines = len(names(table, "measure"))
        ax = axes(ax, (5.8, 1.6 + lines * max(0.3, 0.13 * len(models))))
        forest(table.assign(row=counted(table, "measure")), ax, y="row", x="mean", hue="model", colors=models)
        ax.set(xlim=(min(-0.02, ax.get_xlim()[0]), max(1.02, ax.get_xlim()[1])), xlabel=label)
        titled(ax, title, note)
        legend_below(ax)
    return ax
