"""Single rows, of patches anywhere and of image and text in the language model: what gaps, dimensions and
projections are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import xarray as xr

from vlm_probe.embedding.features import check_points, dataset
from vlm_probe.errors import VlmProbeError
from vlm_probe.hooked import HookedVLM
from vlm_probe.hooked.anatomy import patches_of
from vlm_probe.items.item import Item
from vlm_probe.running.batches import run_batches


def token_rows(
    model: HookedVLM,
    items: Sequence[Item],
    points: str | Sequence[str],
    *,
    rows_per_item: int = 8,
    seed: int = 0,
    batch_size: int = 16,
    progress: Callable[[int], None] | None = None,
) -> xr.Dataset:
    """Rows at image positions and at question positions, drawn at random from every item.

    Parameters
    ----------
    items: each with one image; the text rows are those of the question.
    points: hook names or globs of the language model ("language.hook_embed").
    rows_per_item: image rows, and as many text rows, of every item at most.
    progress: called with the number of items just done.

    Returns
    -------
    One float32 variable a point, [token, feature], with coordinates along token: modality ("image" or
    "text"), item (its number), position in the sequence, and text (the token; for image rows "row,col").

    Raises VlmProbeError for no item, a point outside the language model or without rows of its width.
    """
    names = model.match(points if isinstance(points, str) else list(points))
    if not items:
        raise VlmProbeError("there is no item to take rows of")
    foreign = [name for name in names if not name.startswith("language.") or "hook_resid" not in name]
    foreign = [name for name in foreign if name != "language.hook_embed"]
    if foreign:
        raise VlmProbeError(f"{foreign[0]} is no residual stream of the language model, which image and text share")
    rng = np.random.default_rng(seed)
    kept: dict[str, list[np.ndarray]] = {name: [] for name in names}
    about: dict[str, list[object]] = {"modality": [], "item": [], "position": [], "text": []}
    for batch in run_batches(model, items, names, batch_size=batch_size, progress=progress):
        for i, layout in enumerate(batch.layouts):
            image, columns = layout.image().positions, layout.grid[1]
            places = {int(p): f"{n // columns},{n % columns}" for n, p in enumerate(image)}
            # Equally many, so that always saying "image" is right half the time.
            count = min(rows_per_item, len(image), len(layout.question_positions))
            for modality, positions in (("image", image), ("text", layout.question_positions)):
                chosen = rng.permutation(positions)[:count]
                about["modality"] += [modality] * len(chosen)
                about["item"] += [batch.start + i] * len(chosen)
                about["position"] += chosen.tolist()
                about["text"] += [places.get(int(p)) or layout.tokens[int(p)] for p in chosen]
                at = torch.as_tensor(chosen, device=model.device)
                for name in names:
                    kept[name].append(batch.activations[name][i, at].float().cpu().numpy())
    attrs = {"units": "activation", "seed": seed, **model.provenance()}
    coordinates = {name: ("token", np.asarray(values)) for name, values in about.items()}
    return dataset(kept, ("token",), coordinates, "rows of the language model", attrs)


def patch_rows(
    model: HookedVLM,
    items: Sequence[Item],
    points: str | Sequence[str],
    *,
    rows_per_item: int = 8,
    seed: int = 0,
    batch_size: int = 16,
    progress: Callable[[int], None] | None = None,
) -> xr.Dataset:
    """Rows of patches drawn at random from every item, the same patches at every point.

    points: hook names or globs, of the encoder, the connector or the language model.
    progress: called with the number of items just done.

    Returns one float32 variable a point, [patch, feature], with coordinates along patch: item (its number)
    and place ("row,col").

    Raises VlmProbeError for no item, and a point without a feature vector per position.
    """
    names = model.match(points if isinstance(points, str) else list(points))
    check_points(names)
    if not items:
        raise VlmProbeError("there is no item to take rows of")
    rng = np.random.default_rng(seed)
    kept: dict[str, list[np.ndarray]] = {name: [] for name in names}
    owners: list[int] = []
    places: list[str] = []
    for batch in run_batches(model, items, names, batch_size=batch_size, progress=progress):
        chosen = []
        for i, layout in enumerate(batch.layouts):
            rows, columns = layout.grid
            own = rng.permutation(rows * columns)[:rows_per_item]
            chosen.append(own)
            owners += [batch.start + i] * len(own)
            places += [f"{p // columns},{p % columns}" for p in own]
        for name in names:
            patches = patches_of(name, batch.activations[name], batch.layouts).float().cpu().numpy()
            kept[name] += [patches[i, own] for i, own in enumerate(chosen)]
    attrs = {"units": "activation", "seed": seed, **model.provenance()}
    coordinates = {"item": ("patch", np.asarray(owners)), "place": ("patch", np.asarray(places))}
    return dataset(kept, ("patch",), coordinates, "rows of patches", attrs)
