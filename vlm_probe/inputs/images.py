"""From a picture to the pixel tensor an encoder wants, and the map between the two."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from vlm_probe.errors import VlmProbeError
from vlm_probe.layout import ImageTransform

ImageLike = Image.Image | np.ndarray | str | Path
MAX_PIXELS = 100_000_000
"""An image of more pixels is refused before it is decoded (a small file can hold a huge one)."""


def open_image(image: ImageLike) -> Image.Image:
    """An RGB image from a path, a PIL image or an array [row, column, 3] of uint8, upright.

    Raises VlmProbeError that names the file where it is missing, cannot be decoded or is too large.
    """
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
            raise VlmProbeError(
                f"an image array must be uint8 of shape [row, column, 3], got {image.dtype} {list(image.shape)}"
            )
        return Image.fromarray(image)
    if isinstance(image, Image.Image):
        return _rgb(ImageOps.exif_transpose(image))
    path = Path(image)
    if not path.is_file():
        raise VlmProbeError(f"no image file at {str(path)!r}")
    try:
        with Image.open(path) as opened:
            width, height = opened.size
            if width * height > MAX_PIXELS:
                raise VlmProbeError(
                    f"{path.name!r} is {width} x {height} pixels; at most {MAX_PIXELS // 10**6} megapixels are read"
                )
            return _rgb(ImageOps.exif_transpose(opened))
    except Image.DecompressionBombError as error:
        raise VlmProbeError(f"{path.name!r} is too large; at most {MAX_PIXELS // 10**6} megapixels are read") from error
    except UnidentifiedImageError as error:
        raise VlmProbeError(f"{path.name!r} is not an image that can be decoded") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise VlmProbeError(f"{path.name!r} cannot be decoded: {error}") from error


def _rgb(image: Image.Image) -> Image.Image:
    """RGB; 16-bit grey is brought down to 8 bits first, which PIL would clip to white."""
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.uint32)
        image = Image.fromarray((values >> (8 if values.max(initial=0) >= 1 << 8 else 0)).clip(0, 255).astype(np.uint8))
    return image.convert("RGB")


def image_digest(image: Image.Image) -> str:
    """SHA-256 over size and RGB pixels: the same picture has the same digest in any file format."""
    return hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()


def _resized(size: Any, before: tuple[int, int]) -> tuple[int, int]:
    """(width, height) after a Hugging Face image processor's resize, from its `size` setting."""
    width, height = before
    if getattr(size, "shortest_edge", None):
        edge = size.shortest_edge
        long = int(edge * max(width, height) / min(width, height))
        return (edge, long) if width <= height else (long, edge)
    if getattr(size, "height", None) and getattr(size, "width", None):
        return size.width, size.height
    raise VlmProbeError(f"the image processor's size {dict(size)} is neither shortest_edge nor height and width")


@dataclass(frozen=True)
class ImagePreparer:
    """A Hugging Face image processor with LLaVA's way of making an image square."""

    processor: Any
    pad: bool
    """Pad to a square with the processor's mean colour first, as LLaVA's training did; otherwise
    the processor alone decides (CLIP's crops the centre)."""

    def __call__(self, image: Image.Image) -> tuple[Float[Tensor, "channel height width"], ImageTransform]:
        processor, original = self.processor, image.size
        # Newer LLaVA processors can pad by themselves.
        pad = self.pad or bool(getattr(processor, "do_pad", False) and "Llava" in type(processor).__name__)
        if pad and image.width != image.height:
            side = max(original)
            color = tuple(int(mean * 255) for mean in processor.image_mean)
            square = Image.new("RGB", (side, side), color)
            square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
            image = square
        before = image.size
        resized = _resized(processor.size, before) if processor.do_resize else before
        crop = None
        if getattr(processor, "do_center_crop", False):
            crop = (processor.crop_size.width, processor.crop_size.height)
        pixels = torch.as_tensor(np.asarray(processor(images=[image])["pixel_values"][0]))
        transform = ImageTransform.of(original, resized, pad=pad, crop=crop)
        if transform.size != (pixels.shape[-1], pixels.shape[-2]):
            raise VlmProbeError(
                f"{type(processor).__name__} returned {pixels.shape[-1]} x {pixels.shape[-2]} pixels where its "
                f"settings promise {transform.size[0]} x {transform.size[1]}: patches could not be mapped back"
            )
        return pixels, transform
