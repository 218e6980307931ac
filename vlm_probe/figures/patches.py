"""What stands at every patch, drawn over the image: words and labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb, to_rgba
from PIL import Image

from vlm_probe.figures.given import checked
from vlm_probe.figures.primitives import height_of, on_image
from vlm_probe.figures.style import PALETTE, axes, legend_below, styled, titled
from vlm_probe.figures.tables import about, known_of, numbers, visible, where
from vlm_probe.layout import AnyBox

_EDGES = ("left", "top", "right", "bottom")


@checked
def words_on_image(
    image: Image.Image,
    nearest: pd.DataFrame,
    ax: Axes | None = None,
    *,
    number: int = 0,
    longest: int = 7,
) -> Axes:
    """The nearest word of every patch, written on it; the bolder the ground, the nearer.

    A space at a word's end is drawn as ␣: " yellow" and "yellow" are two tokens. The note says where model or question
    is not named.

    Parameters
    ----------
    nearest: as `nearest_tokens` returns it, or another table with columns image, row, col, rank, token, score and left,
        top, right, bottom: the patch's pixel edges on the image. Without those the patches are spread over the whole
        image. attrs: units says what the score is; title, model, and question or prompt.
    number: which image of the prompt.
    longest: characters of a word that are shown.
    """
    rows = where(where(nearest, "image", number), "rank", 0)
    high, wide = (int(numbers(rows, name).max()) + 1 for name in ("row", "col"))
    if not set(_EDGES) <= set(rows):
        across, down = numbers(rows, "col") * image.width / wide, numbers(rows, "row") * image.height / high
        rows = rows.assign(left=across, top=down, right=across + image.width / wide, bottom=down + image.height / high)
    unit = str(nearest.attrs.get("units", "cosine"))
    with styled():
        # Room for a word's width in every column.
        across = max(4.0, 0.66 * wide)
        ax = axes(ax, across * height_of(image), across)
        on_image(image, ax, pale=0.35)
        scores = numbers(rows, "score")
        near = -scores if unit == "euclidean" else scores
        depth = (near - near.min()) / max(float(np.ptp(near)), 1e-12)
        size = min(8.0, 190 / max(high, wide) / 2.2)
        for (left, top, right, bottom), token, strength in zip(
            numbers(rows, *_EDGES), rows["token"], depth, strict=True
        ):
            text = visible(str(token))
            ground = {"facecolor": "white", "alpha": 0.25 + 0.6 * float(strength), "pad": 0.6, "linewidth": 0}
            ax.text(
                (left + right) / 2,
                (top + bottom) / 2,
                text if len(text) <= longest else text[: longest - 1] + "…",
                ha="center",
                va="center",
                fontsize=size,
                parse_math=False,
                bbox=ground,
                clip_on=True,
            )
        best = f"best per patch; {unit} {scores.min():.2f} to {scores.max():.2f}; ␣: a space"
        titled(ax, str(nearest.attrs.get("title", "nearest tokens")), f"{about(nearest.attrs)}; {best}")
    return ax


@checked
def label_map(
    image: Image.Image,
    labels: xr.DataArray,
    ax: Axes | None = None,
    *,
    boxes: Sequence[AnyBox] = (),
    ground: str = "ground",
) -> Axes:
    """Every patch in the colour of what a probe takes it for; true boxes outlined.

    labels: DataArray(row, col) of one item, as `spatial_probe` returns it, its coordinates the place of its patches.
        Labels that name a colour are drawn in it; `ground` is clear.
    """
    with styled():
        ax = axes(ax, 3.2 * height_of(image) + 0.4)
        names = [str(n) for n in np.unique(labels.values) if n != ground]
        colors = {name: to_rgba(_color(name, i), 0.6) for i, name in enumerate(names)}
        clear = (1.0, 1.0, 1.0, 0.0)

        def paint(values: np.ndarray) -> np.ndarray:
            return np.asarray([[colors.get(str(name), clear) for name in row] for row in values])

        on_image(image, ax, over=labels, paint=paint, boxes=boxes)
        for name, color in colors.items():
            ax.scatter([], [], marker="s", s=50, color=[color], label=name)
        notes = (known_of(labels.attrs), "outlined: the true boxes" if boxes else "")
        titled(ax, str(labels.attrs.get("title", "spatial probe")), "; ".join(note for note in notes if note))
        legend_below(ax)
    return ax


def _color(name: str, number: int) -> tuple[float, float, float]:
    try:
        return to_rgb(name.split(" ")[0])
    except ValueError:
        return to_rgb(PALETTE[number % len(PALETTE)])
