"""Figures of several factors at once: a panel each, on one axis."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from vlm_probe.figures.effects import change_in_words, effect_over_seeds
from vlm_probe.figures.given import checked
from vlm_probe.figures.style import COLUMN, styled
from vlm_probe.figures.tables import names, where


@checked
def effects_by_factor(differences: pd.DataFrame, effects: pd.DataFrame) -> np.ndarray:
    """What every factor does, a panel each: `effect_over_seeds` of its pairs of cells; their axes [factor].

    differences, effects: rows of one split and question type of `studies.grid_differences` and `studies.grid_effects`.
    """
    there = names(effects, "factor")
    sizes = [len(where(effects, "factor", name)) for name in there]
    with styled():
        high = 0.34 * sum(sizes) + 0.6 * len(there) + 0.6
        figure, panels = plt.subplots(
            len(there),
            1,
            figsize=(2 * COLUMN, high),
            sharex=True,
            height_ratios=sizes,
            squeeze=False,
            layout="constrained",
        )
        for name, ax in zip(there, panels[:, 0], strict=True):
            effect_over_seeds(where(differences, "factor", name), where(effects, "factor", name), ax, title=name)
            ax.label_outer()
        # The last panel's own words would be of its own pairs alone.
        panels[-1, 0].set_xlabel(change_in_words(effects), parse_math=False)
        labelled = {
            label: handle for ax in panels[:, 0] for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
        }
        figure.legend(labelled.values(), labelled.keys(), loc="outside lower center", ncols=2, fontsize=7.5)
    return panels[:, 0]
