"""Whether a map of an image can be believed: what the answer loses without the patches that the map names.

Deletion and insertion (Samek et al. 2017, doi:10.1109/TNNLS.2016.2599820; Petsiuk et al. 2018, arXiv:1806.07421,
section 4.3): patches are blanked from the highest of the map to the lowest, or are all blank and come back in that
order, and the answer's probability is taken after every step. A map that names what the answer rests on has a small
area under the first curve and a large one under the second. Deviations: steps of patches in place of pixels, and the
picture's own mean colour in place of grey (deletion) and of a blur (insertion). `blanking` is one step of it, beside as
many random patches.

Padding is never blanked, has no part in the mean colour, and its patches stand in no order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
import xarray as xr
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vlm_probe.errors import VlmProbeError
from vlm_probe.files import writable
from vlm_probe.inputs.model_inputs import ModelInputs
from vlm_probe.layout import ImageSpan, PixelBox
from vlm_probe.running.protocol import Runs
from vlm_probe.settings import SEED

AT_ONCE = 8
"""Pictures run together."""


def picture_pixels(inputs: ModelInputs, *, image: int = 0) -> Bool[Tensor, "height width"]:
    """Which pixels of a model's input show the picture, rather than padding; all of tensors made elsewhere.

    A pixel counts where its centre is on the picture.
    """
    assert inputs.pixel_values is not None
    height, width = inputs.pixel_values.shape[-2:]
    shown = torch.ones(height, width, dtype=torch.bool, device=inputs.pixel_values.device)
    transform = inputs.layout.image(image).transform
    if transform is None:  # it is not known what is padding
        return shown
    left, top, right, bottom = transform.to_model(PixelBox(0, 0, *transform.original))
    across, down = (torch.arange(n, device=shown.device) + 0.5 for n in (width, height))
    return ((down >= top) & (down < bottom))[:, None] & ((across >= left) & (across < right))[None, :]


def without_patches(inputs: ModelInputs, patches: Bool[np.ndarray, "draw row col"], *, image: int = 0) -> Tensor:
    """The pixels of a prompt's images, once a draw, with some patches of one image in the picture's mean colour.

    Returns a tensor [draw, image, channel, height, width].
    """
    span = inputs.layout.image(image)
    assert inputs.pixel_values is not None
    if len(inputs.layout.views(image)) > 1:
        raise VlmProbeError("patches of a picture that is also shown in tiles or crops cannot be blanked")
    pixels = inputs.pixel_values
    height, width = pixels.shape[-2:]
    side = span.cell_size
    down = side or height // span.grid[0]
    across = side or width // span.grid[1]
    shown = picture_pixels(inputs, image=image)
    mask = torch.from_numpy(patches).to(pixels.device).repeat_interleave(down, 1).repeat_interleave(across, 2)
    whole = torch.zeros(len(patches), height, width, dtype=torch.bool, device=pixels.device)
    whole[:, : mask.shape[1], : mask.shape[2]] = mask
    whole &= shown
    mean = pixels[image].float()[:, shown].mean(dim=-1)[:, None, None].to(pixels.dtype)
    blank = pixels[None].repeat(len(patches), 1, 1, 1, 1)
    blank[:, image] = torch.where(whole[:, None], mean, blank[:, image])
    return blank


def shown_patches(span: ImageSpan) -> Int[np.ndarray, " patch"]:
    """Numbers of the patches that show something of the picture, row by row; all of tensors made elsewhere."""
    # Of tensors made elsewhere it is not known what is padding.
    if span.transform is None:
        return np.arange(span.grid[0] * span.grid[1])
    return np.flatnonzero(span.visible().ravel())


def ranked(
    values: Float[np.ndarray, "row col"], shown: Int[np.ndarray, " patch"], rng: np.random.Generator
) -> Int[np.ndarray, " patch"]:
    """The patches that are shown, from the highest of a map to the lowest; equal ones in a random order.

    In the order of the grid an even map would be one that names the top of the picture.
    """
    return shown[np.lexsort((rng.random(len(shown)), -values.ravel()[shown]))]


class Without:
    """The probability of a token without some patches of the picture. What has been run is not run again.

    inputs: one example; the token is what its answer position predicts. image: which image of the prompt.
    at_once: pictures run together.
    """

    def __init__(self, model: Runs, inputs: ModelInputs, target: int, *, image: int = 0, at_once: int = AT_ONCE):
        self.model, self.inputs, self.target, self.image, self.at_once = model, inputs, target, image, at_once
        self.span = inputs.layout.image(image)
        self.shown = shown_patches(self.span)
        self._known: dict[bytes, float] = {}

    def sets(self, patches: Sequence[Sequence[int] | np.ndarray]) -> Bool[np.ndarray, "set row col"]:
        """Numbers of patches as masks over the grid."""
        rows, columns = self.span.grid
        masks = np.zeros((len(patches), rows * columns), dtype=bool)
        for mask, own in zip(masks, patches, strict=True):
            mask[np.asarray(own, dtype=int)] = True
        return masks.reshape(-1, rows, columns)

    @torch.no_grad()
    def __call__(self, patches: Bool[np.ndarray, "set row col"]) -> Float[np.ndarray, " set"]:
        """The token's probability without each set of patches."""
        on_picture = np.zeros(self.span.grid, dtype=bool)
        on_picture.ravel()[self.shown] = True
        keys = [(one & on_picture).tobytes() for one in patches]
        new = list(dict.fromkeys(key for key in keys if key not in self._known))
        for start in range(0, len(new), self.at_once):
            some = new[start : start + self.at_once]
            masks = np.stack([np.frombuffer(key, dtype=bool).reshape(self.span.grid) for key in some])
            pixels = without_patches(self.inputs, masks, image=self.image)
            self._known |= zip(some, self._probability(pixels).tolist(), strict=True)
        return np.asarray([self._known[key] for key in keys], dtype=float)

    def _probability(self, pixels: Tensor) -> Float[Tensor, " set"]:
        """The probability of the token for every version of the images."""
        inputs = self.inputs
        many = replace(
            inputs,
            input_ids=inputs.input_ids.repeat(len(pixels), 1),
            attention_mask=inputs.attention_mask.repeat(len(pixels), 1),
            pixel_values=pixels.flatten(0, 1),
            layouts=inputs.layouts * len(pixels),
        )
        kept = inputs.layout.length - inputs.layout.answer_position
        logits = self.model(many, logits_to_keep=kept).logits[:, 0].float()
        return logits.softmax(-1)[:, self.target].cpu()

    def counts(self, steps: int) -> Int[np.ndarray, " step"]:
        """How many patches are blanked (deletion) or back (insertion) after every step, from none to all."""
        return np.round(np.linspace(0, len(self.shown), min(steps, len(self.shown)) + 1)).astype(int)

    def curves(
        self, values: Float[np.ndarray, "row col"], *, steps: int, rng: np.random.Generator
    ) -> Float[np.ndarray, "two step"]:
        """The token's probability along deletion and along insertion, in the order of a map."""
        order, counts = ranked(values, self.shown, rng), self.counts(steps)
        blanked = [order[:count] for count in counts] + [order[count:] for count in counts]
        return self(self.sets(blanked)).reshape(2, -1)


def deletion_insertion(
    model: Runs,
    inputs: ModelInputs,
    map: xr.DataArray,
    *,
    target: int,
    steps: int = 10,
    image: int = 0,
    seed: int = SEED,
    at_once: int = AT_ONCE,
) -> xr.Dataset:
    """Deletion and insertion curves of a map, and the areas under them.

    Parameters
    ----------
    inputs: one example; the token is what its answer position predicts.
    map: DataArray(row, col), whatever it measures; high is what it names. Equal patches come in a random order.
    target: the token's id.
    steps: from the whole picture to none of it; at most as many as it has patches.
    image: which image of the prompt.
    at_once: pictures run together.

    Returns
    -------
    Dataset over share (of the picture's patches that are blanked, or are back; 0 to 1): deletion and insertion,
    probabilities of the token. `attrs`: deletion_area (small is good) and insertion_area (large is good), the mean
    heights of the curves (trapezoids), 0 to 1.

    Raises VlmProbeError for a map that is not over this image's patches or has no number at one, and for no step.
    """
    if steps < 1:
        raise VlmProbeError(f"steps must be at least 1, got {steps}")
    without = Without(model, inputs, target, image=image, at_once=at_once)
    values = checked_values(map, without.span, "deletion_insertion")
    found = without.curves(values, steps=steps, rng=np.random.default_rng(seed))
    shares = without.counts(steps) / len(without.shown)
    areas = np.trapezoid(found, shares)
    attrs = {
        "title": "Deletion and insertion",
        "units": "probability",
        "method": "patches in the picture's mean colour, from the map's highest on",
        "citation": "Petsiuk et al. 2018, arXiv:1806.07421",
        "target": target,
        "seed": seed,
        "deletion_area": float(areas[0]),
        "insertion_area": float(areas[1]),
        **model.provenance(),
    }
    return xr.Dataset(
        {"deletion": ("share", found[0]), "insertion": ("share", found[1])},
        coords={"share": shares},
        attrs=writable(attrs),
    )


def checked_values(map_: xr.DataArray, span: ImageSpan, who: str) -> Float[np.ndarray, "row col"]:
    """A map's values; VlmProbeError where it is not over the image's patches, or has no number at one of them."""
    if map_.dims != ("row", "col") or map_.shape != span.grid:
        raise VlmProbeError(f"{who} takes a map over {span.grid} patches (row, col), got {dict(map_.sizes)}")
    values = map_.to_numpy().astype(float)
    if not np.isfinite(values.ravel()[shown_patches(span)]).all():
        raise VlmProbeError(f"{who} takes a map with a number at every patch, this one lacks some")
    return values


def blanking(
    model: Runs,
    inputs: ModelInputs,
    map: xr.DataArray,
    *,
    target: int,
    share: float = 0.1,
    draws: int = 20,
    image: int = 0,
    seed: int = SEED,
) -> pd.DataFrame:
    """What blanking the highest patches of a map does to the probability of a token, and what random ones do.

    Parameters
    ----------
    inputs: one example; the token is what its answer position predicts.
    map: DataArray(row, col), whatever it measures; high is what it names.
    target: the token's id.
    share: of the image's patches that show something of the picture (one at least is blanked).
    draws: how many random choices of as many patches.
    image: which image of the prompt.

    Returns
    -------
    One row a run: what ("nothing", "highest", "random"), patches (how many were blanked), probability, change (against
    nothing blanked).

    Raises VlmProbeError for a map that is not over this image's patches or has no number at one, and for a share that
    is none.
    """
    without = Without(model, inputs, target, image=image)
    values = checked_values(map, without.span, "blanking")
    if not 0 < share < 1 or draws < 1:
        raise VlmProbeError(f"share must be between 0 and 1 and draws at least 1, got {share} and {draws}")
    rng = np.random.default_rng(seed)
    count = max(1, round(share * len(without.shown)))
    highest = ranked(values, without.shown, rng)[:count]
    chosen = without.sets([[], highest, *(rng.choice(without.shown, count, replace=False) for _ in range(draws))])
    found = without(chosen).tolist()
    table = pd.DataFrame(
        {
            "what": ["nothing", "highest", *["random"] * draws],
            "patches": chosen.sum(axis=(1, 2)),
            "probability": found,
            "change": [value - found[0] for value in found],
        }
    )
    table.attrs.update(
        writable({"title": "the answer without patches", "share": share, "seed": seed, **model.provenance()})
    )
    return table
