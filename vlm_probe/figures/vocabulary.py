"""Figures of vocabularies: what they cost, how they are used, what trimming does.

Every function takes a table with a column model and an axes, and returns the axes.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from vlm_probe.figures.effects import effect_over_seeds
from vlm_probe.figures.primitives import Look, by_layer
from vlm_probe.figures.scores import scenes_of
from vlm_probe.figures.style import PALETTE, axes, legend_below, models_of, styled, titled
from vlm_probe.figures.tables import counts, in_shares, names, numbers, where

_PARTS = {
    "embedding": PALETTE[1],
    "unembedding": PALETTE[4],
    "attention": PALETTE[0],
    "mlp": PALETTE[5],
    "norm": PALETTE[6],
    "connector": PALETTE[3],
    "encoder": PALETTE[2],
}


_AMOUNTS = {
    "weight_bytes": "bytes of weights",
    "flops_per_token": "operations for a token",
    "flops_per_image": "operations for an image",
    "kv_bytes_per_token": "bytes kept of a token's keys and values",
    "activation_bytes_per_token": "bytes of activations for a token",
}


def budget_bars(table: pd.DataFrame, column: str = "parameters", ax: Axes | None = None) -> Axes:
    """What every part takes of a model's parameters (or another column of `budget`): one bar a model, of one length.

    table: rows of `budget` with a column model: columns model, part and the column.
    """
    with styled():
        models = names(table, "model")
        ax = axes(ax, (6.4, 1.5 + 0.42 * len(models)))
        parts = {part: color for part, color in _PARTS.items() if numbers(where(table, "part", part), column).any()}
        words = _AMOUNTS.get(column, column.replace("_", " "))
        for y, name in enumerate(models):
            own = where(table, "model", name)
            amounts = {str(part): float(value) for part, value in zip(own["part"], own[column], strict=True)}
            whole, left = sum(amounts.values()), 0.0
            for part, color in parts.items():
                share = amounts.get(part, 0.0) / whole if whole else 0.0
                ax.barh(y, share, left=left, color=color, height=0.7, label=part if y == 0 else None)
                if share > 0.07:
                    ink = "white" if part in ("embedding", "attention", "encoder", "norm") else "black"
                    ax.text(left + share / 2, y, f"{share:.0%}", ha="center", va="center", fontsize=7.5, color=ink)
                left += share
            ax.text(1.01, y, _short(whole), va="center", fontsize=8)
        ax.set_yticks(range(len(models)), models)
        ax.set(xlim=(0, 1), ylim=(len(models) - 0.5, -0.5), xlabel=f"share of {words}")
        about = "counted from the configuration; a tied matrix is the embedding's"
        titled(ax, f"What does the vocabulary cost in {words}?", about)
        legend_below(ax)
    return ax


def _short(number: float) -> str:
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"


def vocabulary_growth(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Different tokens along the text, in logarithms.

    table: columns model, tokens (read so far), used (different ones among them). Models of one and the same line, as
        those of one tokenizer, share it.
    """
    with styled():
        ax = axes(ax, (5.2, 3.8))
        lines = _together(table)
        by_layer(lines, ax, x="tokens", y="used", marker="", colors=models_of(lines))
        ax.set(xscale="log", yscale="log", xlabel="tokens read", ylabel="different tokens")
        titled(ax, "How much of the vocabulary does the text use?", "the same text for all")
        legend_below(ax)
    return ax


def _together(table: pd.DataFrame) -> pd.DataFrame:
    """One of the models whose lines would hide each other, with all their names."""
    lines: dict[bytes, list[str]] = {}
    for model in names(table, "model"):
        lines.setdefault(numbers(where(table, "model", model), "tokens", "used").tobytes(), []).append(model)
    alike = list(lines.values())
    return pd.concat([where(table, "model", first).assign(model=",\n".join((first, *more))) for first, *more in alike])


_SHRUNK: dict[str, Look] = {
    "accuracy": ("-", "o", "answered right"),
    "readable": (":", "s", "answer can be spelled"),
}


def shrinking(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Accuracy against the rows that are left; one line a model.

    table: as `vocabulary.shrink` returns it, with a column model: columns rows (of the vocabulary), accuracy, low, high
        (NaN where there are none), readable (shares of items), and n or attrs items (their number).
    """
    with styled():
        ax = axes(ax, (5.6, 3.8))
        bare = {"low": float("nan"), "high": float("nan")}
        right = table.assign(measure="accuracy", share=table["accuracy"])
        readable = table.assign(measure="readable", share=table["readable"], **bare)
        both = in_shares(pd.concat([right, readable], ignore_index=True))
        by_layer(both, ax, x="rows", y="share", style="measure", styles=_SHRUNK, colors=models_of(table))
        ax.set(xscale="log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.set(ylim=(-0.02, 1.04), xlabel="rows of the vocabulary", ylabel="share of all items")
        n = counts(table) if "n" in table else table.attrs.get("items")
        about = f"n = {n} items; " if n else ""
        titled(
            ax,
            "Would a smaller vocabulary do?",
            f"{about}rows kept by frequency in other text; bands: 95 % over images, cut off at 0 and 1",
        )
        legend_below(ax)
    return ax


_ROWS: dict[str, Look] = {
    "known to be untrained": ("-", "", "known to be untrained"),
    "used by the items' text": ("--", "", "used by the items' text"),
    "all others": (":", "", "all others"),
}


def indicator_curves(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Share of rows whose indicator of being untrained is at most so large; a line a model and kind of rows.

    table: columns model, rows ("known to be untrained", "used by the items' text", "all others"), indicator (cosine
        distance), share (of those rows), n (rows).
    """
    with styled():
        ax = axes(ax, (5.6, 3.8))
        by_layer(table, ax, x="indicator", y="share", style="rows", styles=_ROWS, colors=models_of(table))
        ax.set(ylim=(-0.02, 1.04), ylabel="share of rows", xlabel="indicator (cosine distance to untrained rows)")
        titled(ax, "Which rows look untrained?", f"n = {counts(table)} rows; to the left: more suspicious")
        legend_below(ax)
    return ax


def change_over_seeds(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """What a larger vocabulary changes: a dot a training seed, and their mean with its interval.

    table: rows of `studies.grid_differences` (a seed each) and of `studies.grid_effects` (their mean; seed NaN), of one
        split, which the title names.
    """
    alone = pd.isna(table["seed"]).to_numpy()
    seeds = table.loc[~alone].astype({"seed": int})
    title = f"Does the size of the vocabulary itself matter on {scenes_of(table)}?"
    return effect_over_seeds(seeds, table.loc[alone], ax, title=title)
