"""Answers that change when attention is cut along a route, by windows of layers."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from vlm_probe.figures.given import checked
from vlm_probe.figures.primitives import by_layer
from vlm_probe.figures.style import COLUMN, CONTROL, headed, legend_under, models_of, styled
from vlm_probe.figures.tables import counts, names, where


@checked
def changes_by_window(
    table: pd.DataFrame, *, title: str = "Answers that change when a route is cut, by layer"
) -> np.ndarray:
    """A panel a route: how many answers change when a window of layers is cut, and by random edges.

    table: columns model, route, control (whether random edges were cut), first and last (layers of the window, counted
        from 0), layer (its middle), mean, low, high (share of answers that change), n (items).

    Returns the axes.
    """
    styles = {"False": ("-", "o", "the route"), "True": (":", "^", "as many random edges")}
    with styled():
        routes = names(table, "route")
        wide = max(COLUMN, min(1.9 * len(routes) + 0.5, 2 * COLUMN))
        figure, drawn = plt.subplots(
            1, len(routes), figsize=(wide, 2.0), sharey=True, squeeze=False, layout="constrained"
        )
        rows = table.assign(look=table["control"].astype(str))
        for ax, route in zip(drawn[0], routes, strict=True):
            own = where(rows, "route", route)
            by_layer(own, ax, y="mean", style="look", styles=styles, colors=models_of(table))
            ax.axhline(0, color=CONTROL, lw=0.8, zorder=0)
            ax.set(title=route, xlabel="window around layer")
        drawn[0, 0].set_ylabel("share of answers that change")
        headed(figure, title, f"n = {counts(table)} items; bands: 95 % bootstrap")
        legend_under(figure, *drawn[0, 0].get_legend_handles_labels())
    return drawn[0]
