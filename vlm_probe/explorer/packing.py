"""Small enough for a page: maps as bytes with their scales, words as numbers in one table, a picture as a data URI.

A packed array is a dict that JSON can hold, and that `explorer.js` reads: `shape`; `data`, base64 of a byte a value,
the last axis fastest; `low` and `high`, base64 of a little-endian float32 for every row of the last axis: the value is
low + byte / 255 * (high - low). A map has a row of its own, so that a faint one keeps as many steps as a strong one.
"""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image

from vlm_probe.errors import VlmProbeError

STEPS = 255
"""Between the lowest and the highest value of a row."""
LONGEST = 768
"""Pixels of a picture's longer side, at most."""
PNG_BYTES = 120_000
"""A picture that takes more as PNG is written as JPEG."""
_SMALL = 256
"""Pictures of fewer pixels a side are enlarged without blur."""


def _base64(values: np.ndarray) -> str:
    return base64.b64encode(values.tobytes()).decode()


def packed(values: Float[np.ndarray, "*lead last"]) -> dict[str, Any]:
    """Values as bytes, each row of the last axis on a scale of its own.

    Raises VlmProbeError for values that are no numbers, or infinite.
    """
    rows = np.asarray(values, dtype=np.float64)
    if not np.isfinite(rows).all():
        raise VlmProbeError(f"{int((~np.isfinite(rows)).sum())} of {rows.size} values are no finite numbers")
    # As the page will read them: rounded.
    low, high = (np.asarray(pick(rows, -1), dtype="<f4") for pick in (np.min, np.max))
    width = (high.astype(np.float64) - low)[..., None]
    share = np.divide(rows - low[..., None], width, out=np.zeros_like(rows), where=width > 0)
    return {
        "shape": list(rows.shape),
        "low": _base64(low),
        "high": _base64(high),
        "data": _base64((share.clip(0, 1) * STEPS).round().astype(np.uint8)),
    }


def unpacked(given: dict[str, Any]) -> Float[np.ndarray, "*lead last"]:
    """What `packed` wrote, to within half a step of its row's scale."""
    shape = tuple(given["shape"])
    read = {name: np.frombuffer(base64.b64decode(given[name]), "<f4") for name in ("low", "high")}
    low, high = (read[name].astype(np.float64).reshape(*shape[:-1], 1) for name in ("low", "high"))
    data = np.frombuffer(base64.b64decode(given["data"]), np.uint8).reshape(shape)
    return low + data / STEPS * (high - low)


class Words:
    """Texts that come again and again, each kept once: what refers to one is its number."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    @property
    def texts(self) -> list[str]:
        """By number."""
        return list(self._numbers)

    def numbers(self, texts: Any) -> dict[str, Any]:
        """An array of texts as numbers: `shape`, and `data`, base64 of little-endian uint32, of the last axis fastest.

        Half of a surrogate pair, which is no text, becomes a question mark.
        """
        given = np.asarray(texts, dtype=object)
        clean = (str(text).encode(errors="replace").decode() for text in given.ravel())
        found = np.asarray([self._numbers.setdefault(text, len(self._numbers)) for text in clean], dtype="<u4")
        return {"shape": list(given.shape), **narrow(found)}


def narrow(numbers: np.ndarray) -> dict[str, Any]:
    """Whole numbers from 0 as little-endian bytes, of 16 bits where those hold them: `bits` and `data`."""
    bits = 16 if numbers.max(initial=0) < 2**16 else 32
    return {"bits": bits, "data": _base64(numbers.astype(f"<u{bits // 8}"))}


def picture(image: Image.Image) -> dict[str, Any]:
    """A picture for the page: `uri`, `width` and `height` of the original in pixels, and whether to show it `sharp`.

    Made smaller where its longer side exceeds `LONGEST`; PNG, or JPEG where that is much smaller.
    """
    shown = image.convert("RGB")
    shown.thumbnail((LONGEST, LONGEST))
    buffer = io.BytesIO()
    shown.save(buffer, format="PNG", optimize=True)
    kind = "png"
    if buffer.tell() > PNG_BYTES:
        buffer, kind = io.BytesIO(), "jpeg"
        shown.save(buffer, format="JPEG", quality=85, optimize=True)
    return {
        "uri": f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}",
        "width": image.width,
        "height": image.height,
        "sharp": max(image.size) < _SMALL,
    }
