"""What in the image an answer rests on, by changing the image: Captum's methods through one call."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from PIL import Image, ImageFilter
from torch import Tensor

from vlm_probe.errors import VlmProbeError
from vlm_probe.files import writable
from vlm_probe.hooked import HookedVLM, ModelInputs
from vlm_probe.hooked.targets import frozen, target_token
from vlm_probe.names import dimensions

CITATIONS = {
    "integrated_gradients": "Sundararajan et al. 2017, arXiv:1703.01365",
    "layer_conductance": "Dhamdhere et al. 2018, arXiv:1805.12233",
    "occlusion": "Zeiler and Fergus 2014, arXiv:1311.2901",
    "gradient_x_input": "Shrikumar et al. 2016, arXiv:1605.01713",
}
"""Method -> its paper."""
WORDS = {
    "layer_conductance": "conductance through",
    "integrated_gradients": "integrated gradients at",
    "gradient_x_input": "gradient x input at",
}
"""Method -> what is taken at a point, in words."""
BASELINES = ("black", "mean", "blur")
"""black; the image's own mean colour; the image blurred over an eighth of its side."""


def _baseline(model: HookedVLM, inputs: ModelInputs, baseline: str | Image.Image) -> Float[Tensor, "1 c h w"]:
    """The pixels of the image to start from, made as those of the image itself."""
    (image,) = inputs.images[0]
    if isinstance(baseline, Image.Image):
        if baseline.size != image.size:
            raise VlmProbeError(f"the baseline is {baseline.size} pixels, the image {image.size}; make them alike")
        start = baseline.convert("RGB")
    elif baseline == "black":
        start = Image.new("RGB", image.size)
    elif baseline == "mean":
        red, green, blue = np.asarray(image, dtype=float).mean((0, 1)).round().astype(int).tolist()
        start = Image.new("RGB", image.size, (red, green, blue))
    elif baseline == "blur":
        start = image.filter(ImageFilter.GaussianBlur(max(image.size) / 8))
    else:
        raise VlmProbeError(f"no baseline {baseline!r}; there are {', '.join(BASELINES)}, or give an image")
    return model.inputs.see(start).pixels[None].to(model.device, model.dtype)


def _per_patch(name: str, inputs: ModelInputs, values: Float[Tensor, "position feature"]) -> tuple[np.ndarray, float]:
    """A layer's attributions summed over features: of every patch, and of all positions that are none."""
    summed = values.float().sum(-1).cpu().numpy()
    span = inputs.layout.image()
    on_cells = summed[span.cells_at(name)].sum(1)
    return on_cells.reshape(span.grid), float(summed.sum() - on_cells.sum())


def attribute(
    model: HookedVLM,
    inputs: ModelInputs,
    *,
    method: str = "integrated_gradients",
    target: int | str | None = None,
    baseline: str | Image.Image = "black",
    point: str | None = None,
    steps: int = 64,
    batch_size: int = 8,
) -> xr.DataArray:
    """Attribute the logit of an output token to the patches of the image, against a baseline image.

    Parameters
    ----------
    inputs: one example with one image, from `model.prepare`.
    method: "integrated_gradients" over pixels, summed within each patch, or over each patch's row at `point`, as
        that row goes straight from what the baseline makes of it to what the image does; "gradient_x_input": the
        gradient at the image times the pixels as the encoder takes them, or times the row at `point`, summed alike;
        "layer_conductance": what flows through each patch's row at `point` as pixels go from baseline to image;
        "occlusion": how much is lost when one patch alone is replaced by the baseline's.
    target: token id, or text (the token that begins it behind the prompt); None takes the most probable token.
    baseline: see `BASELINES`, or an image of the same size; gradient_x_input has none.
    point: a point with one row a position ("connector.hook_out": what the language model receives, before its scale).
        Layer conductance needs one, occlusion has none, gradients take pixels without one.
    steps: along the straight line from baseline to image (Gauss-Legendre); of integrated_gradients and
        layer_conductance.
    batch_size: images run at a time.

    Returns
    -------
    DataArray(row, col), float32, in logits: what the patch adds. `attrs`: output and output_baseline (the
    logit with the image and with the baseline), completeness_error: all attributions minus the
    difference of the two, which is 0 for integrated gradients and layer conductance but for the steps (and says for
    occlusion how much the patches overlap or need each other; gradient_x_input has none); elsewhere: what flows
    through positions that are no patch (at a point).

    Raises
    ------
    VlmProbeError: an unknown method, baseline or point, a batch, no image or several.
    """
    # Slow to import.
    from captum.attr import (
        InputXGradient,
        IntegratedGradients,
        LayerConductance,
        LayerGradientXActivation,
        LayerIntegratedGradients,
        Occlusion,
    )

    if method not in CITATIONS:
        raise VlmProbeError(f"no attribution method {method!r}; there are {', '.join(CITATIONS)}")
    layout = inputs.layout
    if inputs.pixel_values is None or layout.encoded != 1 or not inputs.images:
        raise VlmProbeError(
            "attribution needs one image in the prompt, from model.prepare(image, question), without tiles or crops"
        )
    if point is None and method == "layer_conductance":
        raise VlmProbeError('layer_conductance needs point=, a hook point\'s name ("connector.hook_out")')
    if point is not None and method == "occlusion":
        raise VlmProbeError("occlusion takes no point=: it replaces patches of the picture")
    if point is not None:
        (point,) = model.match(point)
        if len(dimensions(point)) != 3 or dimensions(point)[-1] in ("one", "vocabulary") or "resid_mid" in point:
            raise VlmProbeError(f"no {WORDS[method]} {point}; name a point with one row a position")
    pixels, start = inputs.pixel_values, _baseline(model, inputs, baseline)
    kept = layout.length - layout.answer_position

    def forward(images: Tensor, token: int | None = None) -> Tensor:
        n = len(images)
        words = {name: one.expand(n, -1) for name, one in inputs.tensors.items() if name != "pixel_values"}
        out = model(**words, pixel_values=images, logits_to_keep=kept).logits[:, 0].float()
        return out if token is None else out[:, token]

    with frozen(model), torch.no_grad():
        both = forward(torch.cat([pixels, start]))
        token = target_token(model, target, both[0])
        ends = both[:, token].tolist()
    side = pixels.shape[-1] // layout.grid[1]
    elsewhere = 0.0
    along: dict[str, Any] = {
        "baselines": start,
        "n_steps": steps,
        "method": "gausslegendre",
        "internal_batch_size": batch_size,
        "additional_forward_args": token,
    }
    with frozen(model):
        if method == "occlusion":
            window = (pixels.shape[1], side, side)
            with torch.no_grad():
                whole = Occlusion(forward).attribute(
                    pixels,
                    window,
                    strides=window,
                    baselines=start,
                    additional_forward_args=token,
                    perturbations_per_eval=batch_size,
                )
            values = whole[0, 0, ::side, ::side].float().cpu().numpy()
        elif point is not None:
            at: Any = model.point(point)
            if method == "gradient_x_input":
                found: Any = LayerGradientXActivation(forward, at).attribute(pixels, additional_forward_args=token)
            else:
                how = LayerConductance if method == "layer_conductance" else LayerIntegratedGradients
                found = how(forward, at).attribute(pixels, **along)
            values, elsewhere = _per_patch(point, inputs, found[0].detach())
        else:
            if method == "gradient_x_input":
                asked = pixels.clone().requires_grad_()  # or captum warns that it does so itself
                found = InputXGradient(forward).attribute(asked, additional_forward_args=token)
            else:
                found = IntegratedGradients(forward).attribute(pixels, **along)
            each = found[0].detach().float().sum(0)
            values = each.unflatten(0, (-1, side)).unflatten(2, (-1, side)).sum((1, 3)).cpu().numpy()
    name = model.token_strings([token])
    held: dict[str, object] = {}
    if method != "gradient_x_input":
        held = {
            "baseline": baseline if isinstance(baseline, str) else "given image",
            "output_baseline": ends[1],
            "completeness_error": float(values.sum()) + elsewhere - (ends[0] - ends[1]),
        }
    attrs = {
        "title": f"{method.replace('_', ' ').capitalize()} for {name[0].strip()!r}" if name else method,
        "units": "logits",
        "method": method,
        "citation": CITATIONS[method],
        "target": token,
        "prompt": inputs.prompts[0] if inputs.prompts else None,
        "point": point,
        "output": ends[0],
        "elsewhere": elsewhere,
        **held,
        **model.provenance(),
    }
    return xr.DataArray(
        values.astype(np.float32),
        dims=("row", "col"),
        coords=layout.image().edges(),
        name="attribution",
        attrs=writable(attrs),
    )
