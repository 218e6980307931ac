"""Prismatic's ways of making a picture the encoder's square, with the map from one to the other.

As torchvision composes them (`Resize`, `CenterCrop`, bicubic), whose rounding is another than that of Hugging Face's
image processors: a pixel more on one side moves every patch.
"""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from vlm_probe.layout import ImageTransform

FITS = ("letterbox", "resize-naive", "resize-crop")
"""Padded alike on both sides and cropped; squeezed; cropped."""


@dataclass(frozen=True)
class Fit:
    """How a picture becomes a square."""

    kind: str
    """One of `FITS`."""
    pixels: int
    """Of the square's side."""
    shortest: int
    """What the shorter side is brought to before the centre is cropped."""

    def __call__(self, image: Image.Image, color: tuple[int, ...]) -> tuple[Image.Image, ImageTransform]:
        """The square, and the map to it. color: of what is padded."""
        original, left, top = image.size, 0, 0
        if self.kind == "letterbox":
            side = max(original)
            left, top = ((side - one) // 2 for one in original)
            padded = Image.new("RGB", (original[0] + 2 * left, original[1] + 2 * top), color)
            padded.paste(image, (left, top))
            image = padded
        before, resized = image.size, (self.pixels, self.pixels)
        if self.kind != "resize-naive":
            short = min(before)
            width, height = (self.shortest if one == short else int(self.shortest * one / short) for one in before)
            resized = (width, height)
        image = image.resize(resized, Image.Resampling.BICUBIC)
        x, y = (round((one - self.pixels) / 2.0) for one in resized)
        image = image.crop((x, y, x + self.pixels, y + self.pixels))
        scale = (resized[0] / before[0], resized[1] / before[1])
        offset = (left * scale[0] - x, top * scale[1] - y)
        return image, ImageTransform(original, image.size, scale, offset)
