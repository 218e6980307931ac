"""Figures of embeddings that are no line along the layers: likeness of layers, and rows in two dimensions."""

from __future__ import annotations

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from vlm_probe.figures.points import short_point
from vlm_probe.figures.primitives import heat
from vlm_probe.figures.style import axes, colors_of, legend_below, styled, titled
from vlm_probe.figures.tables import names, where

_MEASURES = {"cka": "CKA (linear, debiased)", "svcca": "SVCCA", "procrustes": "Procrustes similarity"}
_METHODS = {"umap": "UMAP", "pca": "PCA", "tsne": "t-SNE"}


def similarity_heatmap(matrix: pd.DataFrame, ax: Axes | None = None, *, rows: str = "", columns: str = "") -> Axes:
    """A measure of likeness between every two points, 0 to 1.

    matrix: as `similarity_matrix` returns it: a row and a column a point; attrs units (the measure) and items.
    rows, columns: the models' names, for the axes.
    """
    with styled():
        high, wide = matrix.shape
        ax = axes(ax, (1.9 + 0.42 * wide, 1.5 + 0.36 * high))
        measure = str(matrix.attrs.get("units", "similarity"))
        words = _MEASURES.get(measure, measure.replace("_", " "))
        short = [[short_point(str(name)) for name in axis] for axis in (matrix.index, matrix.columns)]
        heat(matrix.set_axis(short[0], axis=0).set_axis(short[1], axis=1), ax, label=words)
        ax.set_xlabel(columns, parse_math=False)
        ax.set_ylabel(rows, parse_math=False)
        titled(ax, words, f"n = {matrix.attrs.get('items', '?')} items")
    return ax


def projection(table: pd.DataFrame, ax: Axes | None = None, *, color_by: str = "modality") -> Axes:
    """Rows in two dimensions, with how far the picture can be trusted.

    table: as `project` returns it: columns x, y and the rows' coordinates; attrs method, trustworthiness, and of PCA
        explained (shares of the variance).
    color_by: a column: "modality", or a label.
    """
    with styled():
        ax = axes(ax, (4.8, 4.4))
        named = table.assign(**{color_by: table[color_by].astype(str) if color_by in table else "rows"})
        colors = colors_of(names(named, color_by))
        for name, color in colors.items():
            own = where(named, color_by, name)
            sns.scatterplot(own, x="x", y="y", s=12, lw=0, alpha=0.7, color=color, label=name, legend=False, ax=ax)
        method = _METHODS[table.attrs["method"]]
        # Only PCA's axes mean something.
        ax.set(xticks=[], yticks=[], xlabel="", ylabel="")
        if "explained" in table.attrs:
            x, y = table.attrs["explained"]
            ax.set(xlabel=f"first direction ({x:.0%} of the variance)", ylabel=f"second ({y:.0%})")
        trust = table.attrs["trustworthiness"]
        note = f"n = {len(table)} rows; trustworthiness {trust:.2f} (1: all neighbours are true, 0.5: chance)"
        titled(ax, f"{method} of {short_point(str(table.attrs.get('title', 'the rows')))}", note)
        if len(colors) > 1:
            legend_below(ax)
    return ax
