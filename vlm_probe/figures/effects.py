"""Figures of what one change does: among the replicas over seeds, and among the paper's published numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from vlm_probe.figures.given import checked
from vlm_probe.figures.primitives import forest
from vlm_probe.figures.scores import scenes_of
from vlm_probe.figures.style import CONTROL, OUTLINE, PALETTE, axes, either_way, legend_below, rows_high, styled, titled
from vlm_probe.figures.tables import counts, names, numbers, where

MEAN = "#000000"
_CALLED = {"undecided": CONTROL, "equivalent": OUTLINE}
"""Colors of means by their verdict; `MEAN` where a difference is called."""
"""Of what seeds come to, where that is decided; else it is grey."""
_WIDE: dict[str, Any] = {"marker": "|", "size": 9}
"""How means of seeds are marked."""


@checked
def effect_over_seeds(
    differences: pd.DataFrame, effects: pd.DataFrame, ax: Axes | None = None, *, by: str = "pair", title: str = ""
) -> Axes:
    """What one change does: one dot a seed, their mean, and the interval over seeds where there is one.

    A mean is black where a difference is decided over seeds, grey where it is not, whatever its interval, and dark red
    where it is decided that there is none that matters.

    differences, effects: rows of one factor of `studies.grid_differences` (columns first, second, kind, seed,
        difference) and `studies.grid_effects` (first, second, split, kind, n, seeds, difference, low, high, verdict);
        all differences in shares right.
    by: "pair", a line for every pair of cells; or "kind", for every question type.
    ax: where to draw, without a legend; a figure of its own gets one.

    The axis says which side favours whom: by name, where all rows are of one pair.
    """
    with styled():
        alone = ax is None
        rows = list(dict.fromkeys(_rows(effects, by)))
        ax = axes(ax, rows_high(rows, 2))
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
        verdicts = names(several, "verdict")
        words = {verdict: f"mean of seeds and 95 %: {verdict}" for verdict in verdicts}
        forest(
            several.assign(what=[words[verdict] for verdict in several["verdict"].tolist()]),
            ax,
            y="row",
            x="difference",
            hue="what",
            colors={words[one]: _CALLED.get(one, MEAN) for one in verdicts},
            rows=rows,
            dodge=0,
            shift=-0.1,
            zero=True,
            **_WIDE,
        )
        ax.set_xlabel(change_in_words(effects), parse_math=False)
        ax.xaxis.set_major_locator(MaxNLocator(5))
        titled(ax, title)
        if alone:
            legend_below(ax)
    return ax


def change_in_words(effects: pd.DataFrame) -> str:
    """What the axis of changes in share right says: of what, and which side favours whom."""
    pairs = sorted(set(zip(effects["first"].tolist(), effects["second"].tolist(), strict=True)))
    if len(pairs) == 1:
        sides = either_way(*(f"{one} is right more often" for one in pairs[0]))
    else:
        sides = either_way("the first of a pair is right more often", "the second is")
    what = f"change in share right of {counts(effects)} questions about {scenes_of(effects)}"
    return f"{what}\n{sides}"


def _rows(table: pd.DataFrame, by: str) -> list[str]:
    """What every row's line is called."""
    if by == "kind":
        return [str(kind) for kind in table["kind"].tolist()]
    return [f"{first} to {second}" for first, second in zip(table["first"], table["second"], strict=True)]


_MARKS = "osD^vPX"


@checked
def published_effect(
    effects: pd.DataFrame,
    ax: Axes | None = None,
    *,
    title: str = "",
    first: str = "the first",
    second: str = "the second",
) -> Axes:
    """Relative change per benchmark, one mark a pair of models; benchmarks without any number are named.

    effects: rows of one factor of `studies.published_effects`: columns name (of the benchmark), fixed (what both of a
        pair have), relative (change in percent of the first, NaN where a number is missing). More is better in all.
    first, second: what is changed from and to, for the axis.
    """
    with styled():
        relative = {pair: numbers(where(effects, "fixed", pair), "relative") for pair in names(effects, "fixed")}
        there = {pair: int((~np.isnan(values)).sum()) for pair, values in relative.items()}
        words = {
            pair: pair if there[pair] == len(values) else f"{pair} ({there[pair]} of {len(values)} published)"
            for pair, values in relative.items()
        }
        ax = axes(ax, rows_high(names(effects, "name"), 1) + 0.2)
        forest(
            effects.assign(pair=[words[pair] for pair in effects["fixed"].tolist()]),
            ax,
            y="name",
            x="relative",
            low=None,
            high=None,
            hue="pair",
            size=5.5,
            zero=True,
            colors={w: c if there[p] else CONTROL for (p, w), c in zip(words.items(), PALETTE, strict=False)},
            marker=dict(zip(words.values(), _MARKS, strict=False)),
        )
        _empty_lines(effects, ax)
        sides = either_way(f"{first} scores higher", f"{second} scores higher")
        ax.set_xlabel(f"change relative to {first}, %\n{sides}", parse_math=False)
        titled(ax, title, "one published run a number: no intervals")
        legend_below(ax)
    return ax


def _empty_lines(table: pd.DataFrame, ax: Axes) -> None:
    """Say of lines without any value that they have none."""
    for y, name in enumerate(names(table, "name")):
        if np.isnan(numbers(where(table, "name", name), "relative")).all():
            place: dict[str, Any] = {"transform": ax.get_yaxis_transform(), "ha": "center", "va": "center"}
            # The line at 0 may run through it.
            place["bbox"] = {"facecolor": "white", "linewidth": 0, "pad": 1.5}
            ax.text(0.5, y, "not at hand", fontsize=7.5, color=CONTROL, **place)


@checked
def interactions(
    table: pd.DataFrame, ax: Axes | None = None, *, title: str = "", adds: str = "the one change", at: str = ""
) -> Axes:
    """Differences of differences: the paper's, a benchmark a line, and under them the replicas', over seeds.

    table: columns name (of the benchmark, or of the cells), series ("paper" and "seed": one run a dot; "mean": of
        seeds, with its interval), what (what the series is, for the legend), relative (in percent of the number of what
        neither change was made to, NaN where one of the four is missing), low, high.
    adds, at: the one change, and where the other was made ("the 7B", "with connector pretraining"), for the axis.
    """
    with styled():
        rows = names(table, "name")
        ax = axes(ax, rows_high(rows, 2) + 0.2)
        one = where(table, "series", "paper", "seed")
        kinds = names(one, "what")
        # Seeds of one line are of one series, and lie over each other where they agree.
        forest(
            one,
            ax,
            y="name",
            x="relative",
            low=None,
            high=None,
            hue="what",
            rows=rows,
            dodge=0.3,
            colors={kind: color if _any(one, kind) else CONTROL for kind, color in zip(kinds, PALETTE, strict=False)},
            marker=dict(zip(kinds, _MARKS, strict=False)),
        )
        mean = where(table, "series", "mean")
        for words in names(mean, "what"):
            own: dict[str, Any] = {"color": MEAN, "label": words, "shift": 0.25, **_WIDE}
            forest(where(mean, "what", words), ax, y="name", x="relative", rows=rows, **own)
        if np.isnan(numbers(table, "relative")).all():
            ax.set_xticks([])
        else:
            ax.axvline(0, color=CONTROL, lw=0.8, zorder=0)
            ax.xaxis.set_major_locator(MaxNLocator(6))
        _empty_lines(table, ax)
        sides = either_way(f"{adds} adds less", f"adds more {at or 'where the other was made'}")
        ax.set_xlabel(f"difference of the two changes, % of the number before both\n{sides}", parse_math=False)
        titled(ax, title)
        legend_below(ax)
    return ax


def _any(table: pd.DataFrame, what: str) -> bool:
    return not np.isnan(numbers(where(table, "what", what), "relative")).all()
