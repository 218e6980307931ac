"""Relevancy of input tokens to an output token (Chefer et al. 2021, arXiv:2103.15679).

The rules for self-attention, equations 5 and 6: A^ = E_heads[(grad A * A)+] and R <- R + A^ R,
from R = I at the input, with the gradient of the asked token's logit. We only ever read one row of
R, so only that row is propagated: r <- r + r A^, from the last layer to the first. That is the
order of the backward pass, so each head's pattern and gradient are made as it comes by
(`hooked.attention.watch_gradients`) and never stored.

Deviation: equation 6's R is read at the position that predicts the asked token, and its own
identity part is left in the row of tokens and out of every image map.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from vlm_probe.errors import VlmProbeError
from vlm_probe.files import writable
from vlm_probe.hooked.anatomy import attention_modules
from vlm_probe.hooked.attention import Heads, watch_gradients
from vlm_probe.hooked.continuing import checkpointed
from vlm_probe.hooked.model import HookedVLM
from vlm_probe.hooked.proof import must_fire
from vlm_probe.hooked.targets import frozen, target_token
from vlm_probe.inputs.model_inputs import ModelInputs


@dataclass
class _Rows:
    """The rows being propagated, updated by the backward pass."""

    language: Float[Tensor, " position"]
    vision: Float[Tensor, "image token"] | None = None
    """Starts when the backward pass has left the language model."""


def _received(rows: Float[Tensor, "batch query"], heads: Heads) -> Float[Tensor, "batch key"]:
    """r A^: equation 5, the positive part of gradient times attention, mean over heads, for the rows alone."""
    found = torch.zeros(heads.batch, heads.keys, device=rows.device)
    for queries, pattern, gradient in heads.seen:
        attended = gradient.float().clamp_min_(0).mul_(pattern)  # a pattern is not negative itself
        found[:, : attended.shape[-1]] += (rows[:, None, queries] @ attended)[:, 0]
    return found / heads.count


def _leaf(x: Tensor, hook: HookPoint) -> Tensor:
    """The graph begins here: what comes before needs no gradient."""
    return x.detach().requires_grad_()


def _propagate(
    model: HookedVLM, inputs: ModelInputs, target: int | str | None, *, through_encoder: bool, recompute: bool
) -> tuple[_Rows, int]:
    """Run forward and backward once; returns the propagated rows and the token asked for."""
    layout = inputs.layout
    if through_encoder and not layout.images:
        raise VlmProbeError("through_encoder=True needs an image in the prompt")
    if through_encoder and layout.encoded != len(layout.pictures):
        raise VlmProbeError("through_encoder=True composes with the picture as a whole, and tiles or crops are several")
    if through_encoder and "vision" not in model.layers:
        several = ", ".join(part for part in model.layers if part != "language")
        raise VlmProbeError(f"through_encoder=True composes with one encoder, and this model has several: {several}")
    device = model.device
    rows = _Rows(torch.zeros(layout.length, device=device))
    rows.language[layout.answer_position] = 1.0

    def through_language(heads: Heads) -> None:
        rows.language += _received(rows.language[None], heads)[0]

    def through_vision(heads: Heads) -> None:
        if rows.vision is None:
            # The backward pass has just come out of the connector, which gets the patches and what is kept before them.
            rows.vision = torch.zeros(heads.batch, heads.keys, device=device)
            for number, span in enumerate(layout.images):
                extra, own = (torch.as_tensor(at, device=device) for at in (span.extra_positions, span.positions))
                rows.vision[number, span.leading - len(extra) : span.leading] = rows.language[extra]
                # A mean of several patches owes each of them its share.
                cells = torch.as_tensor(span.cells_at("vision.blocks"), device=device)
                rows.vision[number, cells] = rows.language[own][:, None] / cells.shape[1]
        rows.vision += _received(rows.vision, heads)

    reports = {"language": through_language}
    if through_encoder:
        reports["vision"] = through_vision
    hooks: list[Any] = [("vision.hook_embed" if through_encoder else "language.hook_embed", _leaf)]
    # Where another attention function runs, nothing would be reported: the point says so.
    hooks += [(f"{part}.blocks.{i}.attn.hook_z", must_fire) for part in reports for i in range(model.layers_read(part))]
    with ExitStack() as stack:
        for part, report in reports.items():
            for module in attention_modules(model, part):
                stack.enter_context(watch_gradients(module, report))
            if recompute:
                stack.enter_context(checkpointed(model, part))
        stack.enter_context(frozen(model))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(model.hooks(fwd_hooks=hooks))
        kept = layout.length - layout.answer_position
        logits = model(inputs, logits_to_keep=kept, use_cache=False).logits[0, 0]
        token = target_token(model, target, logits)
        logits[token].backward()
    return rows, token


def _attrs(model: HookedVLM, inputs: ModelInputs, token: int, units: str, through_encoder: bool) -> dict[str, object]:
    name = model.token_strings([token])
    attrs = {
        "title": f"Relevancy for {name[0].strip()!r}" if name else f"Relevancy for token {token}",
        "units": units,
        "method": "generic attention relevancy" + (", composed with the encoder's" if through_encoder else ""),
        "citation": "Chefer et al. 2021, arXiv:2103.15679",
        "target": token,
        "prompt": inputs.prompts[0] if inputs.prompts else None,
        **model.provenance(),
    }
    return writable(attrs)


def token_relevancy(
    model: HookedVLM, inputs: ModelInputs, *, target: int | str | None = None, recompute: bool = False
) -> xr.DataArray:
    """Relevancy of every position of the sequence to an output token.

    Parameters
    ----------
    inputs: one example; for a later answer token, `inputs.with_answer(the tokens before it)`.
    target: token id, or text (the token that begins it behind the prompt); None takes the most probable token.
    recompute: as in `relevancy`.

    Returns
    -------
    DataArray(position), float32, no unit; the asking position holds its own identity (one) as well.
    """
    rows, token = _propagate(model, inputs, target, through_encoder=False, recompute=recompute)
    return xr.DataArray(
        rows.language.cpu().numpy(),
        dims=("position",),
        name="relevancy",
        attrs=_attrs(model, inputs, token, "relevancy", False),
    )


def relevancy(
    model: HookedVLM,
    inputs: ModelInputs,
    *,
    target: int | str | None = None,
    through_encoder: bool = False,
    recompute: bool = False,
    image: int = 0,
) -> xr.DataArray:
    """Relevancy of every patch of an image to an output token.

    Every call runs the model forward and backward for the asked token alone: nothing is left over
    from a token asked before, and no parameter's `.grad` is touched.

    Parameters
    ----------
    inputs: one example; for a later answer token, `inputs.with_answer(the tokens before it)`.
    target: token id, or text (the token that begins it behind the prompt); None takes the most probable token.
    through_encoder: False gives the relevancy of the rows the language model received. True
        composes it with the encoder's own relevancy, over the layers the connector reads: where in
        the image those rows came from. What flows to CLS or registers is not displayed.
    recompute: True keeps one activation a layer and computes the others again in the backward pass (gradient
        checkpointing, Chen et al. 2016, arXiv:1604.06174): a further forward pass, and memory that grows with depth by
        one residual stream a layer.
    image: which image of the prompt.

    Returns
    -------
    DataArray(row, col), float32, no unit.

    Raises VlmProbeError for a batch of several examples, an unknown target, and where there is no
    image.
    """
    span = inputs.layout.image(image)
    rows, token = _propagate(model, inputs, target, through_encoder=through_encoder, recompute=recompute)
    if through_encoder:
        assert rows.vision is not None
        cells = torch.as_tensor(span.cells_at("vision.blocks"), device=rows.vision.device)
        values = rows.vision[image, cells].sum(1)  # of patches that are pooled, together
    else:
        values = rows.language[torch.as_tensor(span.positions, device=rows.language.device)]
    return xr.DataArray(
        values.unflatten(0, span.grid).cpu().numpy(),
        dims=("row", "col"),
        coords=span.edges(),
        name="relevancy",
        attrs=_attrs(model, inputs, token, "relevancy", through_encoder),
    )
