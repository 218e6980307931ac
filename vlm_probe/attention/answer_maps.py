"""Every map over patches for one token of the answer, by one signature: map(model, inputs, target=...).

`MAPS` names them, `BASELINES` those that know nothing of the question. What takes any map takes those of others too: a
function of this signature, or an array (`faithfulness`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Protocol, runtime_checkable

import numpy as np
import xarray as xr
from jaxtyping import Float

from vlm_probe.attention.blanking import shown_patches
from vlm_probe.attention.maps import encoder_attention, image_attention
from vlm_probe.attention.patterns import PATTERN
from vlm_probe.attention.relevancy import relevancy
from vlm_probe.attention.rollout import rollout
from vlm_probe.causal import Knockout
from vlm_probe.causal.branching import Branches
from vlm_probe.embedding.attribution import attribute
from vlm_probe.errors import VlmProbeError
from vlm_probe.files import writable
from vlm_probe.hooked import HookedVLM
from vlm_probe.hooked.anatomy import patches_of
from vlm_probe.hooked.targets import target_token
from vlm_probe.inputs.model_inputs import ModelInputs
from vlm_probe.layout import ImageSpan
from vlm_probe.layout.groups import Where

RECEIVED = "connector.hook_out"
"""The rows that the language model receives of a picture."""


@runtime_checkable
class MakesMap(Protocol):
    """Makes a map over the patches of the image of one example, for a token that its answer position predicts."""

    def __call__(self, model: HookedVLM, inputs: ModelInputs, /, *, target: int) -> xr.DataArray: ...


def attention_map(model: HookedVLM, inputs: ModelInputs, *, target: int | str | None = None) -> xr.DataArray:
    """Raw attention of the answer position, mean over layers and heads; the same for every token it might predict.

    Returns DataArray(row, col), attention probability. As `image_attention`, whose layers and heads are kept apart.
    """
    found = image_attention(model.trace(inputs, capture=[f"language.blocks.*.{PATTERN}"]))
    return found.mean(("layer", "head"), keep_attrs=True)


def rollout_map(model: HookedVLM, inputs: ModelInputs, *, target: int | str | None = None) -> xr.DataArray:
    """Attention rollout from the answer position (`rollout`); the same for every token it might predict.

    Returns DataArray(row, col), the share of the query.
    """
    return rollout(model.trace(inputs, capture=[f"language.blocks.*.{PATTERN}"]))


def knockout_map(
    model: HookedVLM,
    inputs: ModelInputs,
    *,
    target: int | str | None = None,
    queries: Where = "answer | question",
    layers: range | None = None,
    at_once: int = 64,
) -> xr.DataArray:
    """What a token loses where text does not see one patch: attention knockout (Geva et al. 2023, arXiv:2304.14767).

    Section 3 there, with one patch as the source: the value of patch p is P(token) - P(token | queries -/-> p). The
    other patches still see it, so what they carried off in the language model's first layers is not taken away.

    Parameters
    ----------
    inputs: one example with one image, whose answer position is the last.
    target: token id, or text (the token that begins it behind the prompt); None takes the most probable token.
    queries: who does not see the patch; by default the answer position and the question's tokens.
    layers: of the language model; None for all.
    at_once: patches that are cut off in one batch.

    Returns
    -------
    DataArray(row, col), probability; below 0 where the token gains.

    Raises VlmProbeError as `causal.run` does.
    """
    span = inputs.layout.image()
    branches = Branches(model, inputs, rows_at_once=at_once)
    token = target_token(model, target, branches.logits[0])
    cuts = [(0, [Knockout(queries, [int(p)], layers=layers)]) for p in span.positions]
    lost = branches.logits[0].softmax(-1)[token] - branches.run(cuts).softmax(-1)[:, token]
    name = model.token_strings([token])
    attrs = {
        "title": f"Knockout for {name[0].strip()!r}" if name else f"Knockout for token {token}",
        "units": "probability lost",
        "method": f"attention knockout, {queries} -/-> each patch",
        "citation": "Geva et al. 2023, arXiv:2304.14767",
        "target": token,
        "prompt": inputs.prompts[0] if inputs.prompts else None,
        **model.provenance(),
    }
    return _on_patches(span, lost.reshape(span.grid).cpu().numpy(), "knockout", attrs)


def centre_prior(model: HookedVLM, inputs: ModelInputs, *, target: int | str | None = None) -> xr.DataArray:
    """Whatever is asked, the middle of the picture (Tatler 2007, doi:10.1167/7.14.4): where photographers put things.

    A Gaussian over the picture whose deviation is a quarter of each side (no unit, 1 in the middle); 0 on padding.

    Returns DataArray(row, col).
    """
    span = inputs.layout.image()
    edges = span.edges()
    if span.transform is None:
        down, across = ((np.arange(n) + 0.5) / n for n in span.grid)
    else:
        width, height = span.transform.original
        across = (edges["left"][1] + edges["right"][1]) / (2 * width)
        down = (edges["top"][1] + edges["bottom"][1]) / (2 * height)
    values = np.exp(-((down[:, None] - 0.5) ** 2 + (across[None, :] - 0.5) ** 2) / (2 * 0.25**2))
    shown = np.zeros(span.grid)
    shown.ravel()[shown_patches(span)] = 1
    attrs = {"title": "Centre prior", "method": "a Gaussian", "citation": "Tatler 2007, doi:10.1167/7.14.4"}
    return _on_patches(span, values * shown, "centre", attrs)


def encoder_map(model: HookedVLM, inputs: ModelInputs, *, target: int | str | None = None) -> xr.DataArray:
    """What stands out to the encoder, whatever is asked.

    Where it has a CLS token, that token's attention in the last layer the connector reads, mean over heads (Caron et
    al. 2021, arXiv:2104.14294, figure 1); else the length of each row that the connector reads, by which Darcet et al.
    2024 (arXiv:2309.16588) find outliers.

    Returns DataArray(row, col): attention probability, or activation units.
    """
    span = inputs.layout.image()
    if span.leading and "vision" in model.layers:
        last = f"vision.blocks.{model.vision_layers_read - 1}.{PATTERN}"
        found = encoder_attention(model.trace(inputs, capture=[last])).isel(layer=0, drop=True)
        return found.mean("head", keep_attrs=True)
    trace = model.trace(inputs, capture=["connector.hook_in"])
    rows = patches_of("connector.hook_in", trace["connector.hook_in"], [trace.layout])[0]
    attrs = {
        "title": "Length of what the connector reads",
        "units": "activation",
        "method": "norm of each row",
        "citation": "Darcet et al. 2024, arXiv:2309.16588",
        **model.provenance(),
    }
    return _on_patches(span, rows.float().norm(dim=-1).reshape(span.grid).cpu().numpy(), "encoder", attrs)


def _on_patches(
    span: ImageSpan, values: Float[np.ndarray, "row col"], name: str, attrs: Mapping[str, object]
) -> xr.DataArray:
    return xr.DataArray(values, dims=("row", "col"), coords=span.edges(), name=name, attrs=writable(dict(attrs)))


def map_named(name: str) -> MakesMap:
    """A map of `MAPS` or `BASELINES`; VlmProbeError for another name."""
    known = MAPS | BASELINES
    if name not in known:
        raise VlmProbeError(f"no map {name!r}; there are {', '.join(known)}")
    return known[name]


def able(model: HookedVLM, names: Sequence[str]) -> list[str]:
    """Those of the names that a model can make: some maps are of one encoder, some of a picture that is not cut."""
    patches, lacking = model.inputs.patches, set[str]()
    if patches is not None and (patches.resolutions or patches.more_leading):
        lacking.add("relevancy through the encoder")
    if patches is not None and patches.resolutions:
        lacking |= {"gradient x input", "integrated gradients", "occlusion"}
    return [name for name in names if name not in lacking]


MAPS: dict[str, MakesMap] = {
    "attention": attention_map,
    "rollout": rollout_map,
    "relevancy": relevancy,
    "relevancy through the encoder": partial(relevancy, through_encoder=True),
    "gradient x input": partial(attribute, method="gradient_x_input", point=RECEIVED),
    "integrated gradients": partial(attribute, point=RECEIVED, baseline="mean", steps=32, batch_size=32),
    "occlusion": partial(attribute, method="occlusion", baseline="mean", batch_size=32),
    "knockout": knockout_map,
}
"""Name -> what makes it. Gradients are taken at what the language model receives, against the picture's mean colour."""
BASELINES: dict[str, MakesMap] = {"centre": centre_prior, "encoder": encoder_map}
"""Name -> a map that does not depend on what is asked."""
