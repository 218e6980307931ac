"""Grounds and outlines to pixels, at any resolution; what they stand for is `world`'s to say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw

from vlm_probe.layout import UnitBox

Ground = Literal["plain", "gradient", "stripes", "checks"]


@dataclass(frozen=True)
class Background:
    """A muted two-tone ground: plain, a gradient, stripes or checks."""

    kind: Ground
    tones: tuple[tuple[float, float, float], tuple[float, float, float]]
    """Two colours, each channel in [0, 1]."""
    angle: float
    """Direction of the gradient or the stripes, radians."""
    period: float
    """Length of a stripe or check, in image widths."""


_SUPERSAMPLE = 4
"""Outlines are drawn this many times finer and averaged down: edges are smooth at 64 pixels too."""


@lru_cache(maxsize=4)
def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    centers = (np.arange(size, dtype=np.float32) + 0.5) / size
    return centers[None, :], centers[:, None]


def paint_ground(background: Background, size: int) -> np.ndarray:
    """A canvas: [size, size, 3] float32 in [0, 1]."""
    first, second = (np.asarray(tone, dtype=np.float32) for tone in background.tones)
    if background.kind == "plain":
        return np.broadcast_to(first, (size, size, 3)).copy()
    x, y = _grid(size)
    along = x * math.cos(background.angle) + y * math.sin(background.angle)
    across = -x * math.sin(background.angle) + y * math.cos(background.angle)
    if background.kind == "gradient":
        weight = (along - along.min()) / (along.max() - along.min())
    elif background.kind == "stripes":
        weight = 0.5 + 0.5 * np.sin(along * (2 * math.pi / background.period))
    else:
        waves = np.sin(along * (math.pi / background.period)) * np.sin(across * (math.pi / background.period))
        weight = (waves > 0).astype(np.float32)
    return first + weight[..., None] * (second - first)


def paint_outline(canvas: np.ndarray, outline: Sequence[tuple[float, float]], box: UnitBox, ink: np.ndarray) -> None:
    """Fill an outline (unit coordinates, `box` around it) with a colour (0 to 255 a channel, more is clipped)."""
    size = canvas.shape[0]
    left, top, right, bottom = box
    x0, y0 = max(math.floor(left * size), 0), max(math.floor(top * size), 0)
    x1, y1 = min(math.ceil(right * size), size), min(math.ceil(bottom * size), size)
    k = _SUPERSAMPLE
    stencil = Image.new("L", ((x1 - x0) * k, (y1 - y0) * k))
    # PIL addresses pixel centres, hence the half pixel.
    points = [((x * size - x0) * k - 0.5, (y * size - y0) * k - 0.5) for x, y in outline]
    ImageDraw.Draw(stencil).polygon(points, fill=1)
    fine = np.asarray(stencil, dtype=np.float32)
    alpha = fine.reshape(y1 - y0, k, x1 - x0, k).mean(axis=(1, 3))[..., None]
    region = canvas[y0:y1, x0:x1]
    region += alpha * (np.clip(ink, 0, 255) / 255 - region)
