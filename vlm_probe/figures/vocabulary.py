"""Figures of vocabularies: what they cost, how they are used, what trimming does.

Every function takes a table with a column model and an axes, and returns the axes.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedFormatter, FixedLocator, LogLocator, MaxNLocator, NullLocator

from vlm_probe.figures.effects import effect_over_seeds
from vlm_probe.figures.given import checked
from vlm_probe.figures.primitives import Look, by_layer
from vlm_probe.figures.scores import scenes_of
from vlm_probe.figures.style import COLUMN, CONTROL, PALETTE, axes, legend_below, models_of, short, styled, titled
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


_OF_WEIGHTS = ("parameters", "weight_bytes")
"""Amounts of which a matrix that embedding and unembedding share is counted once."""


@checked
def budget_bars(table: pd.DataFrame, column: str = "parameters", ax: Axes | None = None, *, title: str = "") -> Axes:
    """What every part takes of a model's parameters (or another column of `budget`): one bar a model, of one length.

    table: rows of `budget` with a column model: columns model, part and the column. Parts that take nothing are not
        drawn, and the note names them.
    """
    with styled():
        models = names(table, "model")
        shown = [short(model) for model in models]
        # Bars keep their room beside long names.
        ax = axes(ax, 0.6 + 0.3 * len(models), COLUMN + 0.06 * max(0, max(map(len, shown)) - 24))
        parts = {part: color for part, color in _PARTS.items() if numbers(where(table, "part", part), column).any()}
        words = _AMOUNTS.get(column, column.replace("_", " "))
        for y, name in enumerate(models):
            own = where(table, "model", name)
            amounts = {str(part): float(value) for part, value in zip(own["part"], own[column], strict=True)}
            whole, left = sum(amounts.values()), 0.0
            for part, color in parts.items():
                share = amounts.get(part, 0.0) / whole if whole else 0.0
                ax.barh(y, share, left=left, color=color, height=0.7, label=part if y == 0 else None)
                if share > 0.1:
                    ink = "white" if part in ("embedding", "attention", "encoder", "norm") else "black"
                    ax.text(left + share / 2, y, f"{share:.0%}", ha="center", va="center", fontsize=7.5, color=ink)
                left += share
            ax.text(1.02, y, _short(whole), va="center", fontsize=7.5)
        ax.set_yticks(range(len(models)), shown)
        ax.set(xlim=(0, 1), ylim=(len(models) - 0.5, -0.5), xlabel=f"share of {words}")
        none = [part for part in names(table, "part") if part not in parts]
        notes = ["counted from the configuration"]
        notes += ["a tied matrix is the embedding's"] if column in _OF_WEIGHTS else []
        notes += [f"not drawn, as none is counted: {', '.join(none)}"] if none else []
        titled(ax, title or f"What does the vocabulary cost in {words}?", "; ".join(notes))
        legend_below(ax)
    return ax


def _short(number: float) -> str:
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"


@checked
def vocabulary_growth(
    table: pd.DataFrame, ax: Axes | None = None, *, title: str = "How much of the vocabulary does the text use?"
) -> Axes:
    """Different tokens along the text, in logarithms.

    table: columns model, tokens (read so far), used (different ones among them). Models of one and the same line, as
        those of one tokenizer, share it; of others that meet, the first is the widest and lies below.
    """
    with styled():
        ax = axes(ax, 2.1)
        lines = _together(table)
        by_layer(lines, ax, x="tokens", y="used", marker="", colors=models_of(lines), nested=True)
        ax.set(xscale="log", yscale="log", xlabel="tokens read", ylabel="different tokens")
        titled(ax, title, "the same text for all")
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


@checked
def shrinking(table: pd.DataFrame, ax: Axes | None = None, *, title: str = "Would a smaller vocabulary do?") -> Axes:
    """Accuracy against the rows that are left; one line a model.

    Sizes are on a logarithmic axis of their own; the whole vocabulary stands beyond a gap that is not to scale, since a
    few hundred rows out of a quarter of a million would else all be at the left edge.

    table: as `vocabulary.shrink` returns it, with a column model: columns rows (of the vocabulary; the most of every
        model are its whole one), accuracy, low, high (NaN where there are none), readable (shares of items), and n or
        attrs items (their number).
    """
    with styled():
        ax = axes(ax, 2.1)
        placed, whole = _beyond_a_gap(table)
        bare = {"low": float("nan"), "high": float("nan")}
        right = placed.assign(measure="accuracy", share=placed["accuracy"])
        readable = placed.assign(measure="readable", share=placed["readable"], **bare)
        both = in_shares(pd.concat([right, readable], ignore_index=True))
        looks = {"x": "at", "y": "share", "style": "measure", "styles": _SHRUNK, "nested": True}
        by_layer(both, ax, colors=models_of(table), **looks)
        ax.set(xscale="log", ylim=(-0.02, 1.04), xlabel="rows of the vocabulary", ylabel="share of all items")
        _sizes_on_the_axis(ax, numbers(placed, "at"), numbers(table, "rows"), whole)
        n = counts(table) if "n" in table else table.attrs.get("items")
        about = f"n = {n} items; " if n else ""
        titled(
            ax,
            title,
            f"{about}rows kept by frequency in other text; bands: 95 % over images, cut off at 0 and 1",
        )
        legend_below(ax)
    return ax


def _beyond_a_gap(table: pd.DataFrame) -> tuple[pd.DataFrame, float | None]:
    """The table with a column `at`, where its rows are drawn, and where all whole vocabularies are; None where no model
    has a smaller one."""
    most = {model: numbers(where(table, "model", model), "rows").max() for model in names(table, "model")}
    rows = numbers(table, "rows")
    is_whole = rows == [most[str(model)] for model in table["model"].tolist()]
    if is_whole.all():
        return table.assign(at=rows), None
    least, last = rows[~is_whole].min(), rows[~is_whole].max()
    whole = float(last * max(last / least, 1.1) ** 0.3)
    return table.assign(at=np.where(is_whole, whole, rows)), whole


def _sizes_on_the_axis(ax: Axes, at: np.ndarray, rows: np.ndarray, whole: float | None) -> None:
    """Numbers of rows as ticks, and behind a dashed line the whole vocabularies."""
    small = at[at != whole] if whole is not None else at
    # Ticks at 1, 2 and 5 alone could leave a short axis without any.
    wide = small.max() > 4 * small.min()
    ticks = (LogLocator(subs=(1, 2, 5)) if wide else MaxNLocator(5)).tick_values(small.min(), small.max())
    ticks = [tick for tick in ticks if small.min() * 0.98 <= tick <= small.max()]
    words = [f"{tick:,.0f}" for tick in ticks]
    if whole is not None:
        gap = (small.max() * whole) ** 0.5
        ax.axvline(gap, color=CONTROL, lw=0.8, ls="--")
        sizes = sorted({int(one) for one in rows[at == whole]})
        ticks.append(whole)
        words.append(f"all: {sizes[0]:,}" + (f"\nto {sizes[-1]:,}" if len(sizes) > 1 else ""))
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.xaxis.set_major_formatter(FixedFormatter(words))
    ax.xaxis.set_minor_locator(NullLocator())


_ROWS: dict[str, Look] = {
    "known to be untrained": ("-", "", "known to be untrained"),
    "used by the items' text": ("--", "", "used by the items' text"),
    "all others": (":", "", "all others"),
}


@checked
def indicator_curves(table: pd.DataFrame, ax: Axes | None = None, *, title: str = "Which rows look untrained?") -> Axes:
    """Share of rows whose indicator of being untrained is at most so large; a line a model and kind of rows.

    table: columns model, rows ("known to be untrained", "used by the items' text", "all others"), indicator (cosine
        distance), share (of those rows), n (rows).
    """
    with styled():
        ax = axes(ax, 2.1)
        by_layer(table, ax, x="indicator", y="share", style="rows", styles=_ROWS, colors=models_of(table))
        ax.set(ylim=(-0.02, 1.04), ylabel="share of rows", xlabel="indicator (cosine distance to untrained rows)")
        titled(ax, title, f"n = {counts(table)} rows; to the left: more suspicious")
        legend_below(ax)
    return ax


@checked
def change_over_seeds(table: pd.DataFrame, ax: Axes | None = None, *, title: str = "") -> Axes:
    """What a larger vocabulary changes: a dot a training seed, and their mean with its interval.

    table: rows of `studies.grid_differences` (a seed each) and of `studies.grid_effects` (their mean; seed NaN), of one
        split.
    title: without, the question, which names the split.
    """
    alone = pd.isna(table["seed"]).to_numpy()
    seeds = table.loc[~alone].astype({"seed": int})
    title = title or f"Does the size of the vocabulary itself matter on {scenes_of(table)}?"
    return effect_over_seeds(seeds, table.loc[alone], ax, title=title)
