"""Outlines of shapes around their centre, in units of a radius (x to the right, y down)."""

from __future__ import annotations

import math
from collections.abc import Sequence

Outline = Sequence[tuple[float, float]]


def _polygon(radii: list[float], start: float) -> list[tuple[float, float]]:
    """Vertices at equal angles, clockwise from `start` (radians, 0 = right), one radius each."""
    step = 2 * math.pi / len(radii)
    return [(r * math.cos(start + i * step), r * math.sin(start + i * step)) for i, r in enumerate(radii)]


def _arc(center: float, radius: float, start: float, end: float) -> list[tuple[float, float]]:
    """Points of a circle whose centre is (`center`, 0), from one angle to another (degrees)."""
    steps = 20
    angles = [math.radians(start + (end - start) * i / steps) for i in range(steps + 1)]
    return [(center + radius * math.cos(a), radius * math.sin(a)) for a in angles]


def _moon() -> list[tuple[float, float]]:
    """A crescent, open to the right: an arc, and back along a wider one that cuts it at its tips."""
    outer = _arc(0.2, 1.0, 55.0, 305.0)
    (x, y), middle = outer[-1], 0.62
    tip = math.degrees(math.atan2(-y, x - middle))
    return [*outer, *_arc(middle, math.hypot(x - middle, y), 360.0 - tip, tip)[1:-1]]


def _heart() -> list[tuple[float, float]]:
    """The usual curve of cosines, scaled and moved into the unit square."""
    turns = [2 * math.pi * i / 40 for i in range(40)]
    heights = [13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t) for t in turns]
    return [(0.94 * math.sin(t) ** 3, -(height + 2) / 16) for t, height in zip(turns, heights, strict=True)]


_ARM = 0.34
OUTLINES: dict[str, list[tuple[float, float]]] = {
    "circle": _polygon([1.0] * 32, 0.0),
    "square": [(-0.86, -0.86), (0.86, -0.86), (0.86, 0.86), (-0.86, 0.86)],
    "triangle": [(0.0, -0.95), (0.95, 0.85), (-0.95, 0.85)],
    "star": _polygon([1.1, 0.46] * 5, -math.pi / 2),
    "cross": [
        (-_ARM, -1),
        (_ARM, -1),
        (_ARM, -_ARM),
        (1, -_ARM),
        (1, _ARM),
        (_ARM, _ARM),
        (_ARM, 1),
        (-_ARM, 1),
        (-_ARM, _ARM),
        (-1, _ARM),
        (-1, -_ARM),
        (-_ARM, -_ARM),
    ],
    "heart": _heart(),
    "moon": _moon(),
    "bolt": [(0.45, -1.0), (-0.85, 0.25), (-0.15, 0.25), (-0.45, 1.0), (0.85, -0.3), (0.2, -0.3)],
    "bar": [(-1.0, -0.32), (1.0, -0.32), (1.0, 0.32), (-1.0, 0.32)],
}
"""Every shape any world of this package has. Of the last four no two, nor one with an earlier one, share more than
seven tenths of their pixels at 64 pixels a side, wherever they fall on its raster (circle and square share 0.83)."""
