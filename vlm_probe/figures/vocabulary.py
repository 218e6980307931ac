"""Figures of vocabularies: what they cost, how they are used, where probability goes, what trimming does.

Every function takes a table with a column model and an axes, and returns the axes.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from vlm_probe.figures.style import CONTROL, PALETTE, axes, legend_below, models_of, styled, titled

_PARTS = {
    "embedding": PALETTE[1], "unembedding": PALETTE[4], "attention": PALETTE[0], "mlp": PALETTE[5], "norm": PALETTE[6],
    "connector": PALETTE[3], "encoder": PALETTE[2],
}  # fmt: skip


def budget_bars(table: pd.DataFrame, column: str = "parameters", ax: Axes | None = None) -> Axes:
    """The share of every part in a model's parameters (or another column of `budget`), one bar a model."""
    with styled():
        names = list(dict.fromkeys(table["model"]))
        ax = axes(ax, (6.4, 1.2 + 0.42 * len(names)))
        for y, name in enumerate(names):
            own = table[(table["model"] == name).to_numpy()]
            counts = {str(part): float(value) for part, value in zip(own["part"], own[column], strict=True)}
            total, left = sum(counts.values()), 0.0
            for part, color in _PARTS.items():
                share = counts.get(part, 0.0) / total if total else 0.0
                ax.barh(y, share, left=left, color=color, height=0.7, label=part if y == 0 else None)
                if share > 0.07:
                    ax.text(left + share / 2, y, f"{share:.0%}", ha="center", va="center", fontsize=7.5, color="white")
                left += share
            ax.text(1.01, y, _short(total), va="center", fontsize=8)
        ax.set_yticks(range(len(names)), names)
        ax.invert_yaxis()
        ax.set(xlim=(0, 1), xlabel=f"share of {column.replace('_', ' ')}")
        titled(ax, "What does the vocabulary cost?", "counted from the configuration; a tied matrix is the embedding's")
        ax.figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    return ax


def _short(number: float) -> str:
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"


def vocabulary_growth(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Different tokens along the text, in logarithms: columns model, tokens, used."""
    with styled():
        ax = axes(ax, (5.2, 3.6))
        for model, color in models_of(table).items():
            rows = table.query("model == @model")
            ax.plot(rows["tokens"], rows["used"], color=color, lw=1.6, label=model)
        ax.set(xscale="log", yscale="log", xlabel="tokens read", ylabel="different tokens")
        titled(ax, "How much of the vocabulary does the text use?", "the same text for all")
        ax.grid(lw=0.4, alpha=0.5)
        legend_below(ax)
    return ax


def leakage_by_layer(table: pd.DataFrame, column: str = "unused_mass", ax: Axes | None = None) -> Axes:
    """A column of `leakage` per layer: mean over items, with a 95 % interval of the mean."""
    words = {
        "unused_mass": "probability on tokens never used", "image_unused_mass": "the same, at image positions",
        "image_undertrained_mass": "probability of the least trained rows,\nat image positions",
        "entropy": "entropy (nats)", "rank": "rank of the right answer",
        "log_probability": "log-probability of the answer",
    }  # fmt: skip
    with styled():
        ax = axes(ax, (5.6, 3.6))
        for model, color in models_of(table).items():
            rows = table.query("model == @model").groupby("layer")[column].agg(["mean", "sem"])
            layer, mean = np.asarray(rows.index), np.asarray(rows["mean"])
            reach = 1.96 * np.asarray(rows["sem"])
            depth = layer / max(layer.max(), 1)
            ax.plot(depth, mean, marker="o", ms=4, color=color, label=model)
            ax.fill_between(depth, mean - reach, mean + reach, color=color, alpha=0.15, lw=0)
        ax.set(xlabel="depth (0: behind the first layer, 1: the output)", ylabel=words.get(column, column))
        ax.set_ylim(bottom=min(0.0, float(table[column].to_numpy().min())) if column != "log_probability" else None)
        n = table["id"].nunique()
        titled(ax, "Where does the probability go?", f"logit lens, n = {n} items; bands: 95 %")
        legend_below(ax)
    return ax


def shrinking(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Accuracy against the rows that are left, as `shrink` returns it; one line a model."""
    with styled():
        ax = axes(ax, (5.6, 3.6))
        for model, color in models_of(table).items():
            rows = table.query("model == @model").sort_values("rows")
            accuracy = rows["accuracy"].to_numpy()
            error = np.abs(rows[["low", "high"]].to_numpy().T - accuracy)
            ax.errorbar(rows["rows"], accuracy, yerr=error, marker="o", ms=4, lw=1.3, color=color, label=model)
            ax.plot(rows["rows"], rows["readable"], ls=":", lw=1.2, color=color)
        ax.plot([], [], ls=":", color=CONTROL, label="share that can be spelled")
        ax.set(xscale="log", ylim=(-0.02, 1.04), xlabel="rows of the vocabulary", ylabel="share of all items")
        titled(ax, "Would a smaller vocabulary do?", "rows kept by frequency; 95 % Wilson intervals")
        ax.grid(lw=0.4, alpha=0.5)
        legend_below(ax)
    return ax
