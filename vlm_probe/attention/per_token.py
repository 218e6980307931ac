"""A map for every token of an answer: one mechanism for whatever makes a map of one token."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import xarray as xr

from vlm_probe.attention.answer_maps import MakesMap, map_named
from vlm_probe.errors import VlmProbeError
from vlm_probe.files import writable
from vlm_probe.hooked import HookedVLM
from vlm_probe.inputs.model_inputs import ModelInputs


def per_token(
    model: HookedVLM,
    inputs: ModelInputs,
    *,
    map: str | MakesMap = "relevancy",
    tokens: Sequence[int] | None = None,
    max_new_tokens: int = 16,
    probability: Sequence[float] | None = None,
    progress: Callable[[int], None] = lambda n: None,
) -> xr.DataArray:
    """A map for every token of an answer, each asked behind the tokens before it.

    Token i is asked of `inputs.with_answer(tokens[:i])`, at whose last position the model predicts it: what a map of
    the first token is to the prompt, a map of a later one is to the prompt and what has been said.

    Parameters
    ----------
    inputs: one example.
    map: a name of `attention.MAPS` or `attention.BASELINES`, or a function map(model, inputs, target=id) of one's own.
        Whatever dimensions its maps have are kept: `lambda m, i, target: image_attention(m.trace(i))` gives
        (token, layer, head, row, col).
    tokens: ids of the answer; None takes what the model says (greedily).
    max_new_tokens: how many it says at most.
    probability: of `tokens`, where it is known already; None takes one run to tell it.
    progress: called with 1 for every token that is done.

    Returns
    -------
    DataArray(token, ...): the maps as they are. Coordinates along token: token (its text, as `token_strings` gives it;
    texts may come twice), token_id, probability (of the token, behind those before it). `attrs` are those of the first
    map, with a title for all of them and the answer.

    Raises VlmProbeError for an answer without a token, for maps that are not all over the same patches, and as the map
    does.
    """
    make = map_named(map) if isinstance(map, str) else map
    asked = list(tokens) if tokens is not None else model.answer_tokens(inputs, max_new_tokens=max_new_tokens)[0]
    if not asked:
        raise VlmProbeError("the answer has no token: there is none to make a map for")
    texts = model.token_strings(asked) or tuple(f"<{token}>" for token in asked)
    maps = []
    for i, token in enumerate(asked):
        so_far = inputs.with_answer(asked[:i], texts[:i]) if i else inputs
        maps.append(make(model, so_far, target=token))
        progress(1)
    first = maps[0]
    if any(one.dims != first.dims or one.shape != first.shape for one in maps):
        raise VlmProbeError("the maps of an answer's tokens differ in their dimensions")
    name = map if isinstance(map, str) else str(first.name or "map")
    attrs = {
        **{key: value for key, value in first.attrs.items() if key != "target"},
        "title": f"{name[:1].upper()}{name[1:]}, token by token",
        "answer": "".join(texts),
    }
    return xr.DataArray(
        np.stack([one.to_numpy() for one in maps]),
        dims=("token", *first.dims),
        coords={
            **{str(key): value for key, value in first.coords.items()},
            "token": list(texts),
            "token_id": ("token", asked),
            "probability": (
                "token",
                _probabilities(model, inputs, asked, texts) if probability is None else list(probability),
            ),
        },
        name=first.name,
        attrs=writable(attrs),
    )


@torch.no_grad()
def _probabilities(model: HookedVLM, inputs: ModelInputs, tokens: Sequence[int], texts: tuple[str, ...]) -> list[float]:
    """Of every token, behind those before it: from one run."""
    before = inputs.with_answer(list(tokens[:-1]), texts[:-1]) if len(tokens) > 1 else inputs
    kept = before.layout.length - inputs.layout.answer_position
    logits = model(before, logits_to_keep=kept).logits[0, : len(tokens)].float()
    at = torch.as_tensor(list(tokens), device=logits.device)
    if not 0 <= int(at.min()) <= int(at.max()) < logits.shape[-1]:
        raise VlmProbeError(f"tokens must be between 0 and {logits.shape[-1] - 1}, got {list(tokens)}")
    return logits.softmax(-1).gather(1, at[:, None])[:, 0].tolist()
