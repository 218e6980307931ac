"""Figures of scores with intervals: by question type, by seed, and models' differences on the same items.

Every function takes a table and an axes, and returns the axes.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from vlm_probe.figures.given import checked
from vlm_probe.figures.primitives import forest
from vlm_probe.figures.style import (
    CONTROL,
    PALETTE,
    axes,
    either_way,
    legend_below,
    models_of,
    rows_high,
    styled,
    titled,
)
from vlm_probe.figures.tables import counted, counts, names, where

SCENES = {"heldout": "held-out scenes", "novel": "scenes with novel kinds"}
"""Splits in words."""


def scenes_of(table: pd.DataFrame) -> str:
    """What the column split says, in words."""
    return " and ".join(SCENES.get(split, split) for split in names(table, "split"))


@checked
def accuracy_by_type(table: pd.DataFrame, ax: Axes | None = None, *, title: str = "Accuracy by question type") -> Axes:
    """Accuracy per question type, one dot a model, with its interval, chance and the best blind guess.

    table: columns model, kind, accuracy, low, high, chance, blind (shares, 0 to 1), n (items).
    """
    with styled():
        models = models_of(table)
        rows = table.assign(row=counted(table, "kind"))
        ax = axes(ax, rows_high(names(rows, "row"), len(models)))
        forest(
            rows,
            ax,
            y="row",
            x="accuracy",
            hue="model",
            colors=models,
            controls={"chance": (":", "chance"), "blind": ("-", "best guess, image unseen")},
        )
        ax.set(xlim=(-0.02, 1.02), xlabel="accuracy (share right)")
        titled(ax, title, "held-out scenes; 95 % Wilson intervals")
        legend_below(ax)
    return ax


@checked
def difference_by_family(comparison: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """The difference of two models' scores per question family, with its interval, coloured by the verdict.

    comparison: as `evidence.compare` returns it: columns family, n (items), difference (of mean scores), low, high,
        verdict, and the models' names in `attrs`.
    """
    with styled():
        ax = axes(ax, rows_high(counted(comparison, "family")))
        first, second = comparison.attrs["first"], comparison.attrs["second"]
        looks = {
            "supported": (f"{second} scores more", PALETTE[0], ">"),
            "contradicted": (f"{first} scores more", PALETTE[1], "<"),
            "equivalent": ("no difference that matters", PALETTE[2], "D"),
            "undecided": ("undecided", CONTROL, "o"),
            "descriptive": ("not tested", CONTROL, "s"),
        }
        forest(
            comparison.assign(
                row=counted(comparison, "family"),
                what=[looks[verdict][0] for verdict in comparison["verdict"].tolist()],
            ),
            ax,
            y="row",
            x="difference",
            hue="what",
            colors={words: color for words, color, _ in looks.values()},
            # In grey printing the marker tells the verdicts apart.
            marker={words: mark for words, _, mark in looks.values()},
            dodge=0,
            zero=True,
        )
        sides = either_way(f"{first} scores more", f"{second} scores more")
        ax.set_xlabel(f"score of {second}\nminus {first}\n{sides}", parse_math=False)
        titled(
            ax,
            f"{second} against {first}",
            "two checkpoints on the same items; 95 % by Student's t over images; colours are the verdicts",
        )
        legend_below(ax)
    return ax


@checked
def scores_by_seed(scores: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Overall accuracy of every trained cell: one dot a seed, with its interval.

    scores: as `studies.grid.grid_scores` returns it (rows of one split, kind "all"): columns cell, seed, split,
        accuracy, low, high (shares right), n (items).
    """
    with styled():
        rows = names(scores, "cell")
        ax = axes(ax, rows_high(rows, 3))
        by_seed = scores.sort_values("seed", kind="stable")
        seeds = [f"seed {seed}" for seed in by_seed["seed"].tolist()]
        forest(by_seed.assign(seed=seeds), ax, y="cell", x="accuracy", hue="seed", rows=rows)
        ax.set(xlabel=f"accuracy (share right) on {scenes_of(scores)}")
        about = f"n = {counts(scores)} questions; 95 % intervals over questions, not over trainings"
        titled(ax, "The grid of replicas", about)
        legend_below(ax)
    return ax


_BOXES = {"points_asked": "an object asked about", "points_other": "another of its scene"}


@checked
def pointing_game(
    table: pd.DataFrame, ax: Axes | None = None, *, title: str = "Pointing game: where is the most relevant patch?"
) -> Axes:
    """How often relevancy peaks on an object asked about, beside the scene's other objects.

    table: columns model, measure ("points_asked", "points_other"), mean, low, high (shares of objects), n (items).
    """
    with styled():
        models = models_of(table)
        known = where(table, "measure", *_BOXES)
        known = known.assign(box=[_BOXES[measure] for measure in known["measure"].tolist()])
        known = known.assign(row=counted(known, "box", "\n"))
        rows = [name for box in _BOXES.values() for name in names(where(known, "box", box), "row")]
        ax = axes(ax, rows_high(rows, len(models)))
        forest(known, ax, y="row", x="mean", hue="model", colors=models, rows=rows)
        ax.set(xlim=(-0.02, 1.02), xlabel="share of objects that the most relevant patch touches")
        titled(ax, title, "95 % bootstrap intervals")
        legend_below(ax)
    return ax
