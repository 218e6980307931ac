"""Figures along training: what a study's arms answer after so many scenes."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

from vlm_probe.figures.given import checked
from vlm_probe.figures.scores import scenes_of
from vlm_probe.figures.style import axes, colors_of, legend_below, styled, titled
from vlm_probe.figures.tables import counts, names, numbers, where


@checked
def learning_curves(curves: pd.DataFrame, ax: Axes | None = None, *, title: str = "") -> Axes:
    """Share right after so many scenes: a colour a model and encoder; dashed without connector pretraining.

    curves: rows of one split of `studies.learning_curves` (columns arm, size, encoder, pretrained, scenes, split, n,
        seeds, accuracy, low, high).
    ax: where to draw, without a legend; a figure of its own gets one.
    """
    with styled():
        alone = ax is None
        ax = axes(ax, 2.2)
        named = curves.assign(of=curves["size"] + ", " + curves["encoder"])
        colors = colors_of(sorted(named["of"].unique()))
        for arm in sorted(names(named, "arm")):
            own = where(named, "arm", arm).sort_values("scenes")
            of, pretrained = names(own, "of")[0], bool(own["pretrained"].iloc[0])
            x, y = numbers(own, "scenes"), numbers(own, "accuracy")
            style = {"linestyle": "-" if pretrained else "--", "marker": "o" if pretrained else "s", "markersize": 4}
            label = f"{of}{'' if pretrained else ', connector not pretrained'}"
            ax.plot(x, y, color=colors[of], markerfacecolor=colors[of] if pretrained else "white", label=label, **style)
            ax.fill_between(x, numbers(own, "low"), numbers(own, "high"), color=colors[of], alpha=0.15, linewidth=0)
        ax.set_xscale("log", base=2)
        ax.xaxis.set_major_locator(FixedLocator(sorted(curves["scenes"].unique())))
        ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set(xlabel="scenes seen in fusion", ylabel="share right")
        seeds = sorted(set(curves["seeds"]))
        many = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
        bands = "" if curves["low"].isna().to_numpy().all() else "; bands: 95 %"
        note = f"{counts(curves)} questions about {scenes_of(curves)}; seeds: {many}{bands}"
        titled(ax, title, note)
        if alone:
            legend_below(ax)
    return ax
