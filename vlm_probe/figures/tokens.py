"""A strip of pictures: a map for every token of an answer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from PIL import Image

from vlm_probe.errors import VlmProbeError
from vlm_probe.figures.given import check_dimensions, checked
from vlm_probe.figures.grids import case_panels
from vlm_probe.figures.tables import visible
from vlm_probe.layout import AnyBox


@checked
def token_strip(
    image: Image.Image,
    maps: xr.DataArray,
    *,
    boxes: Sequence[AnyBox] = (),
    title: str | None = None,
    columns: int = 4,
    most: int = 12,
) -> np.ndarray:
    """One map a token of the answer, each on a colour scale of its own; the tokens' axes [token].

    maps: DataArray(token, row, col), from 0, with the token's text as coordinate token and, where it is known, its
        probability; attrs give title and model.
    most: tokens that are drawn; the title says how many there are.

    Raises VlmProbeError for maps with other dimensions, and for what is no picture or array.
    """
    check_dimensions("token_strip", maps, "token", "row", "col")
    n = maps.sizes["token"]
    if not n:
        raise VlmProbeError("token_strip draws one token or more, got none")
    own = maps.transpose("token", "row", "col")
    words = [visible(str(text)) for text in own.coords["token"].values.tolist()] if "token" in own.coords else []
    sure = own.coords["probability"].values.tolist() if "probability" in own.coords else []
    cases = []
    for i in range(min(n, most)):
        text = f"{i + 1}. {words[i] if words else ''}"
        if sure:
            text += f"\np = {sure[i]:.2f}"
        cases.append({"image": image, "map": own.isel(token=i, drop=True), "boxes": boxes, "text": text})
    named = str(maps.attrs.get("title", "")) if title is None else title
    if n > most:
        named += f" (the first {most} of {n} tokens)"
    return case_panels(cases, title=named, columns=columns)
