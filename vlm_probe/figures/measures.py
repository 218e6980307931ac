"""Figures of measured tables: accuracy by question type, where layers look, the pointing game.

Every function takes a table of `vlm_probe.findings` and an axes, and returns the axes.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from vlm_probe.figures.style import CONTROL, axes, legend_below, models_of, styled, titled


def accuracy_by_type(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Accuracy per question type, one dot a model, 95 % interval, chance and the best blind guess.

    table: columns model, kind, accuracy, low, high, chance, blind, n.
    """
    with styled():
        ax = axes(ax, (5.6, 3.4))
        models = models_of(table)
        by_kind = table.drop_duplicates("kind").set_index("kind")
        kinds = by_kind.index.tolist()
        step = 0.7 / max(len(models), 1)
        for m, (model, color) in enumerate(models.items()):
            rows = table.query("model == @model").set_index("kind").loc[kinds]
            y = np.arange(len(kinds)) + (m - (len(models) - 1) / 2) * step
            accuracy = rows["accuracy"].to_numpy()
            error = np.abs(rows[["low", "high"]].to_numpy().T - accuracy)
            ax.errorbar(accuracy, y, xerr=error, fmt="o", ms=4.5, lw=1.4, color=color, label=model)
        for name, style, words in (("chance", ":", "chance"), ("blind", "-", "best guess, image unseen")):
            for i, value in enumerate(by_kind[name].tolist()):
                label = words if i == 0 else None
                ax.plot([value, value], [i - 0.4, i + 0.4], color=CONTROL, lw=1.6, ls=style, label=label)
        counts = by_kind["n"].tolist()
        ax.set_yticks(range(len(kinds)), [f"{kind} (n={n})" for kind, n in zip(kinds, counts, strict=True)])
        ax.set(xlim=(-0.02, 1.02), xlabel="accuracy (share right)")
        titled(ax, "Accuracy by question type", "held-out scenes; 95 % Wilson intervals")
        ax.invert_yaxis()
        ax.grid(axis="x", lw=0.4, alpha=0.5)
        legend_below(ax)
    return ax


def _by_layer(table: pd.DataFrame, ax: Axes, lines: dict[str, tuple[str, str, str]]) -> None:
    """One line with its interval per model and measure; lines: measure -> (style, marker, words)."""
    for model, color in models_of(table).items():
        for name, (style, marker, words) in lines.items():
            rows = table.query("model == @model").query(f"measure == '{name}'").sort_values("layer")
            layer = rows["layer"].to_numpy()
            ax.plot(
                layer, rows["mean"].to_numpy(), ls=style, marker=marker, ms=4, color=color, label=f"{model}: {words}"
            )
            ax.fill_between(layer, rows["low"].to_numpy(), rows["high"].to_numpy(), color=color, alpha=0.15, lw=0)
    layers = sorted({int(layer) for layer in table["layer"].tolist() if layer >= 0})
    ax.set_xticks(layers[:: max(1, len(layers) // 12)])
    ax.set_xlabel("language-model layer")


def box_share_by_layer(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Per layer: the share of the answer position's image attention inside the box, and its controls.

    table: columns model, layer, measure ("in_box", "in_shuffled_box", "area"), mean, low, high, n.
    """
    with styled():
        ax = axes(ax, (5.6, 3.4))
        lines = {"in_box": ("-", "o", "inside the box"), "in_shuffled_box": ("--", "s", "inside another item's box")}
        _by_layer(table, ax, lines)
        area = table.query("measure == 'area'")
        ax.axhline(
            float(area["mean"].to_numpy().mean()), color=CONTROL, ls=":", lw=1.6, label="the box's share of the area"
        )
        ax.set(ylabel="share of image attention", ylim=(0, None))
        n = table.query("measure == 'in_box'")["n"].to_numpy().max()
        note = f"n = {n} items with a box; bands: 95 % bootstrap intervals"
        titled(ax, "Does the answer position look into the right box?", note)
        legend_below(ax)
    return ax


def image_mass_by_layer(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Per layer: how much of the answer position's attention goes to the image, and to sinks.

    table: columns model, layer, measure ("image_mass", "sink_mass"), mean, low, high, n.
    """
    with styled():
        ax = axes(ax, (5.6, 3.4))
        lines = {"image_mass": ("-", "o", "on the image"), "sink_mass": (":", "^", "on attention sinks")}
        _by_layer(table, ax, lines)
        ax.set(ylabel="attention probability", ylim=(0, 1))
        note = f"n = {table['n'].to_numpy().max()} items; bands: 95 % bootstrap intervals"
        titled(ax, "How much of the answer position's attention is on the image?", note)
        legend_below(ax)
    return ax


_BOXES = {
    "points": "the box asked about",
    "points_other": "another object of the scene",
    "points_shuffled": "a box of another item",
}


def pointing_game(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """How often relevancy peaks inside the box, beside the scene's other objects and other items' boxes.

    table: columns model, measure ("points", "points_other", "points_shuffled"), mean, low, high, n.
    """
    with styled():
        ax = axes(ax, (5.6, 3.4))
        models = models_of(table)
        step = 0.8 / len(models)
        for m, (model, color) in enumerate(models.items()):
            rows = table.query("model == @model").set_index("measure").loc[list(_BOXES)]
            y = np.arange(len(_BOXES)) + (m - (len(models) - 1) / 2) * step
            mean = rows["mean"].to_numpy()
            error = np.abs(rows[["low", "high"]].to_numpy().T - mean)
            ax.barh(y, mean, height=0.9 * step, color=color, xerr=error, error_kw={"capsize": 3}, label=model)
        counts = table.set_index("measure")["n"]
        ax.set_yticks(
            range(len(_BOXES)), [f"{words}\n(n={counts.loc[[name]].max()})" for name, words in _BOXES.items()]
        )
        ax.invert_yaxis()
        ax.set(xlim=(0, 1), xlabel="share of items")
        titled(ax, "Pointing game: where is the most relevant patch?", "95 % bootstrap intervals")
        legend_below(ax)
    return ax
