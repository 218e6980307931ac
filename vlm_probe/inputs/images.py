"""From a picture to the pixel tensor an encoder wants, and the map between the two."""

from __future__ import annotations

import hashlib
import io
import os
import threading
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from vlm_probe.errors import VlmProbeError, first_line
from vlm_probe.inputs.fitting import Fit
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
        # One that was opened and not loaded is decoded only now.
        file = Path(str(getattr(image, "filename", ""))).name
        return _attempted(lambda: _upright(image), repr(file) if file else "an image")
    if isinstance(image, bytes):
        return _decoded(io.BytesIO(image), getattr(image, "name", "") or f"an image of {len(image)} bytes")
    if isinstance(image, str) and image.startswith(("http://", "https://")):
        return _decoded(io.BytesIO(_fetched(image)), image)
    if isinstance(image, str | Path):
        # Path's own raise where there is no such user, and for a name that is too long.
        path = Path(os.path.expanduser(image))
        if not os.path.isfile(path):
            raise VlmProbeError(f"no image file at {str(path)!r:.400}")
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


class _Bounded(io.BufferedReader):
    """A file that makes no room for more than it holds, as Python does where a broken header asks for gigabytes."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > io.DEFAULT_BUFFER_SIZE:
            size = min(size, max(os.fstat(self.fileno()).st_size - self.tell(), 0))
        return super().read(size)


def _decoded(source: Any, name: str) -> Image.Image:
    """An image file (its path, or open); `name` is what messages call it."""

    def decode() -> Image.Image:
        with (
            _Bounded(io.FileIO(source)) if isinstance(source, Path) else nullcontext(source) as file,
            Image.open(file) as opened,
        ):
            width, height = opened.size
            if width * height > MAX_PIXELS:
                raise VlmProbeError(
                    f"{name} is {width} x {height} pixels; at most {MAX_PIXELS // 10**6} megapixels are read"
                )
            if opened.format == "EPS":
                # Decoding it would run Ghostscript on what the file says.
                raise VlmProbeError(f"{name} is PostScript, which is a program; save what it draws as PNG")
            return _upright(opened)

    return _attempted(decode, name)


def _attempted(decode: Callable[[], Image.Image], name: str) -> Image.Image:
    """What `decode` makes; all that Pillow raises over a file is a VlmProbeError that names it."""
    try:
        with _quiet():
            return decode()
    except VlmProbeError:
        raise
    except Image.DecompressionBombError as error:
        raise VlmProbeError(f"{name} is too large; at most {MAX_PIXELS // 10**6} megapixels are read") from error
    except UnidentifiedImageError as error:
        raise VlmProbeError(f"{name} is not an image that can be decoded") from error
    # Its parsers raise whatever they stumble over: struct.error, zlib.error, EOFError, KeyError, MemoryError, ...
    except Exception as error:
        raise VlmProbeError(f"{name} cannot be decoded: {first_line(error)}") from error


_filters = ExitStack()
_decoding = 0
_lock = threading.Lock()


def _after_fork() -> None:
    """No thread that was decoding is in the child."""
    global _decoding, _lock
    _decoding, _lock = 0, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Pillow's warnings: of sizes that are allowed here, and of metadata that nothing here reads.

    The filters are the process's own: the first thread that decodes sets them, and the last one sets them back.
    """
    global _decoding
    with _lock:
        if not _decoding:
            _filters.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", module=r"PIL\.")
        _decoding += 1
    try:
        yield
    finally:
        with _lock:
            _decoding -= 1
            if not _decoding:
                _filters.close()


_TURNED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF's orientation -> what makes the picture upright."""
_ORIENTATION = 0x0112
_METADATA = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")
"""Where Pillow keeps the orientation."""


def _upright(image: Image.Image) -> Image.Image:
    """RGB and upright. Not `ImageOps.exif_transpose`, to which a broken EXIF block is a broken picture."""
    image.load()
    try:
        turned = _TURNED.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # as parsers raise, see above
        turned = None
    made = _rgb(image)
    if 0 in made.size:
        raise ValueError("it has no pixels")
    if turned is not None:
        made = made.transpose(turned)
    for name in _METADATA:  # or it would be turned again when it is opened again
        made.info.pop(name, None)
    return made


def _rgb(image: Image.Image) -> Image.Image:
    """RGB; of what PIL would clip to white or black, 16-bit grey and floats are brought to 8 bits first."""
    if image.mode.startswith("I"):
        values = np.asarray(image).clip(0).astype(np.uint32)
        image = Image.fromarray((values >> (8 if values.max(initial=0) >= 1 << 8 else 0)).clip(0, 255).astype(np.uint8))
    elif image.mode == "F":
        values = np.asarray(image)
        low, high = float(values.min(initial=0)), float(values.max(initial=0))
        if not 0 <= low <= high <= 255:  # NaN too
            raise ValueError(f"its numbers must go from 0 to 1 or to 255, and go from {low:g} to {high:g}")
        image = Image.fromarray((values * (255 if high <= 1 else 1)).round().astype(np.uint8))
    elif image.mode == "P" and isinstance(image.info.get("transparency"), bytes):
        image = image.convert("RGBA")  # as PIL warns it should be
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


MORE = "vision_"
"""What folders of further image processors begin with, inside a checkpoint."""


def _edge(size: Any) -> int:
    return size.shortest_edge or size.height


@dataclass(frozen=True)
class ImagePreparer:
    """A Hugging Face image processor with LLaVA's way of making an image square."""

    processor: Any
    pad: bool
    """Pad to a square with the processor's mean colour first, as LLaVA's training did; otherwise
    the processor alone decides (CLIP's crops the centre)."""
    more: tuple[Any, ...] = ()
    """Processors of encoders behind the first: what they make are further channels."""
    fit: Fit | None = None
    """What makes a picture the encoder's square, where the processors do not."""

    def __call__(self, image: Image.Image) -> tuple[Float[Tensor, "*tile channels height width"], ImageTransform]:
        """Three channels an encoder, and the one map from the picture to all of them.

        Of a picture that is cut into tiles (AnyRes) the whole comes first, and the map is to that.

        Raises VlmProbeError for a processor that makes other sizes than its settings say, and for several that would
        show their encoders different parts of the picture.
        """
        made = [self._by(processor, image) for processor in (self.processor, *self.more)]
        pixels, transforms = zip(*made, strict=True)
        if len(set(transforms)) > 1:
            raise VlmProbeError("the image processors of the encoders cut pictures differently: patches would not meet")
        return torch.cat(pixels), transforms[0]

    @property
    def scans(self) -> bool:
        """Whether long pictures are shown in crops too (Gemma 3's pan and scan, where its processor asks for it)."""
        return bool(getattr(self.processor, "do_pan_and_scan", False))

    def crops(self, image: Image.Image) -> list[tuple[int, int, int, int]]:
        """The boxes (left, top, right, bottom) that pan and scan shows beside the whole picture, as its processor cuts
        them."""
        own = self.processor
        if not self.scans:
            return []
        least, most, ratio = (
            getattr(own, f"pan_and_scan_{name}", None) or usual
            for name, usual in (("min_crop_size", 256), ("max_num_crops", 4), ("min_ratio_to_activate", 1.2))
        )
        found = own.pan_and_scan(np.asarray(image).transpose(2, 0, 1), least, most, ratio)
        across = image.width >= image.height  # they stand in one row, or one column
        boxes = []
        for number, crop in enumerate(found):
            at = number * (found[0].shape[2] if across else found[0].shape[1])
            left, top = (at, 0) if across else (0, at)
            boxes.append((left, top, left + crop.shape[2], top + crop.shape[1]))
        return boxes

    def save(self, folder: Path) -> None:
        """Write the processors into a checkpoint's folder."""
        self.processor.save_pretrained(folder)
        for number, processor in enumerate(self.more):
            processor.save_pretrained(folder / f"{MORE}{number + 1}")

    def _by(self, processor: Any, image: Image.Image) -> tuple[Tensor, ImageTransform]:
        original = image.size
        if self.fit is not None:
            square, transform = self.fit(image, tuple(int(mean * 255) for mean in processor.image_mean))
            return torch.as_tensor(np.asarray(processor(images=[square])["pixel_values"][0])), transform
        # Newer LLaVA processors can pad by themselves.
        pad = self.pad or bool(getattr(processor, "do_pad", False) and "Llava" in type(processor).__name__)
        pad = pad and not getattr(processor, "image_grid_pinpoints", None)  # there it is how many tiles that is padded
        if pad and image.width != image.height:
            side = max(original)
            color = tuple(int(mean * 255) for mean in processor.image_mean)
            square = Image.new("RGB", (side, side), color)
            square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
            image = square
        before = image.size
        resized = _resized(processor.size, before) if processor.do_resize else before
        tiled = bool(getattr(processor, "image_grid_pinpoints", None))
        crop = None
        if getattr(processor, "do_center_crop", False) and not tiled:
            crop = (processor.crop_size.width, processor.crop_size.height)
        if tiled:  # the whole picture is squeezed to the square that its tiles have
            resized = (_edge(processor.size), _edge(processor.size))
        whole = {"do_pan_and_scan": False} if self.scans else {}
        pixels = torch.as_tensor(np.asarray(processor(images=[image], **whole)["pixel_values"][0]))
        transform = ImageTransform.of(original, resized, pad=pad, crop=crop)
        if transform.size != (pixels.shape[-1], pixels.shape[-2]):
            raise VlmProbeError(
                f"{type(processor).__name__} returned {pixels.shape[-1]} x {pixels.shape[-2]} pixels where its "
                f"settings promise {transform.size[0]} x {transform.size[1]}: patches could not be mapped back"
            )
        return pixels, transform
