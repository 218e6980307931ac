"""From a picture to the pixel tensor an encoder wants, and the map between the two."""

from __future__ import annotations

import hashlib
import io
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from vlm_probe.errors import VlmProbeError
from vlm_probe.layout import ImageTransform

ImageLike = Image.Image | np.ndarray | Tensor | str | Path | bytes | io.IOBase
"""What `open_image` takes."""
MAX_PIXELS = 100_000_000
"""An image of more pixels is refused before it is decoded (a small file can hold a huge one)."""
MAX_BYTES = 200_000_000
"""Of a file behind a URL."""


def open_image(image: ImageLike) -> Image.Image:
    """An RGB image, upright, from whatever holds one.

    image: a path, a URL (http, https), the bytes of an image file or an open binary file, a PIL image, an array
        [row, column, 3] (or [row, column] of grey), or a tensor [3, row, column]; numbers are uint8, or floats from
        0 to 1.

    Raises VlmProbeError that names the file where it is missing, cannot be decoded, is empty or is too large, and for
    numbers that are no picture.
    """
    if isinstance(image, np.ndarray | Tensor):
        return _of_numbers(image)
    if isinstance(image, Image.Image):
        if 0 in image.size:
            raise VlmProbeError(f"an image must have pixels, got {image.width} x {image.height}")
        return _rgb(ImageOps.exif_transpose(image))
    if isinstance(image, bytes):
        return _decoded(io.BytesIO(image), f"an image of {len(image)} bytes")
    if isinstance(image, str) and image.startswith(("http://", "https://")):
        return _decoded(io.BytesIO(_fetched(image)), image)
    if isinstance(image, str | Path):
        path = Path(image).expanduser()
        if not path.is_file():
            raise VlmProbeError(f"no image file at {str(path)!r}")
        return _decoded(path, repr(path.name))
    if hasattr(image, "read"):
        return _decoded(image, repr(getattr(image, "name", "an open file")))
    raise VlmProbeError(
        f"an image must be a path, a URL, bytes, a PIL image, an array or a tensor, got a {type(image).__name__}"
    )


def _of_numbers(image: np.ndarray | Tensor) -> Image.Image:
    """A picture of an array [row, column, 3] or [row, column], or a tensor [3, row, column]."""
    tensor = isinstance(image, Tensor)
    shape, kind = list(image.shape), str(image.dtype).removeprefix("torch.")
    expected = "a tensor [3, row, column]" if tensor else "an array [row, column, 3]"
    channels_last = image.movedim(0, -1) if tensor and image.ndim == 3 else image
    values = channels_last.detach().cpu().numpy() if isinstance(channels_last, Tensor) else channels_last
    if (
        values.dtype.kind == "f"
        and values.size
        and np.isfinite(values).all()
        and 0 <= values.min() <= values.max() <= 1
    ):
        values = (values * 255).round().astype(np.uint8)
    fits = values.ndim == 2 or (values.ndim == 3 and values.shape[-1] == 3)
    if values.dtype != np.uint8 or not fits or 0 in values.shape:
        raise VlmProbeError(f"an image must be {expected} of uint8, or of floats from 0 to 1, got {kind} {shape}")
    return Image.fromarray(np.ascontiguousarray(values)).convert("RGB")


def _fetched(url: str) -> bytes:
    """What is behind a URL."""
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            content = answer.read(MAX_BYTES + 1)
    except (OSError, ValueError, HTTPException) as error:
        raise VlmProbeError(f"{url} could not be fetched: {error}") from error
    if len(content) > MAX_BYTES:
        raise VlmProbeError(f"{url} is too large; at most {MAX_BYTES // 10**6} megabytes are read")
    return content


def _decoded(source: Any, name: str) -> Image.Image:
    """An image file; `name` is what messages call it."""
    try:
        with Image.open(source) as opened:
            width, height = opened.size
            if width * height > MAX_PIXELS:
                raise VlmProbeError(
                    f"{name} is {width} x {height} pixels; at most {MAX_PIXELS // 10**6} megapixels are read"
                )
            return _rgb(ImageOps.exif_transpose(opened))
    except Image.DecompressionBombError as error:
        raise VlmProbeError(f"{name} is too large; at most {MAX_PIXELS // 10**6} megapixels are read") from error
    except UnidentifiedImageError as error:
        raise VlmProbeError(f"{name} is not an image that can be decoded") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise VlmProbeError(f"{name} cannot be decoded: {error}") from error


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
