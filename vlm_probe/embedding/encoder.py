"""The vision encoder alone, image by image: its residual streams, and the pixels that it saw, pooled alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from vlm_probe.errors import VlmProbeError
from vlm_probe.hooked import HookedVLM
from vlm_probe.hooked.anatomy import encode
from vlm_probe.inputs.images import ImageLike, open_image
from vlm_probe.inputs.model_inputs import Seen
from vlm_probe.items import Item
from vlm_probe.layout.spans import ImageSpan

AT_ONCE = 256
"""Items whose pictures are held at once."""


def streams(model: HookedVLM, points: Sequence[str]) -> list[str]:
    """Hook names of residual streams of the encoder."""
    names = model.match(list(points))
    for name in names:
        if not (name.startswith("vision.") and ("hook_resid" in name or name.endswith("hook_embed"))):
            raise VlmProbeError(f"{name} is no residual stream of the encoder")
    return names


def run_encoder(
    model: HookedVLM, images: Sequence[ImageLike], points: Sequence[str], *, batch_size: int = 32
) -> Iterator[tuple[list[Seen], dict[str, Float[Tensor, "image position feature"]]]]:
    """Images through a model's encoder alone, some at a time: how each was seen, and its residual streams by name.

    points: hook names of residual streams of the encoder, which come on the CPU and in float32, CLS and registers
    before the patches.

    Raises VlmProbeError for an unknown point or one of another kind, and images that cannot be read.
    """
    names = streams(model, points)
    for start in range(0, len(images), batch_size):
        batch = [model.inputs.see(open_image(image)) for image in images[start : start + batch_size]]
        # Processors that keep the aspect ratio give pictures of several sizes.
        stacks = [batch] if len({one.pixels.shape for one in batch}) == 1 else [[one] for one in batch]
        for stack in stacks:
            kept: dict[str, Tensor] = {}

            def keep(x: Tensor, hook: HookPoint, kept: dict[str, Tensor] = kept) -> None:
                kept[str(hook.name)] = x.float().cpu()

            with torch.no_grad(), model.hooks(fwd_hooks=[(name, keep) for name in names]):
                encode(model, torch.stack([one.pixels for one in stack]))
            yield stack, kept


def pixel_numbers(seen: Seen, patch_size: int, weights: np.ndarray) -> np.ndarray:
    """Mean and spread of every colour channel over the pixels of some patches: six numbers of the model's own input.

    weights: [patch], how much each counts; sums to 1.
    """
    rows, columns = seen.grid
    pixels = seen.pixels[:, : rows * patch_size, : columns * patch_size].double()
    tiles = pixels.unflatten(1, (rows, patch_size)).unflatten(3, (columns, patch_size))
    mean, square = (part.mean((2, 4)).flatten(1).numpy() @ weights for part in (tiles, tiles.square()))
    return np.concatenate([mean, np.sqrt(np.clip(square - mean**2, 0, None))])


Rows = dict[str, np.ndarray]
"""By way of pooling ("box", "mean"); NaN for items without a box, or whose box the encoder does not see."""


def encoded(model: HookedVLM, items: Sequence[Item], points: Sequence[str]) -> tuple[Rows, Rows]:
    """What a model's encoder makes of the items' images, pooled over the item's box and over all patches.

    points: as `run_encoder` takes them. Returns rows by way of pooling, [point, item, feature], and the `pixel_numbers`
    of the same patches, [item, number].
    """
    found: dict[str, list[np.ndarray]] = {"box": [], "mean": []}
    pixels: dict[str, list[np.ndarray]] = {"box": [], "mean": []}
    for start in range(0, len(items), AT_ONCE):
        some = items[start : start + AT_ONCE]
        left = iter(some)
        for seen, rows in run_encoder(model, [model.picture(item) for item in some], points):
            for number, one in enumerate(seen):
                item, span = next(left), _span(model, one)
                assert span.cell_size is not None
                own = np.stack([rows[p][number].numpy()[span.cells_at(p)].mean(1) for p in points])
                for pool in found:
                    weights = _weights(item, span, pool)
                    found[pool].append(np.einsum("p,lpf->lf", weights, own))
                    pixels[pool].append(pixel_numbers(one, span.cell_size, weights))
    stacked = {pool: np.stack(parts, axis=1) for pool, parts in found.items()}
    return stacked, {pool: np.stack(parts) for pool, parts in pixels.items()}


def _span(model: HookedVLM, seen: Seen) -> ImageSpan:
    """A picture as it would stand in a prompt of nothing else."""
    patches = model.inputs.patches
    assert patches is not None
    about = (patches.patch_size, patches.leading, patches.pooled, patches.more_leading)
    return ImageSpan(np.arange(seen.grid[0] * seen.grid[1]), seen.grid, np.arange(0), seen.transform, *about)


def _weights(item: Item, span: ImageSpan, pool: str) -> np.ndarray:
    """How much each cell of the grid counts; NaN where the item has no box, or the encoder does not see it."""
    n = len(span.positions)
    if pool == "mean":
        return np.full(n, 1 / n)
    if not item.boxes:
        return np.full(n, np.nan)
    coverage = span.box_coverage(item.boxes[0]).ravel()
    return coverage / coverage.sum() if coverage.any() else np.full(n, np.nan)
