"""What probes find, item by item."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from vlm_probe.embedding import features, held_out_predictions
from vlm_probe.errors import VlmProbeError
from vlm_probe.hooked import HookedVLM
from vlm_probe.items.item import Item

POOL_OF = {"color": "box", "shape": "box", "position": "box", "count": "mean", "existence": "mean"}
"""Label -> where it is looked for: in the box of the object asked about, or in the mean over all patches."""


def same_items(tables: Sequence[pd.DataFrame], names: Sequence[str]) -> None:
    """VlmProbeError where measured items (column id) differ between models."""
    for name, table in zip(names[1:], tables[1:], strict=True):
        if table["id"].tolist() != tables[0]["id"].tolist():
            raise VlmProbeError(f"{names[0]} and {name} were measured on different items; measure both on one list")


def probe_items(
    model: HookedVLM, items: Sequence[Item], points: Sequence[str], labels: Sequence[str], *, seed: int = 0
) -> pd.DataFrame:
    """Whether a probe at each point has each label of each item right while the item is held out.

    The model runs once for every way of pooling, whatever the number of points. Returns one row a point and
    item: columns id, image, point, and one of 0 and 1 for every label.
    """
    about = {"id": [i.id for i in items], "image": [i.image for i in items]}
    tables = {point: pd.DataFrame({**about, "point": point}) for point in points}
    for pool in dict.fromkeys(POOL_OF[label] for label in labels):
        data = features(model, items, points, pool=pool)
        for label in [one for one in labels if POOL_OF[one] == pool]:
            truth = data[label].values
            for point, table in tables.items():
                found = held_out_predictions(data[point].values, truth, groups=data["image"].values, seed=seed)
                table[label] = (found == truth).astype(float)
    return pd.concat(tables.values(), ignore_index=True)
