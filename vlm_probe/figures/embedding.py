"""Figures of embeddings that are no line along the layers: likeness of layers, and rows in two dimensions."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from vlm_probe.figures.given import checked
from vlm_probe.figures.points import along_points, short_point
from vlm_probe.figures.primitives import by_layer, forest, heat, level
from vlm_probe.figures.style import (
    COLUMN,
    CONTROL,
    axes,
    colors_of,
    legend_below,
    length_of,
    models_of,
    rows_high,
    short,
    styled,
    titled,
)
from vlm_probe.figures.tables import about, counted, counts, names, numbers, where

_MEASURES = {"cka": "CKA (linear, debiased)", "svcca": "SVCCA", "procrustes": "Procrustes similarity"}
_METHODS = {"umap": "UMAP", "pca": "PCA", "tsne": "t-SNE"}


@checked
def similarity_heatmap(matrix: pd.DataFrame, ax: Axes | None = None, *, rows: str = "", columns: str = "") -> Axes:
    """A measure of likeness between every two points, 0 to 1.

    matrix: as `similarity_matrix` returns it: a row and a column a point; attrs units (the measure) and items.
    rows, columns: the models' names, for the axes.
    """
    with styled():
        high, wide = matrix.shape
        ax = axes(ax, 1.0 + 0.3 * high, max(COLUMN, 1.5 + 0.36 * wide))
        measure = str(matrix.attrs.get("units", "similarity"))
        words = _MEASURES.get(measure, measure.replace("_", " "))
        points = [[short_point(str(name)) for name in axis] for axis in (matrix.index, matrix.columns)]
        heat(matrix.set_axis(points[0], axis=0).set_axis(points[1], axis=1), ax, label=words)
        ax.set_xlabel(columns, parse_math=False)
        ax.set_ylabel(rows, parse_math=False)
        titled(ax, words, f"n = {matrix.attrs.get('items', '?')} items")
    return ax


@checked
def likeness(table: pd.DataFrame, ax: Axes | None = None, *, title: str = _MEASURES["cka"]) -> Axes:
    """CKA between every two of some representations, 0 to 1.

    table: columns row and column (their names), cka, n (items).
    """
    with styled():
        rows, columns = names(table, "row"), names(table, "column")
        shown = [[short(name, 40) for name in of] for of in (rows, columns)]
        # Names stand beside the cells, and aslant below them.
        beside, below = (max(length_of(name, 7.5) for name in of) for of in shown)
        high, wide = 0.4 + 0.3 * len(rows) + 0.9 * below, 1.0 + 0.36 * len(columns) + beside
        ax = axes(ax, high, max(COLUMN, wide))
        matrix = table.pivot(index="row", columns="column", values="cka").loc[rows, columns]
        heat(matrix.set_axis(shown[0], axis=0).set_axis(shown[1], axis=1), ax, label=_MEASURES["cka"])
        titled(ax, title, f"n = {counts(table)} items")
    return ax


_CONTROLS: dict[str, tuple[str, str]] = {
    "pixels": ("--", "six numbers of the pixels"),
    "common": (":", "most frequent label"),
}


@checked
def probes_with_controls(
    table: pd.DataFrame,
    ax: Axes | None = None,
    *,
    title: str = "What does a linear probe find in what the connector reads?",
) -> Axes:
    """Accuracy of a probe per label, one dot a model, beside what it has to beat.

    table: columns model, label, mean, low, high, random, pixels, common (shares right), n (items).
    """
    with styled():
        models = models_of(table)
        rows = table.assign(row=counted(table, "label"))
        ax = axes(ax, rows_high(names(rows, "row"), len(models)))
        forest(rows, ax, y="row", x="mean", hue="model", colors=models)
        # Beside its model's dot, and in its colour: every model has a random encoder of its own.
        bare = {f"{model}, random encoder": color for model, color in models.items()}
        rows = rows.assign(model=[f"{model}, random encoder" for model in rows["model"].tolist()])
        given: dict[str, Any] = {"low": None, "high": None, "marker": "|", "size": 8, "controls": _CONTROLS}
        forest(rows, ax, y="row", x="random", hue="model", colors=bare, **given)
        ax.set(xlim=(-0.02, 1.02), xlabel="accuracy (share right)")
        titled(ax, title, "kinds of object held out; 95 %")
        legend_below(ax)
    return ax


@checked
def probe_along_encoder(table: pd.DataFrame, label: str, ax: Axes | None = None, *, title: str = "") -> Axes:
    """Accuracy of a probe of one label along every model's encoder, beside a random encoder.

    table: columns model, label, point, mean, low, high (shares right), random (at the encoder's end), n (items). Rows
        of other labels are left out.
    title: without, the label is named.
    """
    with styled():
        rows = along_points(where(table, "label", label))
        ax = axes(ax, 2.6, max(COLUMN, 1.0 + 0.14 * len(names(rows, "at"))))
        models = models_of(table)
        by_layer(rows, ax, x="at", y="mean", colors=models)
        level(rows, ax, y="random", words="random encoder", colors=models)
        ax.set(ylabel="accuracy (share right)", ylim=(0, 1.02), xlabel="behind encoder layer")
        title = title or f"{label.capitalize()}: does a linear probe find it?"
        titled(ax, title, f"n = {counts(rows)} images; bands: 95 % over images")
        legend_below(ax)
    return ax


@checked
def twin_likeness(table: pd.DataFrame, ax: Axes | None = None, *, title: str = "How alike are twins?") -> Axes:
    """Every pair of twins: how alike a model's encoder finds it, over how alike a random encoder does.

    table: columns model, id (of the pair), percentile, percentile_random (shares of other pairs that are less alike),
        both_right (1 or 0: full or hollow). Both axes begin where the data do.
    """
    with styled():
        ax = axes(ax, 3.4)
        for model, color in models_of(table).items():
            own = where(table, "model", model)
            right = numbers(own, "both_right") == 1
            for which, face in ((right, color), (~right, "none")):
                some = own.loc[which]
                ax.scatter(some["percentile_random"], some["percentile"], s=16, facecolor=face, edgecolor=color, lw=0.9)
            ax.scatter([], [], s=16, color=color, label=model)
        ax.plot([0, 1], [0, 1], color=CONTROL, lw=0.8, zorder=0)
        # Twins are alike: most lie close to 1.
        least = min(0.98, float(numbers(table, "percentile", "percentile_random").min()))
        shown = (least - 0.05 * (1 - least), 1 + 0.05 * (1 - least))
        ax.set(xlim=shown, ylim=shown, xlabel="for a random encoder", ylabel="for the model's encoder")
        n = len(names(table, "id"))
        note = f"share of other pairs that are less alike (axes not from 0); n = {n} pairs of twins; full: both right"
        titled(ax, title, note)
        legend_below(ax)
    return ax


@checked
def projection(table: pd.DataFrame, ax: Axes | None = None, *, color_by: str = "modality") -> Axes:
    """Rows in two dimensions, with how far the picture can be trusted.

    table: as `project` returns it: columns x, y and the rows' coordinates (item: the number of the question that a row
        is of); attrs method, trustworthiness, and of PCA explained (shares of the variance), model and, of rows of one
        question, question or prompt. The note says where model or question is not named.
    color_by: a column: "modality", or a label.
    """
    import seaborn as sns  # slow to import

    with styled():
        ax = axes(ax, 3.2)
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
        # Rows of many questions name none.
        several = len(names(table, "item")) if "item" in table else 0
        rows = f"n = {len(table)} rows" + (f" of {several} questions" if several > 1 else "")
        source = about(table.attrs, question=several <= 1)
        note = f"{source}; {rows}; trustworthiness {trust:.2f} (1: all neighbours are true, 0.5: chance)"
        titled(ax, f"{method} of {short_point(str(table.attrs.get('title', 'the rows')))}", note)
        if len(colors) > 1:
            legend_below(ax)
    return ax
