"""Whether a hooked model is the plain one: against transformers itself, on the checkpoint at hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pandas as pd
import torch
from torch import nn

from vlm_probe.errors import VlmProbeError, first_line
from vlm_probe.hooked.checks import Checks
from vlm_probe.hooked.joined import encoders_of
from vlm_probe.hooked.model import HookedVLM
from vlm_probe.hooked.plain import plain_twin
from vlm_probe.hooked.points import is_hooked
from vlm_probe.inputs.model_inputs import ModelInputs

ALLOWED = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 0.05, torch.float16: 0.01}
"""How far activations may lie apart, as a share of the largest or of 1, by dtype."""
EXACT = ("idle logits", "what layers add", "hooks left")
"""Checks of what is the very same sum or product: bit for bit."""
_SAID = (RuntimeError, AttributeError, KeyError, IndexError, TypeError, ValueError)
"""What a family's wrong description makes torch and transformers raise."""
QUESTIONS = ("What is in the picture?", "What colour is it, and how many are there?")
COLUMNS = ("check", "compared", "difference", "allowed", "ok", "said")


@torch.no_grad()
def verify(model: HookedVLM, inputs: ModelInputs | None = None) -> pd.DataFrame:
    """Compare a hooked model with plain transformers: the same weights in a model that carries no hook of ours.

    Parameters
    ----------
    inputs: what both are run on, and its first example once more without padding; None takes a generated picture with
        two questions of different lengths, or random tensors where there is no tokenizer or image processor.

    Returns
    -------
    A row a check: check, compared (how many activations), difference (the largest, as a share of the largest value
    compared or of 1), allowed (`ALLOWED`; 0 is bit for bit, `EXACT`), ok, and said (what was raised, else empty). The
    checks: idle logits; logits while every point is hooked; residual streams against transformers' hidden states;
    patterns, hooked alone and with all else, against its eager attention; scores from queries and keys, those from the
    norm and each head's weights; patterns times values; what heads and layers add; MLPs, connector and final norm part
    by part; connector rows and token rows where the language model gets them, with the scale that is measured; an
    identity edit at every point; an edit at every point reaching the logits (by its gradient); no hook left. `attrs`
    holds what the embedding scale does, and where the model comes from. What is no error of the model's but of how its
    family is described is a row, too.

    Raises
    ------
    VlmProbeError: quantized weights, which cannot be shared with a second model; weights that are not those that the
        configuration describes; hooks that are there already; inputs without an image for a model that has an encoder.
    """
    if any(map(is_hooked, model.hook_points())):
        raise VlmProbeError(f"{model.name} has hooks, which would be compared too: model.reset_hooks() takes them away")
    inputs = _inputs(model) if inputs is None else inputs
    if model.vision_config is not None and inputs.pixel_values is None:
        raise VlmProbeError(f"{model.name} has an encoder: inputs need an image, or it would not be compared")
    twins = {implementation: plain_twin(model, implementation) for implementation in ("sdpa", "eager")}
    with _evaluating(model.hf):
        runs = [Checks(model, given, twins).all() for given in (inputs, _first(model, inputs))]
        rows = [_row(same[0][0], [check for _, check in same], model.dtype) for same in zip(*runs, strict=True)]
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    table.attrs = {
        "title": f"{model.name} beside plain transformers",
        "token_scale": model.token_scale,
        "image_scale": model.image_scale,
        **model.provenance(),
    }
    return table


@contextmanager
def _evaluating(hf: nn.Module) -> Iterator[None]:
    """Meanwhile nothing is dropped out."""
    training = [module for module in hf.modules() if module.training]
    hf.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _row(name: str, checks: list[Callable[[], list[float]]], dtype: torch.dtype) -> dict[str, object]:
    """One check of all runs. What a wrong description of a family makes it raise, whatever it is, is said."""
    apart: list[float] = []
    said = ""
    try:
        for check in checks:
            apart += check()
    except Exception as error:
        if not isinstance(error, VlmProbeError) and type(error) not in _SAID:
            raise  # no memory, say
        said = first_line(error)
    allowed = 0.0 if name.endswith(EXACT) else ALLOWED.get(dtype, ALLOWED[torch.float32])
    difference = max(apart) if apart and not said else float("nan")
    ok = not said and difference <= allowed
    return dict(zip(COLUMNS, (name, len(apart), difference, allowed, ok, said), strict=True))


def _first(model: HookedVLM, inputs: ModelInputs) -> ModelInputs:
    """The first example alone, without padding: transformers makes no mask for it."""
    live = inputs.attention_mask[0].bool()
    first, sizes = inputs.layouts[0], inputs.image_sizes
    pixels = None if inputs.pixel_values is None else inputs.pixel_values[: first.encoded]
    sizes = None if sizes is None else sizes[: len(first.pictures)]
    return model.prepare_tensors(inputs.input_ids[:1, live], pixels, None, sizes)


def _inputs(model: HookedVLM) -> ModelInputs:
    """Two examples of different lengths."""
    from vlm_probe.scenes import sample_scene, scene_image

    sees = model.vision_config is not None
    if model.tokenizer is not None and (model.preparer is not None or not sees):
        pictures: Any = [scene_image(sample_scene(seed), model.image_size) for seed in (1, 2)] if sees else None
        return model.prepare(pictures, list(QUESTIONS))
    generator = torch.Generator().manual_seed(5)
    words = [i for i in range(3, min(model.text_config.vocab_size, 50)) if i != model.image_token_id]
    text = torch.tensor(words)[torch.randint(len(words), (2, 9), generator=generator)]
    mask = torch.ones_like(text)
    mask[1, :2] = 0
    patches = model.inputs.patches
    if patches is None:
        return model.prepare_tensors(text, None, mask)
    pixels = torch.randn(2, 3 * len(encoders_of(model.hf.config)), *[model.image_size] * 2, generator=generator)
    image = torch.full((2, patches.tokens(pixels)), model.image_token_id)
    ids = torch.cat([text[:, :4], image, text[:, 4:]], dim=1)
    return model.prepare_tensors(ids, pixels, torch.cat([mask[:, :4], torch.ones_like(image), mask[:, 4:]], dim=1))
