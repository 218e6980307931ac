"""A page of image pairs that two encoders see differently."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from vlm_probe.inputs.images import ImageLike, open_image
from vlm_probe.report.page import image_uri, write_page


def write_pairs(pairs: pd.DataFrame, images: Sequence[ImageLike], out: Path) -> Path:
    """Write `pairs.html` to the folder `out`: the pairs of `embedding.blind_pairs` with their pictures.

    images: those the pairs were found among, in the same order. Returns the page's path.

    Raises VlmProbeError where an image cannot be read or the folder cannot be written.
    """
    shown = [
        {
            "names": (row["name_first"], row["name_second"]),
            "uris": [image_uri(open_image(images[row[side]]), longest=240) for side in ("first", "second")],
            **{key: f"{row[key]:.2f}" for key in ("similarity_a", "similarity_b")},
            **{key: f"{100 * row[key]:.0f}" for key in ("percentile_a", "percentile_b")},
        }
        for row in pairs.to_dict("records")
    ]
    page = out / "pairs.html"
    write_page(page, "pairs.html", pairs=shown, **{k: pairs.attrs[k] for k in ("title", "a", "b", "images", "skipped")})
    return page
