"""Whether a map of an image can be believed: what the answer loses without the patches that the map names.

The patches with the highest values are blanked and the answer's probability is taken again (deletion: Samek et al.
2017, doi:10.1109/TNNLS.2016.2599820; Petsiuk et al. 2018, arXiv:1806.07421), beside as many patches drawn at random.
A map that names what the answer rests on must cost it more than they do. Deviation: one step of deletion in place of a
curve, and the picture's mean colour in place of black or a blur.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import torch
import xarray as xr
from jaxtyping import Bool
from torch import Tensor

from vlm_probe.errors import VlmProbeError
from vlm_probe.files import writable
from vlm_probe.inputs.preparing import ModelInputs
from vlm_probe.layout import ImageSpan
from vlm_probe.running.protocol import Runs
from vlm_probe.settings import SEED

AT_ONCE = 8
"""Pictures run together."""


def without_patches(inputs: ModelInputs, patches: Bool[np.ndarray, "draw row col"], *, image: int = 0) -> Tensor:
    """The pixels of a prompt's images, once a draw, with some patches of one image in its mean colour.

    Returns a tensor [draw, image, channel, height, width].
    """
    span = inputs.layout.image(image)
    assert inputs.pixel_values is not None
    pixels = inputs.pixel_values
    height, width = pixels.shape[-2:]
    side = span.patch_size
    down = side or height // span.grid[0]
    across = side or width // span.grid[1]
    mask = torch.from_numpy(patches).to(pixels.device).repeat_interleave(down, 1).repeat_interleave(across, 2)
    whole = torch.zeros(len(patches), height, width, dtype=torch.bool, device=pixels.device)
    whole[:, : mask.shape[1], : mask.shape[2]] = mask
    mean = pixels[image].float().mean(dim=(-1, -2), keepdim=True).to(pixels.dtype)
    blank = pixels[None].repeat(len(patches), 1, 1, 1, 1)
    blank[:, image] = torch.where(whole[:, None], mean, blank[:, image])
    return blank


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

    Raises VlmProbeError for a map that is not over this image's patches, and for a share that is none.
    """
    span = inputs.layout.image(image)
    if map.dims != ("row", "col") or map.shape != span.grid:
        raise VlmProbeError(f"blanking takes a map over {span.grid} patches (row, col), got {dict(map.sizes)}")
    if not 0 < share < 1 or draws < 1:
        raise VlmProbeError(f"share must be between 0 and 1 and draws at least 1, got {share} and {draws}")
    chosen = _choices(span, map.to_numpy(), share, draws, np.random.default_rng(seed))
    pixels = without_patches(inputs, chosen, image=image)
    found = torch.cat([_probability(model, inputs, some, target) for some in pixels.split(AT_ONCE)]).tolist()
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


def _choices(
    span: ImageSpan, values: np.ndarray, share: float, draws: int, rng: np.random.Generator
) -> Bool[np.ndarray, "draw row col"]:
    """No patch, the highest, and random ones, all among those that show something of the picture."""
    # Of tensors made elsewhere it is not known what is padding.
    shown = np.arange(values.size) if span.transform is None else np.flatnonzero(span.visible().ravel())
    count = max(1, round(share * len(shown)))
    ranked = shown[np.argsort(-values.ravel()[shown], kind="stable")]
    each = [[], ranked[:count], *(rng.choice(shown, count, replace=False) for _ in range(draws))]
    chosen = np.zeros((len(each), values.size), dtype=bool)
    for row, patches in zip(chosen, each, strict=True):
        row[np.asarray(patches, dtype=int)] = True
    return chosen.reshape(-1, *values.shape)


@torch.no_grad()
def _probability(model: Runs, inputs: ModelInputs, pixels: Tensor, target: int) -> Tensor:
    """The probability of a token for every version of the images: [draw]."""
    many = replace(
        inputs,
        input_ids=inputs.input_ids.repeat(len(pixels), 1),
        attention_mask=inputs.attention_mask.repeat(len(pixels), 1),
        pixel_values=pixels.flatten(0, 1),
        layouts=inputs.layouts * len(pixels),
    )
    kept = inputs.layout.length - inputs.layout.answer_position
    logits = model(many, logits_to_keep=kept).logits[:, 0].float()
    return logits.softmax(-1)[:, target].cpu()
