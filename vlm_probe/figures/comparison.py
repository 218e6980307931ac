"""Figures of models against each other: differences with intervals, and the grid's scores and effects by seed."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from vlm_probe.figures.style import CONTROL, PALETTE, axes, legend_below, styled

MEAN = "#000000"
"""Of what seeds come to."""


def difference_by_family(comparison: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """The difference of two models' scores per question family, with 95 % intervals.

    comparison: as `findings.compare` returns it: columns family, n, difference, low, high, and the
        models' names in `attrs`.
    """
    with styled():
        ax = axes(ax, (5.4, 3.4))
        y = np.arange(len(comparison))
        difference = comparison["difference"].to_numpy(dtype=float)
        error = np.abs(comparison[["low", "high"]].to_numpy(dtype=float).T - difference)
        few = comparison["low"].isna().to_numpy()
        clear = (comparison["low"].to_numpy() > 0) | (comparison["high"].to_numpy() < 0)
        for which, color, label in (
            (clear, PALETTE[0], "interval without 0"),
            (~clear & ~few, CONTROL, "interval includes 0"),
        ):
            if which.any():
                ax.errorbar(
                    difference[which], y[which], xerr=error[:, which], fmt="o", ms=5, lw=1.4, color=color, label=label
                )
        if few.any():
            ax.plot(difference[few], y[few], "o", ms=5, mfc="none", color=CONTROL, label="too few for an interval")
        ax.axvline(0, color=CONTROL, lw=0.8)
        names = [f"{family} (n={n})" for family, n in zip(comparison["family"], comparison["n"], strict=True)]
        ax.set_yticks(y, names)
        ax.set_ylim(len(comparison) - 0.5, -0.5)
        first, second = comparison.attrs["first"], comparison.attrs["second"]
        ax.set(xlabel=f"score of {second} minus {first}")
        ax.set_title(f"{second} against {first}\n", loc="left")
        ax.text(0, 1.02, "same items; paired bootstrap, 95 %", transform=ax.transAxes, fontsize=8, color=CONTROL)
        ax.grid(axis="x", lw=0.4, alpha=0.5)
        ax.figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8)
    return ax


def scores_by_seed(scores: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Overall accuracy of every trained cell: one dot a seed, with its 95 % interval.

    scores: as `replicas.scores.grid_scores` returns it (rows of one split, kind "all").
    """
    with styled():
        cells = list(dict.fromkeys(scores["cell"]))
        ax = axes(ax, (5.4, 0.9 + 0.32 * len(cells)))
        seeds = sorted(set(scores["seed"]))
        for s, seed in enumerate(seeds):
            rows = scores[scores["seed"] == seed].set_index("cell")
            there = [(i, rows.loc[cell]) for i, cell in enumerate(cells) if cell in rows.index]
            y = np.array([i for i, _ in there]) + (s - (len(seeds) - 1) / 2) * 0.2
            value = np.array([row["accuracy"] for _, row in there], dtype=float)
            ends = np.array([[row["low"], row["high"]] for _, row in there], dtype=float).T
            ax.errorbar(
                value, y, xerr=np.abs(ends - value), fmt="o", ms=4.5, lw=1.2, color=PALETTE[s % len(PALETTE)],
                label=f"seed {seed}",
            )  # fmt: skip
        ax.set_yticks(range(len(cells)), [str(cell) for cell in cells])
        ax.set_ylim(len(cells) - 0.5, -0.5)
        ax.set(xlabel=f"share right of questions about {_splits(scores)}")
        ax.set_title("The grid of replicas", loc="left")
        ax.grid(axis="x", lw=0.4, alpha=0.5)
        ax.figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    return ax


def effect_over_seeds(
    differences: pd.DataFrame, effects: pd.DataFrame, ax: Axes | None = None, *, by: str = "pair", title: str = ""
) -> Axes:
    """What one change does: one dot a seed, their mean, and the interval over seeds where there are three or more.

    differences, effects: rows of one factor of `findings.grid_differences` and `findings.grid_effects`.
    by: "pair", a line for every pair of cells; or "kind", for every question type.
    ax: where to draw, without a legend; a figure of its own gets one.
    """
    with styled():
        names = [_line(row, by) for row in effects.to_dict("records")]
        alone = ax is None
        ax = axes(ax, (6.2, 1.4 + 0.32 * len(names)))
        at = {name: i for i, name in enumerate(names)}
        for s, (seed, rows) in enumerate(differences.groupby("seed")):
            y = np.array([at[_line(row, by)] for row in rows.to_dict("records")])
            ax.plot(
                rows["difference"], y + 0.18, "o", ms=3.5, color=PALETTE[s % len(PALETTE)],
                label=f"seed {seed}",
            )  # fmt: skip
        seeds = effects["seeds"].to_numpy()
        mean, y = effects["difference"].to_numpy(dtype=float), np.arange(len(names))
        reach = np.nan_to_num(effects["high"].to_numpy(dtype=float) - mean)
        many = seeds > 1
        if many.any():
            ax.errorbar(
                mean[many], y[many], xerr=reach[many], fmt="|", ms=11, mew=1.6, lw=1.2, color=MEAN,
                label="mean of seeds; 95 % from 3 seeds on",
            )  # fmt: skip
        ax.axvline(0, color=CONTROL, lw=0.8)
        ax.set_yticks(y, names)
        ax.set_ylim(len(names) - 0.5, -0.5)
        items = " or ".join(str(n) for n in sorted(set(effects["n"])))
        ax.set(xlabel=f"change in share right of {items} questions about {_splits(effects)}")
        ax.xaxis.set_major_locator(MaxNLocator(5))
        ax.set_title(title, loc="left")
        ax.grid(axis="x", lw=0.4, alpha=0.5)
        if alone:
            legend_below(ax)
    return ax


def _splits(table: pd.DataFrame) -> str:
    """The scenes of a table in words."""
    words = {"heldout": "held-out scenes", "novel": "scenes with novel kinds"}
    return " and ".join(words.get(split, split) for split in map(str, dict.fromkeys(table["split"])))


def _line(row: dict, by: str) -> str:
    return str(row["kind"]) if by == "kind" else f"{row['first']} to {row['second']}"
