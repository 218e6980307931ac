"""How pixels of the original image map to pixels of the model's input and back."""

from __future__ import annotations

import math
from dataclasses import dataclass

from vlm_probe.layout.boxes import AnyBox, Edges, PixelBox, UnitBox


@dataclass(frozen=True)
class ImageTransform:
    """The affine map from pixels of the original image to pixels of the model's input.

    x_model = x * scale[0] + offset[0], and likewise for y. What the map sends outside the model's
    image was cropped away; what nothing is sent to is padding.
    """

    original: tuple[int, int]
    """(width, height) of the original image."""
    size: tuple[int, int]
    """(width, height) of the model's input."""
    scale: tuple[float, float]
    offset: tuple[float, float]

    @classmethod
    def of(
        cls,
        original: tuple[int, int],
        resized: tuple[int, int],
        *,
        pad: bool = False,
        crop: tuple[int, int] | None = None,
    ) -> ImageTransform:
        """The map of an image processor: pad to a square, resize to `resized`, crop the centre.

        All sizes are (width, height). Padding goes on both ends of the shorter side, the odd pixel
        on the right or bottom, as LLaVA does it. Where the crop is larger than the image it pads.
        Both round as transformers does.

        >>> ImageTransform.of((30, 20), (15, 15), pad=True).to_original((0, 0, 15, 15))
        PixelBox(left=0.0, top=-5.0, right=30.0, bottom=25.0)
        """
        side = max(original)
        left, top = ((side - original[0]) // 2, (side - original[1]) // 2) if pad else (0, 0)
        before = (side, side) if pad else original
        scale = (resized[0] / before[0], resized[1] / before[1])
        size = crop or resized
        x, y = (
            -((have - want) // 2) if have >= want else math.ceil((want - have) / 2)
            for have, want in zip(resized, size, strict=True)
        )
        return cls(original, size, scale, (left * scale[0] + x, top * scale[1] + y))

    def to_model(self, box: AnyBox) -> Edges:
        """A box of the original image in pixels of the model's input (may lie outside it)."""
        if isinstance(box, UnitBox):
            box = box.to_pixels(*self.original)
        (sx, sy), (ox, oy) = self.scale, self.offset
        return box[0] * sx + ox, box[1] * sy + oy, box[2] * sx + ox, box[3] * sy + oy

    def to_original(self, box: Edges) -> PixelBox:
        """A box of the model's input in pixels of the original image (outside it: padding)."""
        (sx, sy), (ox, oy) = self.scale, self.offset
        return PixelBox((box[0] - ox) / sx, (box[1] - oy) / sy, (box[2] - ox) / sx, (box[3] - oy) / sy)
