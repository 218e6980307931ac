"""Figures of what embeddings hold: probes by layer, similarity, the modality gap, dimension, projections.

Every function takes a table of `vlm_probe.embedding` (with a column model, where several are compared) and an
axes, and returns the axes.
"""

from __future__ import annotations

import re
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from vlm_probe.figures.style import CONTROL, PALETTE, axes, legend_below, models_of, styled, titled

_PARTS = {"vision": "V", "language": "L"}


def short_point(name: str) -> str:
    """A hook point's name for an axis: "V3" behind encoder layer 3, "L0" behind language layer 0, "C out"."""
    block = re.fullmatch(r"(vision|language)\.blocks\.(\d+)\.hook_resid_post", name)
    if block:
        return f"{_PARTS[block[1]]}{block[2]}"
    top = re.fullmatch(r"(vision|language|connector)\.hook_(\w+)", name)
    if top:
        return f"{_PARTS.get(top[1], 'C')} {top[2]}"
    return name


def _points(table: pd.DataFrame, ax: Axes) -> dict[str, int]:
    """Every point's place on the x axis, in the order of the table."""
    names = list(dict.fromkeys(table["point"]))
    ax.set_xticks(range(len(names)), [short_point(n) for n in names], rotation=60 if len(names) > 8 else 0, fontsize=8)
    ax.set_xlabel("V: behind encoder layer, C: connector, L: behind language-model layer", fontsize=8)
    return {name: i for i, name in enumerate(names)}


def _with_model(table: pd.DataFrame) -> pd.DataFrame:
    """With a column model, from the attrs where the table is of one model."""
    return table if "model" in table else table.assign(model=table.attrs.get("model", "model"))


def _line(ax: Axes, at: dict[str, int], rows: pd.DataFrame, column: str, **how: Any) -> None:
    x = [at[point] for point in rows["point"]]
    ax.plot(x, rows[column].to_numpy(dtype=float), **how)


def probe_by_layer(table: pd.DataFrame, label: str, ax: Axes | None = None) -> Axes:
    """Accuracy of a linear probe at every point, beside the control task and the most frequent label.

    table: as `probe_layers` returns it; rows of the other labels are left out.
    """
    rows = _with_model(table).query("label == @label")
    with styled():
        ax = axes(ax, (6.0, 3.6))
        at = _points(rows, ax)
        for model, color in models_of(rows).items():
            own = rows.query("model == @model")
            _line(ax, at, own, "score", marker="o", ms=4, color=color, label=f"{model}: {label}")
            x = [at[point] for point in own["point"]]
            ax.fill_between(x, own["low"].to_numpy(), own["high"].to_numpy(), color=color, alpha=0.15, lw=0)
            _line(ax, at, own, "control", ls="--", lw=1.2, color=color, label=f"{model}: control labels")
        guess = float(rows["majority"].to_numpy().mean())
        ax.axhline(guess, color=CONTROL, ls=":", lw=1.6, label="most frequent label")
        ax.set(ylabel="accuracy (share right)", ylim=(0, 1.02))
        n, classes = int(rows["n"].iloc[0]), int(rows["classes"].iloc[0])
        titled(ax, f"Is the {label} there, linearly?", f"n = {n} items, {classes} classes; bands: 95 % over images")
        ax.grid(axis="y", lw=0.4, alpha=0.5)
        legend_below(ax)
    return ax


def similarity_heatmap(matrix: pd.DataFrame, ax: Axes | None = None, *, rows: str = "", columns: str = "") -> Axes:
    """A measure of likeness between every two points: as `similarity_matrix` returns it.

    rows, columns: the models' names, for the axes.
    """
    with styled():
        high, wide = matrix.shape
        ax = axes(ax, (1.9 + 0.42 * wide, 1.5 + 0.36 * high))
        values = matrix.to_numpy(dtype=float)
        image = ax.imshow(values, vmin=0, vmax=1, cmap="viridis", aspect="auto")
        for i in range(high):
            for j in range(wide):
                dark = values[i, j] < 0.6
                ax.text(j, i, f"{values[i, j]:.2f}", ha="center", va="center", fontsize=6.5, color="w" if dark else "k")
        ax.set_xticks(range(wide), [short_point(str(c)) for c in matrix.columns], rotation=60, fontsize=8)
        ax.set_yticks(range(high), [short_point(str(c)) for c in matrix.index], fontsize=8)
        ax.set(xlabel=columns, ylabel=rows)
        name = {"cka": "CKA (linear, debiased)", "svcca": "SVCCA", "procrustes": "Procrustes similarity"}
        measure = matrix.attrs.get("units", "similarity")
        titled(ax, name.get(measure, str(measure).replace("_", " ")), f"n = {matrix.attrs.get('items', '?')} items")
        ax.figure.colorbar(image, ax=ax, shrink=0.85, pad=0.02).outline.set_visible(False)
    return ax


_COSINES = {
    "cosine_between": ("-", "o", "image to text"),
    "cosine_within_image": ("--", "s", "image to image"),
    "cosine_within_text": (":", "^", "text to text"),
}


def gap_by_layer(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Mean cosines between and within image and text rows, layer by layer: as `modality_gap` returns them."""
    rows = _with_model(table)
    with styled():
        ax = axes(ax, (6.0, 3.6))
        at = _points(rows, ax)
        for model, color in models_of(rows).items():
            own = rows.query("model == @model")
            for column, (style, marker, words) in _COSINES.items():
                _line(ax, at, own, column, ls=style, marker=marker, ms=4, color=color, label=f"{model}: {words}")
        ax.axhline(0, color=CONTROL, lw=0.8)
        ax.set(ylabel="mean cosine", ylim=(min(-0.1, ax.get_ylim()[0]), 1.02))
        counts = f"n = {rows['n_image'].iloc[0]} image rows, {rows['n_text'].iloc[0]} text rows"
        titled(ax, "The modality gap", counts)
        legend_below(ax)
    return ax


def dimension_by_stage(table: pd.DataFrame, measure: str = "effective_rank", ax: Axes | None = None) -> Axes:
    """A measure of dimension at every point.

    table: columns model (where there are several), point and the measure.
    """
    rows = _with_model(table)
    with styled():
        ax = axes(ax, (6.0, 3.4))
        at = _points(rows, ax)
        for model, color in models_of(rows).items():
            own = rows.query("model == @model")
            _line(ax, at, own, measure, marker="o", ms=4, color=color, label=model)
            if {"low", "high"} <= set(own):
                x = [at[point] for point in own["point"]]
                ax.fill_between(x, own["low"].to_numpy(), own["high"].to_numpy(), color=color, alpha=0.15, lw=0)
        words = measure.replace("_", " ")
        ax.set(ylabel=words, ylim=(0, 1.1 * float(rows[measure].to_numpy().max())))
        n = f"n = {rows['n'].iloc[0]} rows" if "n" in rows else ""
        titled(ax, words.capitalize(), n)
        legend_below(ax)
    return ax


def projection(table: pd.DataFrame, ax: Axes | None = None, *, color_by: str = "modality") -> Axes:
    """Rows in two dimensions, as `project` returns them, with how far the picture can be trusted.

    color_by: a column: "modality", or a label.
    """
    with styled():
        ax = axes(ax, (4.8, 4.2))
        values = table[color_by] if color_by in table else pd.Series(["rows"] * len(table))
        for i, name in enumerate(dict.fromkeys(values)):
            own = table[(values == name).to_numpy()]
            ax.scatter(own["x"], own["y"], s=9, lw=0, alpha=0.7, color=PALETTE[i % len(PALETTE)], label=str(name))
        ax.set(xticks=[], yticks=[])
        method = {"umap": "UMAP", "pca": "PCA", "tsne": "t-SNE"}[table.attrs["method"]]
        if "explained" in table.attrs:
            x, y = table.attrs["explained"]
            ax.set(xlabel=f"first direction ({x:.0%} of the variance)", ylabel=f"second ({y:.0%})")
        trust = table.attrs["trustworthiness"]
        note = f"n = {len(table)}; trustworthiness {trust:.2f} (1: all neighbours are true, 0.5: chance)"
        titled(ax, f"{method} of {short_point(str(table.attrs.get('title', 'the rows')))}", note)
        if len(set(values)) > 1:
            legend_below(ax)
    return ax
