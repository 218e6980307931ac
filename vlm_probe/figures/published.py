"""The effects among the paper's published numbers."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from vlm_probe.figures.style import CONTROL, PALETTE, axes, styled

_MARKS = "osD^"
_LABELS = {
    "gqa": "GQA", "mme_cognition": "MME cognition", "mme_perception": "MME perception", "mm_vet": "MM-Vet",
    "pope_accuracy": "POPE accuracy", "pope_f1": "POPE F1", "vqav2": "VQAv2", "textvqa": "TextVQA",
    "scienceqa_image": "ScienceQA image", "mmvp": "MMVP",
}  # fmt: skip


def published_effect(effects: pd.DataFrame, ax: Axes | None = None, *, title: str = "") -> Axes:
    """Relative change per benchmark, one mark a pair of models; pairs with a missing number are listed.

    effects: rows of one factor of `findings.published_effects`: columns benchmark, fixed, relative,
        missing.
    """
    with styled():
        ax = axes(ax, (5.2, 4.4))
        benchmarks = list(dict.fromkeys(effects["benchmark"]))
        pairs = list(dict.fromkeys(effects["fixed"]))
        for p, pair in enumerate(pairs):
            rows = effects[effects["fixed"] == pair].set_index("benchmark").loc[benchmarks]
            relative = rows["relative"].to_numpy(dtype=float)
            there = ~np.isnan(relative)
            y = np.arange(len(benchmarks)) + (p - (len(pairs) - 1) / 2) * 0.18
            label = pair if there.all() else f"{pair} ({int(there.sum())} of {len(there)} published)"
            color = PALETTE[p] if there.any() else CONTROL
            ax.plot(relative[there], y[there], _MARKS[p], ms=5.5, color=color, label=label)
        ax.axvline(0, color=CONTROL, lw=0.8)
        for y, name in enumerate(benchmarks):
            if effects.loc[effects["benchmark"] == name, "relative"].isna().all():
                ax.text(0.5, y, "not at hand", transform=ax.get_yaxis_transform(), fontsize=7.5, color=CONTROL,
                        ha="center", va="center")  # fmt: skip
        ax.set_yticks(range(len(benchmarks)), [_LABELS.get(str(name), str(name)) for name in benchmarks])
        ax.set_ylim(len(benchmarks) - 0.5, -0.5)
        ax.set(xlabel="change relative to the first, %", title=title)
        ax.grid(axis="x", lw=0.4, alpha=0.5)
        ax.legend(loc="upper center", bbox_to_anchor=(0.42, -0.13), fontsize=7.5)
    return ax
