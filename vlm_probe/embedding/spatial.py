"""Which object is this patch on? A linear probe of single patches, giving a map and its overlap with the truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from vlm_probe.embedding.probe import held_out_predictions
from vlm_probe.errors import VlmProbeError
from vlm_probe.evidence.intervals import paired_bootstrap
from vlm_probe.hooked import HookedVLM
from vlm_probe.items.item import Item
from vlm_probe.layout import UnitBox
from vlm_probe.scenes.world import Scene, SceneObject

GROUND = "ground"
"""The label of a patch that is on no object."""


NAMES: dict[str, Callable[[SceneObject], str]] = {
    "kind": lambda o: o.name,
    "color": lambda o: o.color,
    "shape": lambda o: o.shape,
    "object": lambda o: "object",
}
"""What a generated object can be called: by color and shape, by one of them, or just "object"."""


def _named_boxes(item: Item, of: str) -> list[tuple[str, UnitBox]]:
    """What stands where: the objects of a generated scene, or an item's own boxes, which have no names."""
    if isinstance(item.source, Scene):
        return [(NAMES[of](o), o.box) for o in item.source.objects]
    return [("object", box) for box in item.boxes]


def patch_labels(model: HookedVLM, items: Sequence[Item], *, of: str = "kind", least: float = 0.5) -> xr.DataArray:
    """What every patch of every item's image is on, as the model's encoder cuts it up.

    of: how objects of generated scenes are named: "kind" (color and shape), "color", "shape" or "object".
    least: share of a patch that a box must cover; of several, the one that covers most counts.

    Returns
    -------
    DataArray(item, row, col) of labels: names of objects ("object" in items from files), "ground"
    elsewhere; coordinates id and image along item, and the patches' pixel edges on each item's image.

    Raises VlmProbeError for an unknown way of naming, and an item without any box.
    """
    if of not in NAMES:
        raise VlmProbeError(f"no labels of {of!r}; there are {', '.join(NAMES)}")
    grids, edges = [], []
    for item in items:
        named = _named_boxes(item, of)
        if not named:
            raise VlmProbeError(f"item {item.id} has no box, so nothing says what its patches are on")
        layout = model.prepare(model.picture(item), item.question).layout
        coverage = np.stack([layout.box_coverage(box) for _, box in named])
        edges.append(layout.image().edges())
        names = np.asarray([name for name, _ in named], dtype=object)
        grids.append(np.where(coverage.max(0) >= least, names[coverage.argmax(0)], GROUND))
    coords: dict[str, Any] = {name: ("item", [getattr(item, name) for item in items]) for name in ("id", "image")}
    for name, (axis, _) in edges[0].items():
        coords[name] = (("item", axis), np.stack([of_one[name][1] for of_one in edges]))
    return xr.DataArray(
        np.stack(grids).astype(str),
        dims=("item", "row", "col"),
        coords=coords,
        name="label",
        attrs={"title": "what each patch is on", "least": least, **model.provenance()},
    )


def _iou(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Intersection over union of two masks [item, row, col], per item; NaN where both are empty."""
    both, either = ((predicted & truth).sum((1, 2)), (predicted | truth).sum((1, 2)))
    return np.where(either > 0, both / np.maximum(either, 1), np.nan)


def _rows(
    truth: np.ndarray, found: np.ndarray, shuffled: np.ndarray, groups: np.ndarray, seed: int
) -> list[dict[str, object]]:
    kinds = [("any object", truth != GROUND, found != GROUND, shuffled != GROUND)]
    kinds += [(name, truth == name, found == name, shuffled == name) for name in np.unique(truth) if name != GROUND]
    rows: list[dict[str, object]] = []
    for name, true, mine, other in kinds:
        # Where it stands nowhere and is seen nowhere, there is nothing to overlap.
        iou, control = _iou(mine, true), _iou(other, true)
        kept = true.any((1, 2))
        mean, low, high = paired_bootstrap(iou[kept], groups[kept], seed=seed)
        rows.append(
            {
                "label": name,
                "n": int(kept.sum()),
                "iou": mean,
                "low": low,
                "high": high,
                "control": float(np.nanmean(control[kept])),
                "precision": float((mine & true).sum() / max(1, mine.sum())),
                "recall": float((mine & true).sum() / max(1, true.sum())),
            }
        )
    return rows


def spatial_probe(
    patches: xr.DataArray,
    labels: xr.DataArray,
    *,
    folds: int = 5,
    seed: int = 0,
    solver: str = "torch",
    device: str | None = None,
) -> tuple[xr.DataArray, pd.DataFrame]:
    """Predict from every single patch what it is on; images are never on both sides of a split.

    With thousands of patches for every feature the strength of the regularisation hardly matters: it is
    scikit-learn's default, C = 1, and not searched for.

    Parameters
    ----------
    patches: one variable of `features(..., pool="patches")`, [item, row, col, feature].
    labels: `patch_labels` of the same items.
    solver, device: as in `linear_probe`.

    Returns
    -------
    The map: DataArray(item, row, col) of predicted labels. And a table with one row for "any object" and
    one for every label: n (items that show it), iou (mean over those items of the intersection over
    union of its predicted and its true patches) with low and high (95 %, bootstrap over images),
    control (the same with the maps of other items: what knowing where objects usually stand gives),
    precision and recall over patches.

    Raises
    ------
    VlmProbeError: patches and labels of different items or grids, and as `linear_probe` does.
    """
    if patches.shape[:3] != labels.shape:
        raise VlmProbeError(
            f"patches of shape {list(patches.shape[:3])} and labels of shape {list(labels.shape)} must be alike"
        )
    if patches["id"].values.tolist() != labels["id"].values.tolist():
        raise VlmProbeError("patches and labels are of different items; make both from one list of items")
    items, rows, cols, width = patches.shape
    images = labels["image"].values
    predicted = held_out_predictions(
        patches.values.reshape(-1, width),
        labels.values.ravel(),
        groups=np.repeat(images, rows * cols),
        folds=folds,
        seed=seed,
        strengths=(1.0,),
        solver=solver,
        device=device,
    ).reshape(items, rows, cols)
    table = pd.DataFrame(
        _rows(labels.values, predicted, predicted[_other_images(images, seed)], images, seed),
    )
    attrs = {**patches.attrs, "title": f"spatial probe at {patches.name}", "units": "label"}
    table.attrs = {**attrs, "units": "intersection over union"}
    kept = ("id", "image", "left", "right", "top", "bottom")
    coords = {name: labels.coords[name] for name in kept if name in labels.coords}
    return xr.DataArray(predicted, dims=("item", "row", "col"), coords=coords, name="label", attrs=attrs), table


def _other_images(images: np.ndarray, seed: int) -> np.ndarray:
    """For every item the number of one about another image, each image standing in for one other."""
    names, first, index = np.unique(images, return_index=True, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(names))
    after = np.empty_like(order)
    after[order] = np.roll(order, 1)
    return first[after[index]]
