"""Activations at any hook points over many items, pooled as they stream by, with labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float

from vlm_probe.errors import VlmProbeError
from vlm_probe.hooked import HookedVLM
from vlm_probe.hooked.anatomy import patches_of
from vlm_probe.items.item import Item
from vlm_probe.layout import TokenLayout
from vlm_probe.names import dimensions
from vlm_probe.running.batches import Batch, run_batches
from vlm_probe.scenes.questions import NUMBERS
from vlm_probe.scenes.world import COLUMNS, ROWS, Scene

POOLS = ("patches", "mean", "box", "other", "last")
"""patches: every patch; mean: over all patches; box: over the patches of the item's box, by how much of
each it covers; other: over those of an object of the same image that is not asked about; last: the position that
predicts the answer (language model only)."""


def scene_labels(item: Item) -> dict[str, str]:
    """What is true of a generated scene: object ("red star"), color, shape, row, column and
    position ("top left") of the first
    object asked about ("" without one), count (how many objects there are) and existence (whether
    anything is red, "yes" or "no"). Empty for items from files.
    """
    if not isinstance(item.source, Scene):
        return {}
    scene = item.source
    asked = next((o for box in item.boxes for o in scene.objects if o.box == box), None)
    about: dict[str, str] = dict.fromkeys(("object", "color", "shape", "row", "column", "position"), "")
    if asked is not None:
        about = {
            "object": asked.name,
            "color": asked.color,
            "shape": asked.shape,
            "row": ROWS[asked.row],
            "column": COLUMNS[asked.column],
            "position": asked.place,
        }
    red = "yes" if any(o.color == "red" for o in scene.objects) else "no"
    return {**about, "count": NUMBERS[len(scene.objects)], "existence": red}


def _weights(item: Item, layout: TokenLayout, pool: str) -> Float[np.ndarray, " patch"]:
    """How much each patch counts in the pooled vector; sums to 1."""
    if pool not in ("box", "other"):
        n = len(layout.image().positions)
        return np.full(n, 1 / n)
    coverage = layout.box_coverage((item.boxes if pool == "box" else item.others)[0]).ravel()
    if coverage.sum() == 0:
        raise VlmProbeError(f"the {pool} of item {item.id} lies outside what the model sees of its image")
    return coverage / coverage.sum()


def check_points(points: list[str]) -> None:
    """Raise VlmProbeError for a point without a feature vector per position."""
    for name in points:
        dims = dimensions(name)
        if "query" in dims or dims[-1] in ("one", "vocabulary"):
            raise VlmProbeError(f"{name} has dimensions {', '.join(dims)}: no feature vector per position")


def _check(items: Sequence[Item], points: list[str], pool: str) -> None:
    if pool not in POOLS:
        raise VlmProbeError(f"no pool {pool!r}; there are {', '.join(POOLS)}")
    if not items:
        raise VlmProbeError("there is no item to take features of")
    check_points(points)
    for name in points:
        if pool == "last" and not name.startswith("language."):
            raise VlmProbeError(f"pool 'last' is the language model's answer position; {name} has none")
    without = sum(not item.boxes for item in items)
    if pool == "box" and without:
        raise VlmProbeError(f"pool 'box' needs a box for every item; {without} of {len(items)} have none")
    without = sum(not item.others for item in items)
    if pool == "other" and without:
        raise VlmProbeError(f"pool 'other' needs another object for every item; {without} of {len(items)} have none")


def dataset(
    kept: dict[str, list[np.ndarray]], axes: tuple[str, ...], coords: dict[str, Any], title: str, attrs: dict[str, Any]
) -> xr.Dataset:
    """One variable a point, its parts joined along the first axis; the features' axis is named by the point."""
    data = {
        name: ((*axes, f"{name} feature"), np.concatenate(parts), {"title": name, **attrs})
        for name, parts in kept.items()
    }
    return xr.Dataset(data, coords=coords, attrs={"title": title, **attrs})


def features(
    model: HookedVLM,
    items: Sequence[Item],
    points: str | Sequence[str],
    *,
    pool: str = "mean",
    batch_size: int = 32,
    progress: Callable[[int], None] | None = None,
) -> xr.Dataset:
    """Activations at hook points, pooled per item; only one batch is ever held whole.

    Parameters
    ----------
    items: each with one image. The prompt is the item's question.
    points: hook names or globs: any with a feature vector per position.
    pool: see `POOLS`.
    progress: called with the number of items just done.

    Returns
    -------
    One float32 variable a point, named by it: [item, feature], or [item, row, col, feature] for
    "patches" (features of points with heads are head x d_head). Coordinates along item: id, image,
    family, kind, answer, and for generated scenes `scene_labels`. `attrs` carry model and provenance.

    Raises
    ------
    VlmProbeError: an unknown point or pool, a point without feature vectors ("attn.hook_pattern"), "last"
        outside the language model, "box" with an item that has none.
    """
    return pooled(model, items, {pool: points}, batch_size=batch_size, progress=progress)[pool]


def pooled(
    model: HookedVLM,
    items: Sequence[Item],
    wanted: Mapping[str, str | Sequence[str]],
    *,
    batch_size: int = 32,
    progress: Callable[[int], None] | None = None,
) -> dict[str, xr.Dataset]:
    """`features` in several ways of pooling from one pass: wanted and returned by pool.

    wanted: pool -> hook names or globs. Raises as `features` does.
    """
    names = {pool: model.match(points if isinstance(points, str) else list(points)) for pool, points in wanted.items()}
    for pool, points in names.items():
        _check(items, points, pool)
    kept: dict[str, dict[str, list[np.ndarray]]] = {p: {name: [] for name in points} for p, points in names.items()}
    every = list(dict.fromkeys(name for points in names.values() for name in points))
    for batch in run_batches(model, items, every, batch_size=batch_size, progress=progress):
        for pool, points in kept.items():
            for name, parts in points.items():
                parts.append(_pool(name, batch, pool))
    about = {
        name: ("item", [getattr(item, name) for item in items]) for name in ("id", "image", "family", "kind", "answer")
    }
    labels = [scene_labels(item) for item in items]
    if all(labels):
        about |= {name: ("item", [label[name] for label in labels]) for name in labels[0]}
    found = {}
    for pool, points in kept.items():
        axes = ("item", "row", "col") if pool == "patches" else ("item",)
        attrs = {"units": "activation", "pool": pool, **model.provenance()}
        found[pool] = dataset(points, axes, about, f"features, pool {pool}", attrs)
    return found


def _pool(name: str, batch: Batch, pool: str) -> np.ndarray:
    """One batch of one point, pooled: [item, feature] or [item, row, col, feature]."""
    activation, layouts = batch.activations[name], batch.layouts
    if pool == "last":
        at = torch.as_tensor([layout.answer_position for layout in layouts], device=activation.device)
        return activation.flatten(2)[torch.arange(len(at), device=at.device), at].float().cpu().numpy()
    patches = patches_of(name, activation, layouts).float()
    if pool == "patches":
        rows, columns = layouts[0].grid
        return patches.unflatten(1, (rows, columns)).cpu().numpy()
    weights = np.stack([_weights(*each, pool) for each in zip(batch.items, layouts, strict=True)])
    return torch.einsum("ip,ipf->if", torch.as_tensor(weights).to(patches), patches).cpu().numpy()
