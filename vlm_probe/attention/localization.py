"""Does a map look at the right place? Measures against a known box, each beside its control."""

from __future__ import annotations

import numpy as np
import xarray as xr
from jaxtyping import Float

from vlm_probe.errors import VlmProbeError


def union_coverage(coverages: list[Float[np.ndarray, "row col"]]) -> Float[np.ndarray, "row col"]:
    """Share of every patch inside any of several boxes (boxes of one scene do not overlap)."""
    return np.clip(np.sum(coverages, axis=0), 0.0, 1.0)


def share_in_box(map_: xr.DataArray, coverage: Float[np.ndarray, "row col"]) -> xr.DataArray:
    """The share of a map's mass that falls inside a box; a patch counts by its covered area.

    Parameters
    ----------
    map_: any non-negative map with dimensions row and col, others are kept.
    coverage: from `TokenLayout.box_coverage`.

    Returns
    -------
    DataArray without row and col, 0 to 1; NaN where the map has no mass. Even mass gives
    `coverage.mean()`, the box's share of the area.
    """
    if tuple(map_.sizes[d] for d in ("row", "col")) != coverage.shape:
        raise VlmProbeError(
            f"the map has {map_.sizes['row']} x {map_.sizes['col']} patches, the box coverage {list(coverage.shape)}"
        )
    weights = xr.DataArray(coverage, dims=("row", "col"))
    total = map_.sum(("row", "col"))
    return (map_ * weights).sum(("row", "col")) / total.where(total > 0)


def points_at_box(map_: xr.DataArray, coverage: Float[np.ndarray, "row col"]) -> float:
    """Pointing game (Zhang et al. 2018, arXiv:1608.00507): is the map's highest patch in the box?

    A patch is in the box if the box covers any of it. Deviations: no tolerance of 15 pixels, a
    patch is already that coarse; where several patches are the highest, each counts for its share, so that an
    even map has the chance of a patch drawn at random.

    Returns 1.0 or 0.0, between them where several are the highest; NaN for a map without mass, which points nowhere.
    """
    values = map_.transpose("row", "col").values
    if not values.max() > 0:
        return float("nan")
    return float((coverage[values == values.max()] > 0).mean())
