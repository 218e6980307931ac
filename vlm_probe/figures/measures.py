"""Figures of measured tables: accuracy by question type, where layers look, the pointing game.

Every function takes the tables of `vlm_probe.findings` and an axes, and returns the axes.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from vlm_probe.figures.style import CONTROL, PALETTE, axes, styled


def accuracy_by_type(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Accuracy per question type, one dot a model, 95 % interval, and the chance level.

    table: columns model, kind, accuracy, low, high, chance, n.
    """
    with styled():
        ax = axes(ax, (5.6, 3.4))
        kinds, models = list(dict.fromkeys(table["kind"])), list(dict.fromkeys(table["model"]))
        step = 0.7 / max(len(models), 1)
        for m, model in enumerate(models):
            rows = table[table["model"] == model].set_index("kind").loc[kinds]
            y = np.arange(len(kinds)) + (m - (len(models) - 1) / 2) * step
            error = np.abs(rows[["low", "high"]].to_numpy().T - rows["accuracy"].to_numpy())
            ax.errorbar(
                rows["accuracy"], y, xerr=error, fmt="o", ms=4.5, lw=1.4, color=PALETTE[m % len(PALETTE)], label=model
            )
        chance = table.drop_duplicates("kind").set_index("kind").loc[kinds, "chance"]
        for i, (kind, value) in enumerate(chance.items()):
            ax.plot(
                [value, value], [i - 0.4, i + 0.4], color=CONTROL, lw=1.6, ls=":", label="chance" if i == 0 else None
            )
        counts = table.groupby("kind")["n"].max()
        ax.set_yticks(range(len(kinds)), [f"{kind} (n={counts[kind]})" for kind in kinds])
        ax.set(xlim=(-0.02, 1.02), xlabel="accuracy (share right, 95 % Wilson interval)")
        ax.set_title("Accuracy by question type, held-out scenes")
        ax.invert_yaxis()
        ax.grid(axis="x", lw=0.4, alpha=0.5)
        ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0))
    return ax


def box_share_by_layer(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Per layer: the share of the answer position's image attention inside the box, and its controls.

    table: columns model, layer, measure ("in_box", "in_shuffled_box", "area"), mean, low, high, n.
    """
    with styled():
        ax = axes(ax, (5.4, 3.5))
        models = list(dict.fromkeys(table["model"]))
        styles = {"in_box": ("-", "o", "inside the box"), "in_shuffled_box": ("--", "s", "inside another item's box")}
        for m, model in enumerate(models):
            color = PALETTE[m % len(PALETTE)]
            for measure, (line, marker, text) in styles.items():
                rows = table[(table["model"] == model) & (table["measure"] == measure)].sort_values("layer")
                ax.plot(
                    rows["layer"], rows["mean"], ls=line, marker=marker, ms=4, color=color, label=f"{model}: {text}"
                )
                ax.fill_between(rows["layer"], rows["low"], rows["high"], color=color, alpha=0.15, lw=0)
        area = table[table["measure"] == "area"]
        ax.axhline(float(area["mean"].mean()), color=CONTROL, ls=":", lw=1.6, label="the box's share of the area")
        ax.set_title("Does the answer position look into the right box?")
        ax.set(xlabel="language-model layer", ylabel="share of image attention", ylim=(0, None))
        ax.set_xticks(
            sorted(table.loc[table["layer"] >= 0, "layer"].unique())[:: max(1, table["layer"].nunique() // 12)]
        )
        ax.text(0.0, -0.22, f"n = {int(table['n'].max())} items with a box; bands: 95 % bootstrap intervals",
                transform=ax.transAxes, fontsize=7.5, color=CONTROL)  # fmt: skip
        ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0))
    return ax


def image_mass_by_layer(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Per layer: how much of the answer position's attention goes to the image, and to sinks.

    table: columns model, layer, measure ("image_mass", "sink_mass"), mean, low, high, n.
    """
    with styled():
        ax = axes(ax, (5.4, 3.3))
        styles = {"image_mass": ("-", "o", "on the image"), "sink_mass": (":", "^", "on attention sinks")}
        for m, model in enumerate(dict.fromkeys(table["model"])):
            color = PALETTE[m % len(PALETTE)]
            for measure, (line, marker, text) in styles.items():
                rows = table[(table["model"] == model) & (table["measure"] == measure)].sort_values("layer")
                ax.plot(
                    rows["layer"], rows["mean"], ls=line, marker=marker, ms=4, color=color, label=f"{model}: {text}"
                )
                ax.fill_between(rows["layer"], rows["low"], rows["high"], color=color, alpha=0.15, lw=0)
        ax.set_title("How much of the answer position's attention is on the image?")
        ax.set(xlabel="language-model layer", ylabel="attention probability", ylim=(0, 1))
        ax.set_xticks(sorted(table["layer"].unique())[:: max(1, table["layer"].nunique() // 12)])
        ax.text(0.0, -0.24, f"n = {int(table['n'].max())} items; bands: 95 % bootstrap intervals",
                transform=ax.transAxes, fontsize=7.5, color=CONTROL)  # fmt: skip
        ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0))
    return ax


def pointing_game(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """How often relevancy peaks inside the box, beside boxes of other items.

    table: columns model, measure ("points", "points_shuffled"), mean, low, high, n.
    """
    with styled():
        ax = axes(ax, (4.4, 3.3))
        models = list(dict.fromkeys(table["model"]))
        for m, model in enumerate(models):
            for offset, measure, color in (
                (-0.18, "points", PALETTE[m % len(PALETTE)]),
                (0.18, "points_shuffled", CONTROL),
            ):
                row = table[(table["model"] == model) & (table["measure"] == measure)].iloc[0]
                error = [[row["mean"] - row["low"]], [row["high"] - row["mean"]]]
                label = "another item's box" if measure == "points_shuffled" and m == 0 else None
                ax.bar(m + offset, row["mean"], width=0.34, color=color, yerr=error, capsize=3, label=label)
        ax.set_xticks(range(len(models)), [f"{m}\n(n={int(table[table['model'] == m]['n'].max())})" for m in models])
        ax.set(ylim=(0, 1), ylabel="share of items (95 % interval)")
        ax.set_title("Pointing game: is the most relevant patch in the box?")
        ax.legend(loc="upper right")
    return ax
