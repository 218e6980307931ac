"""Scenes to pixels, at any resolution."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from vlm_probe.scenes.world import COLORS, Background, Box, Scene, SceneObject

_SUPERSAMPLE = 4
"""Outlines are drawn this many times finer and averaged down: edges are smooth at 64 pixels too."""


@lru_cache(maxsize=4)
def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    centers = (np.arange(size, dtype=np.float32) + 0.5) / size
    return centers[None, :], centers[:, None]


def _ground(background: Background, size: int) -> np.ndarray:
    """[size, size, 3] float32 in [0, 1]."""
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


def _paint(canvas: np.ndarray, obj: SceneObject) -> None:
    size = canvas.shape[0]
    left, top, right, bottom = obj.box
    x0, y0 = max(math.floor(left * size), 0), max(math.floor(top * size), 0)
    x1, y1 = min(math.ceil(right * size), size), min(math.ceil(bottom * size), size)
    k = _SUPERSAMPLE
    stencil = Image.new("L", ((x1 - x0) * k, (y1 - y0) * k))
    # PIL addresses pixel centres, hence the half pixel.
    points = [((x * size - x0) * k - 0.5, (y * size - y0) * k - 0.5) for x, y in obj.outline]
    ImageDraw.Draw(stencil).polygon(points, fill=1)
    fine = np.asarray(stencil, dtype=np.float32)
    alpha = fine.reshape(y1 - y0, k, x1 - x0, k).mean(axis=(1, 3))[..., None]
    ink = np.clip(np.asarray(COLORS[obj.color], dtype=np.float32) * np.asarray(obj.shade, np.float32), 0, 255)
    region = canvas[y0:y1, x0:x1]
    region += alpha * (ink / 255 - region)


def render(scene: Scene, size: int) -> np.ndarray:
    """Draw a scene as [size, size, 3] uint8 (row, column, RGB)."""
    canvas = _ground(scene.background, size)
    for obj in scene.objects:
        _paint(canvas, obj)
    return (canvas * 255 + 0.5).astype(np.uint8)


def scene_image(scene: Scene, size: int) -> Image.Image:
    """`render` as a PIL image."""
    return Image.fromarray(render(scene, size))


def pixel_box(box: Box, width: int, height: int) -> Box:
    """A box in unit coordinates, in pixels of an image of this size."""
    left, top, right, bottom = box
    return left * width, top * height, right * width, bottom * height
