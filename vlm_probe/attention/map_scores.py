"""Scores of one map for one answer: does it name what the answer rests on, where the object is, and the same again?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import scipy
import torch
import xarray as xr
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vlm_probe.attention.answer_maps import MakesMap
from vlm_probe.attention.blanking import Without, picture_pixels
from vlm_probe.attention.localization import points_at_box, share_in_box
from vlm_probe.errors import VlmProbeError
from vlm_probe.hooked import HookedVLM
from vlm_probe.inputs.model_inputs import ModelInputs

NAN = float("nan")


def some_sets(without: Without, n: int, rng: np.random.Generator) -> Bool[np.ndarray, "set row col"]:
    """Random sets of patches: each of a size drawn evenly from one to all but one, so that few and many are asked."""
    patches = without.shown
    sizes = rng.integers(1, max(2, len(patches)), n)
    return without.sets([rng.choice(patches, size, replace=False) for size in sizes])


def infidelity(without: Without, values: Float[np.ndarray, "row col"], sets: Bool[np.ndarray, "set row col"]) -> float:
    """How badly a map says what blanking will do (Yeh et al. 2019, arXiv:1901.09392, definition 2.1).

    The mean, over sets S of patches, of (scale x the map's sum over S - what the token's probability loses without
    S)^2. The perturbation is the picture's mean colour on S (their equation 5, binary), the scale is the best for this
    map and item, as in the authors' code (captum's normalize=True): maps have other units than probabilities.
    Deviation: divided by the mean square of what is lost, so that items compare.

    Returns 0 (the losses are the map's sums) to 1 (the map says nothing of them); NaN where nothing is ever lost. A map
    and its negative score alike, since the scale may be negative: deletion tells them apart.
    """
    # Slow to import.
    from captum.metrics import infidelity as captum_infidelity

    at = without.shown
    blanked = torch.from_numpy(sets.reshape(len(sets), -1)[:, at]).double()

    def perturb(present: Tensor) -> tuple[Tensor, Tensor]:
        return blanked, present - blanked

    def probability(present: Tensor) -> Tensor:
        absent = [at[row] for row in (present < 0.5).numpy()]
        return torch.from_numpy(without(without.sets(absent)))

    everything = torch.ones(1, len(at), dtype=torch.float64)
    attributed = torch.from_numpy(values.ravel()[at])[None].double()
    lost = probability(everything) - probability(everything - blanked)
    if not float(lost.square().mean()) > 0:
        return NAN
    if not attributed.any():
        return 1.0
    found = captum_infidelity(probability, perturb, everything, attributed, n_perturb_samples=len(sets), normalize=True)
    return float(found[0] / lost.square().mean())


def sensitivity(
    model: HookedVLM,
    inputs: ModelInputs,
    target: int,
    make: MakesMap,
    values: Float[np.ndarray, "row col"],
    *,
    radius: float,
    noises: int,
    generator: torch.Generator,
) -> float:
    """How far a map moves when its picture hardly does: max-sensitivity (Yeh et al. 2019, definition 3.1).

    The largest, over noisy pictures, of |map(noisy) - map| / |map|. Noise is even within `radius` (units of the
    encoder's input), another value for every pixel, none on padding. Deviation: a maximum over draws, as in captum.

    values: the map of the picture itself, NaN on padding.
    """
    # Slow to import.
    from captum.metrics import sensitivity_max

    assert inputs.pixel_values is not None
    if inputs.layout.encoded != 1:
        raise VlmProbeError("sensitivity takes one image in the prompt, without tiles or crops")
    shown = picture_pixels(inputs)
    seen = ~np.isnan(values)

    def explain(pixels: Tensor | tuple[Tensor, ...]) -> Tensor | tuple[Tensor]:
        if isinstance(pixels, tuple):  # captum's way to ask for the map of the picture itself, and its form
            return (torch.from_numpy(values[seen])[None].double(),)
        maps = [make(model, replace(inputs, pixel_values=one[None]), target=target) for one in pixels]
        return torch.from_numpy(np.stack([one.to_numpy()[seen] for one in maps])).double()

    def shake(pixels: Tensor) -> Tensor:
        noise = torch.rand(pixels.shape, generator=generator, dtype=torch.float32) * 2 - 1
        return pixels + (radius * noise).to(pixels) * shown

    how: Any = explain
    found = sensitivity_max(
        how, inputs.pixel_values, perturb_func=shake, n_perturb_samples=noises, max_examples_per_batch=1
    )
    return float(found[0])


def rank_agreement(
    a: Float[np.ndarray, "row col"], b: Float[np.ndarray, "row col"], shown: Int[np.ndarray, " patch"]
) -> float:
    """Spearman's correlation of two maps over the patches that are shown; NaN where one of them is even."""
    first, second = a.ravel()[shown], b.ravel()[shown]
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return NAN
    return float(np.corrcoef(scipy.stats.rankdata(first), scipy.stats.rankdata(second))[0, 1])


def on_objects(
    values: Float[np.ndarray, "row col"],
    coverages: Sequence[Float[np.ndarray, "row col"]],
    shown: Int[np.ndarray, " patch"],
) -> tuple[float, float]:
    """The share of a map's mass above 0 on an object, and whether it points there; the mean over several objects.

    Mass on padding counts for nothing. NaN without an object, and of a map without mass.
    """
    kept = np.zeros_like(values)
    kept.ravel()[shown] = values.ravel()[shown].clip(min=0)
    map_ = xr.DataArray(kept, dims=("row", "col"))
    if not coverages:
        return NAN, NAN
    shares = [float(share_in_box(map_, coverage)) for coverage in coverages]
    hits = [points_at_box(map_, coverage) for coverage in coverages]
    return float(np.mean(shares)), float(np.mean(hits))
