"""Figures of what one change does: among the replicas over seeds, and among the paper's published numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from vlm_probe.figures.primitives import forest
from vlm_probe.figures.scores import scenes_of
from vlm_probe.figures.style import CONTROL, PALETTE, axes, legend_below, styled, titled
from vlm_probe.figures.tables import counts, names, numbers, where

MEAN = "#000000"
"""Of what seeds come to."""


def effect_over_seeds(
    differences: pd.DataFrame, effects: pd.DataFrame, ax: Axes | None = None, *, by: str = "pair", title: str = ""
) -> Axes:
    """What one change does: one dot a seed, their mean, and the interval over seeds where there is one.

    differences, effects: rows of one factor of `studies.grid_differences` (columns first, second, kind, seed,
        difference) and `studies.grid_effects` (first, second, split, kind, n, seeds, difference, low, high); all
        differences in shares right.
    by: "pair", a line for every pair of cells; or "kind", for every question type.
    ax: where to draw, without a legend; a figure of its own gets one.
    """
    with styled():
        alone = ax is None
        rows = list(dict.fromkeys(_rows(effects, by)))
        ax = axes(ax, (6.2, 1.5 + 0.34 * len(rows)))
        one = differences.sort_values("seed", kind="stable")
        one = one.assign(row=_rows(one, by), series=[f"seed {seed}" for seed in one["seed"].tolist()])
        forest(
            one,
            ax,
            y="row",
            x="difference",
            low=None,
            high=None,
            hue="series",
            rows=rows,
            size=3.5,
            dodge=0,
            shift=0.2,
        )
        # Of one seed the mean is the seed.
        several = effects.assign(row=_rows(effects, by)).loc[numbers(effects, "seeds") > 1]
        words = "mean of seeds; 95 % from 3 seeds on"
        mean: dict[str, Any] = {"marker": "|", "size": 9, "shift": -0.1, "color": MEAN, "label": words}
        forest(several, ax, y="row", x="difference", rows=rows, zero=True, **mean)
        ax.set(xlabel=f"change in share right of {counts(effects)} questions about {scenes_of(effects)}")
        ax.xaxis.set_major_locator(MaxNLocator(5))
        titled(ax, title)
        if alone:
            legend_below(ax)
    return ax


def _rows(table: pd.DataFrame, by: str) -> list[str]:
    """What every row's line is called."""
    if by == "kind":
        return [str(kind) for kind in table["kind"].tolist()]
    return [f"{first} to {second}" for first, second in zip(table["first"], table["second"], strict=True)]


_MARKS = "osD^vPX"
_LABELS = {
    "gqa": "GQA",
    "mme_cognition": "MME cognition",
    "mme_perception": "MME perception",
    "mm_vet": "MM-Vet",
    "pope_accuracy": "POPE accuracy",
    "pope_f1": "POPE F1",
    "vqav2": "VQAv2",
    "textvqa": "TextVQA",
    "scienceqa_image": "ScienceQA image",
    "mmvp": "MMVP",
}


def published_effect(effects: pd.DataFrame, ax: Axes | None = None, *, title: str = "") -> Axes:
    """Relative change per benchmark, one mark a pair of models; benchmarks without any number are named.

    effects: rows of one factor of `studies.published_effects`: columns benchmark, fixed (what both of a pair have),
        relative (change in percent of the first, NaN where a number is missing).
    """
    with styled():
        relative = {pair: numbers(where(effects, "fixed", pair), "relative") for pair in names(effects, "fixed")}
        there = {pair: int((~np.isnan(values)).sum()) for pair, values in relative.items()}
        words = {
            pair: pair if there[pair] == len(values) else f"{pair} ({there[pair]} of {len(values)} published)"
            for pair, values in relative.items()
        }
        rows = {name: str(_LABELS.get(name, name)) for name in names(effects, "benchmark")}
        ax = axes(ax, (5.2, 1.6 + 0.32 * len(rows)))
        forest(
            effects.assign(
                row=[rows[name] for name in effects["benchmark"].tolist()],
                pair=[words[pair] for pair in effects["fixed"].tolist()],
            ),
            ax,
            y="row",
            x="relative",
            low=None,
            high=None,
            hue="pair",
            rows=list(rows.values()),
            size=5.5,
            zero=True,
            colors={w: c if there[p] else CONTROL for (p, w), c in zip(words.items(), PALETTE, strict=False)},
            marker=dict(zip(words.values(), _MARKS, strict=False)),
        )
        for y, name in enumerate(rows):
            if np.isnan(numbers(where(effects, "benchmark", name), "relative")).all():
                place: dict[str, Any] = {"transform": ax.get_yaxis_transform(), "ha": "center", "va": "center"}
                ax.text(0.5, y, "not at hand", fontsize=8, color=CONTROL, **place)
        ax.set(xlabel="change relative to the first, %")
        titled(ax, title, "one published run a number: no intervals")
        legend_below(ax)
    return ax
