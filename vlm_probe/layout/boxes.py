"""Boxes, in two types that cannot be taken for each other: pixels of an image, and shares of it."""

from __future__ import annotations

from typing import NamedTuple

Number = float | int
Edges = tuple[Number, Number, Number, Number]
"""Left, top, right, bottom; right and bottom are exclusive edges."""


class PixelBox(NamedTuple):
    """A box in pixels of the original image; right and bottom are exclusive edges."""

    left: Number
    top: Number
    right: Number
    bottom: Number

    def to_unit(self, width: int, height: int) -> UnitBox:
        """The same box as shares of an image of this size.

        >>> PixelBox(8, 16, 16, 32).to_unit(32, 64)
        UnitBox(left=0.25, top=0.25, right=0.5, bottom=0.5)
        """
        return UnitBox(self.left / width, self.top / height, self.right / width, self.bottom / height)


class UnitBox(NamedTuple):
    """A box in shares of the image's width and height, x to the right and y down, 0 to 1."""

    left: Number
    top: Number
    right: Number
    bottom: Number

    def to_pixels(self, width: int, height: int) -> PixelBox:
        """The same box in pixels of an image of this size.

        >>> UnitBox(0.25, 0.25, 0.5, 0.5).to_pixels(32, 64)
        PixelBox(left=8.0, top=16.0, right=16.0, bottom=32.0)
        """
        return PixelBox(self.left * width, self.top * height, self.right * width, self.bottom * height)


AnyBox = PixelBox | UnitBox | Edges
"""What methods take: a plain tuple is meant in pixels of the original image."""
