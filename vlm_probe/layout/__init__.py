"""Where things are in the sequence and on the image."""

from vlm_probe.layout.boxes import AnyBox, PixelBox, UnitBox
from vlm_probe.layout.spans import ImageSpan
from vlm_probe.layout.token_layout import TokenLayout, lay_out
from vlm_probe.layout.transform import ImageTransform

__all__ = ["AnyBox", "ImageSpan", "ImageTransform", "PixelBox", "TokenLayout", "UnitBox", "lay_out"]
