"""Figures of what maps are worth: what blanking by a map costs, and whether right maps go with right answers."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from vlm_probe.figures.given import checked
from vlm_probe.figures.primitives import forest
from vlm_probe.figures.style import CONTROL, PALETTE, axes, legend_below, rows_high, styled, titled
from vlm_probe.figures.tables import counts, in_shares, names, where

_OF = {"this item": (PALETTE[0], "o", "its own map"), "another item": (CONTROL, "s", "the map of another picture")}
_LOOKS = {True: (PALETTE[0], "o", "right map"), False: (PALETTE[1], "X", "wrong map")}


@checked
def maps_beyond_random(
    table: pd.DataFrame,
    ax: Axes | None = None,
    *,
    title: str = "Do the maps name what the answer rests on?",
    label: str = "area beyond random",
    note: str = "",
) -> Axes:
    """What a map says beyond a random one, a line a map, beside the same map of another picture.

    table: columns map, of ("this item", "another item"), difference (of areas; above 0 is better than random), low,
        high, n (items).
    """
    with styled():
        ax = axes(ax, rows_high(names(table, "map"), 2))
        looks = {words: (color, mark) for color, mark, words in _OF.values()}
        drawn = table.assign(row=table["map"].astype(str), what=[_OF[of][2] for of in table["of"].tolist()])
        forest(
            drawn,
            ax,
            y="row",
            x="difference",
            hue="what",
            colors={words: color for words, (color, _) in looks.items()},
            marker={words: mark for words, (_, mark) in looks.items()},
            dodge=0.5,
            zero=True,
        )
        ax.set_xlabel(label)
        about = f"n = {counts(table)} items; 95 % intervals over pictures"
        titled(ax, title, f"{note}; {about}" if note else about)
        legend_below(ax)
    return ax


@checked
def right_map_right_answer(
    table: pd.DataFrame, ax: Axes | None = None, *, title: str = "Do right maps go with right answers?", note: str = ""
) -> Axes:
    """How many answers are right where a map names the object asked about, and where it does not; a line a map.

    table: columns map, right_map (True, False), accuracy, low, high (shares, 0 to 1), n (items).
    """
    with styled():
        rows = names(table, "map")
        drawn = in_shares(table).assign(what=[_LOOKS[bool(right)][2] for right in table["right_map"].tolist()])
        n = {
            name: " + ".join(counts(where(where(drawn, "map", name), "what", words)) for _, _, words in _LOOKS.values())
            for name in rows
        }
        lines = [f"{name}\n(n={n[str(name)]})" for name in drawn["map"].tolist()]
        ax = axes(ax, rows_high(lines, 2))
        forest(
            drawn.assign(row=lines),
            ax,
            y="row",
            x="accuracy",
            hue="what",
            colors={words: color for color, _, words in _LOOKS.values()},
            marker={words: mark for _, mark, words in _LOOKS.values()},
            dodge=0.5,
        )
        ax.set(xlim=(-0.02, 1.02), xlabel="share of answers that are right")
        titled(ax, title, note or "95 % Wilson intervals; n: items with a right map + with a wrong one")
        legend_below(ax)
    return ax
