"""How LLaVA-NeXT cuts a picture into tiles beside the whole of it, and what is left of their patches.

Liu et al. 2024 ("LLaVA-NeXT: improved reasoning, OCR, and world knowledge", AnyRes): of some resolutions the one that
wastes least is taken, the picture brought into it and padded, and cut into squares of the encoder's size. Behind the
encoder the squares are put together again, rows and columns of padding are left out, and every row gets one token more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vlm_probe.errors import VlmProbeError
from vlm_probe.layout.transform import ImageTransform


@dataclass(frozen=True)
class Tiling:
    """A picture in tiles."""

    tiles: tuple[int, int]
    """Rows and columns of them."""
    grid: tuple[int, int]
    """Rows and columns of patches that are left."""
    transform: ImageTransform
    """From the picture to the pixels under that grid."""

    @property
    def positions(self) -> int:
        """What it takes in the prompt: its patches, and one position a row."""
        return self.grid[0] * (self.grid[1] + 1)


def tiling(size: tuple[int, int], resolutions: Sequence[tuple[int, int]], side: int, patch_size: int) -> Tiling:
    """The tiles of a picture.

    size: of the picture, (width, height). resolutions: (height, width) each. side, patch_size: pixels of a tile and a
    patch.

    Raises VlmProbeError for tiles that are no whole patches.

    >>> made = tiling((600, 300), [(336, 672), (672, 672)], 336, 14)
    >>> made.tiles, made.grid
    ((1, 2), (24, 48))
    """
    if side % patch_size:
        raise VlmProbeError(f"tiles of {side} pixels are no whole patches of {patch_size}")
    width, height = size
    down, across = _best(width, height, resolutions)
    patches = side // patch_size
    tiles = (down // side, across // side)
    full = (tiles[0] * patches, tiles[1] * patches)
    # The picture inside the resolution.
    if across / width < down / height:
        inside = (across, min(math.ceil(height * across / width), down))
    else:
        inside = (min(math.ceil(width * down / height), across), down)
    left, top = (across - inside[0]) // 2, (down - inside[1]) // 2
    # What counts as padding is decided in patches, by the picture's own proportions.
    if width / height > full[1] / full[0]:
        off = (full[0] - int(round(height * full[1] / width, 7))) // 2, 0
    else:
        off = 0, (full[1] - int(round(width * full[0] / height, 7))) // 2
    grid = (full[0] - 2 * off[0], full[1] - 2 * off[1])
    transform = ImageTransform(
        original=size,
        size=(grid[1] * patch_size, grid[0] * patch_size),
        scale=(inside[0] / width, inside[1] / height),
        offset=(float(left - off[1] * patch_size), float(top - off[0] * patch_size)),
    )
    return Tiling(tiles, grid, transform)


def _best(width: int, height: int, resolutions: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The resolution that keeps most of a picture, and of those the smallest waste."""
    kept, found = (-1, 0), (0, 0)
    for down, across in resolutions:
        scale = min(across / width, down / height)
        effective = min(int(width * scale) * int(height * scale), width * height)
        if (effective, effective - down * across) > kept:
            kept, found = (effective, effective - down * across), (down, across)
    return found
