"""Linear probes at every point of a model, layer by layer, in one table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from vlm_probe.embedding.probe import probe_each
from vlm_probe.errors import VlmProbeError


def probe_layers(
    data: xr.Dataset,
    labels: Sequence[str],
    *,
    types: str | None = None,
    folds: int = 5,
    seed: int = 0,
    mdl: bool = False,
    solver: str = "torch",
    device: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> pd.DataFrame:
    """`linear_probe` at every point of a set of features, for every label, grouped by image.

    data: from `features`, pooled to one vector an item. labels: coordinates of it. types: the
    coordinate that control labels depend on. solver, device: as in `linear_probe`; the torch solver takes
    as many layers at once as fit.
    progress: called with the number of probes just done.

    Returns one row a point and label: columns point, label, and those of `linear_probe`.

    Raises VlmProbeError for an unknown label, features that are not pooled, and as `linear_probe` does.
    """
    wanted = [*labels, *([types] if types else [])]
    unknown = [name for name in wanted if name not in data.coords]
    if unknown:
        raise VlmProbeError(
            f"the features have no label {', '.join(unknown)}; they have {', '.join(map(str, data.coords))}"
        )
    points = {str(name): values.values for name, values in data.data_vars.items()}
    given: dict[str, Any] = {"folds": folds, "seed": seed, "mdl": mdl, "solver": solver, "device": device}
    given |= {"groups": data["image"].values, "types": None if types is None else data[types].values}
    rows = []
    for label in labels:
        for names in _of_one_width(points):
            try:
                found = probe_each([points[name] for name in names], data[label].values, **given)
            except VlmProbeError as error:
                raise VlmProbeError(f"{label} at {_blamed(points, names)}: {error}") from error
            rows += [{"point": name, "label": label, **one} for name, one in zip(names, found, strict=True)]
            if progress is not None:
                progress(len(names))
    table = pd.DataFrame(rows)
    order = {name: i for i, name in enumerate(points)}
    table = table.sort_values("point", key=lambda c: c.map(order), kind="stable", ignore_index=True)
    table.attrs = {"title": "linear probes", "units": "share right", **data.attrs}
    return table


def _of_one_width(points: dict[str, np.ndarray]) -> list[list[str]]:
    """The points' names in batches that the solver can stack."""
    widths: dict[tuple[int, ...], list[str]] = {}
    for name, values in points.items():
        widths.setdefault(values.shape[1:], []).append(name)
    return list(widths.values())


def _blamed(points: dict[str, np.ndarray], names: list[str]) -> str:
    """The first of some points whose features are to blame, or the first."""
    bad = (name for name in names if not np.isfinite(points[name]).all() or (points[name] == points[name][:1]).all())
    return next(bad, names[0])
