"""Figures of models against each other: differences with intervals, and the grid's scores by seed."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from vlm_probe.figures.style import CONTROL, PALETTE, axes, styled


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
        clear = (comparison["low"].to_numpy() > 0) | (comparison["high"].to_numpy() < 0)
        for which, color, label in (
            (clear, PALETTE[0], "interval without 0"),
            (~clear, CONTROL, "interval includes 0"),
        ):
            if which.any():
                ax.errorbar(
                    difference[which], y[which], xerr=error[:, which], fmt="o", ms=5, lw=1.4, color=color, label=label
                )
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

    scores: as `replicas.sweep.grid_scores` returns it (rows of one split, kind "all").
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
        ax.set(xlabel="accuracy on held-out scenes (share right)")
        ax.set_title("The grid of replicas", loc="left")
        ax.grid(axis="x", lw=0.4, alpha=0.5)
        ax.figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    return ax
