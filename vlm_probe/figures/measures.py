"""Several measures of every model on one axis, each beside what it is held against."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from vlm_probe.figures.given import checked
from vlm_probe.figures.primitives import forest
from vlm_probe.figures.style import axes, legend_below, models_of, rows_high, styled, titled
from vlm_probe.figures.tables import counted, in_shares, names


@checked
def measures_by_model(
    table: pd.DataFrame,
    ax: Axes | None = None,
    *,
    title: str = "",
    label: str = "share right",
    note: str = "",
    shares: bool = True,
) -> Axes:
    """A line a measure, a dot a model.

    table: columns model, measure (in words), mean, low, high (NaN where there is no interval), n (items or rows).
    label: of the axis. note: below the title. shares: whether all measures are shares, whose axis and intervals are cut
        off at 0 and 1; the note says so where one is.
    """
    with styled():
        models = models_of(table)
        drawn = in_shares(table) if shares else table
        if not drawn.equals(table):
            note = f"{note}; cut off at 0 and 1" if note else "intervals are cut off at 0 and 1"
        drawn = drawn.assign(row=counted(table, "measure"))
        ax = axes(ax, rows_high(names(drawn, "row"), len(models)))
        forest(drawn, ax, y="row", x="mean", hue="model", colors=models)
        low, high = (-0.02, 1.02) if shares else ax.get_xlim()
        ax.set(xlim=(min(-0.02, low), max(1.02, high)), xlabel=label)
        titled(ax, title, note)
        legend_below(ax)
    return ax
