"""Figures of several effects at once: a panel each, on one axis."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from vlm_probe.figures.effects import change_in_words, effect_over_seeds
from vlm_probe.figures.given import checked
from vlm_probe.figures.scores import scenes_of
from vlm_probe.figures.style import COLUMN, headed, styled
from vlm_probe.figures.tables import names, where


@checked
def effects_by_factor(differences: pd.DataFrame, effects: pd.DataFrame) -> np.ndarray:
    """What every factor does, a panel each: `effect_over_seeds` of its pairs of cells; their axes [factor].

    differences, effects: rows of one split and question type of `studies.grid_differences` and `studies.grid_effects`.
    """
    parts = {
        name: (where(differences, "factor", name), where(effects, "factor", name)) for name in names(effects, "factor")
    }
    return _panels(parts, "pair", change_in_words(effects))


@checked
def effects_followed(differences: pd.DataFrame, effects: pd.DataFrame, *, title: str = "") -> np.ndarray:
    """What goes with effects, a panel an effect: the same two arms' difference at one place after the other; their axes
    [effect].

    differences, effects: rows of `studies.reading_differences` and `studies.effects_followed`.
    """
    key, parts = ["first", "second", "split"], {}
    for _, pair in effects.drop_duplicates(key).iterrows():
        one = pair.filter(key).to_frame().T
        arms = f"{pair['first']} to {pair['second']}, {scenes_of(one)}"
        parts[arms] = (differences.merge(one, on=key), effects.merge(one, on=key))
    panels = _panels(parts, "kind", "difference of shares, the second of a pair less the first")
    if title:
        headed(panels[0].figure, title, "")
    return panels


def _panels(parts: Mapping[str, tuple[pd.DataFrame, pd.DataFrame]], by: str, label: str) -> np.ndarray:
    """`effect_over_seeds` of every part below the other, with one legend for all."""
    lines = {"pair": ["first", "second"], "kind": ["kind"]}[by]
    sizes = [len(effects.drop_duplicates(lines)) for _, effects in parts.values()]
    with styled():
        figure, panels = plt.subplots(
            len(parts),
            1,
            figsize=(2 * COLUMN, 0.34 * sum(sizes) + 0.6 * len(parts) + 0.6),
            sharex=True,
            height_ratios=sizes,
            squeeze=False,
            layout="constrained",
        )
        for (title, tables), ax in zip(parts.items(), panels[:, 0], strict=True):
            effect_over_seeds(*tables, ax, by=by, title=title)
            ax.label_outer()
        # The last panel's own words would be of its own rows alone.
        panels[-1, 0].set_xlabel(label, parse_math=False)
        labelled = {
            label: handle for ax in panels[:, 0] for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
        }
        figure.legend(labelled.values(), labelled.keys(), loc="outside lower center", ncols=2, fontsize=7.5)
    return panels[:, 0]
