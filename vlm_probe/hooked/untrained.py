"""The same model with weights that nobody trained: what a finding must not find."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils import logging

from vlm_probe.errors import VlmProbeError
from vlm_probe.hooked.anatomy import is_tied, with_state
from vlm_probe.hooked.model import HookedVLM

MARK = " (untrained)"
"""Behind the name of an untrained copy."""
_APART = 1_000_003
"""Between the seeds of random encoders and of untrained copies, which draw their encoder first: of one seed they were
one, and an untrained copy would be held against itself."""


def untrained(model: HookedVLM, *, seed: int = 0) -> HookedVLM:
    """A model of the same configuration, tokenizer, processor, prompt and scale, its weights drawn anew.

    As its class initialises them (transformers' own distributions), in the model's dtype and on its device.
    """
    hf, settings = model.hf, copy.deepcopy(model.hf.config)
    for part in (settings, settings.get_text_config()):
        part.tie_word_embeddings = is_tied(model)  # whatever the configuration says
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        bare = type(hf)(settings)
        for name, weight in bare.named_parameters():
            # Gemma 3's connector begins with a matrix of zeros, through which no image comes.
            if "multi_modal_projector" in name and weight.ndim == 2 and not weight.any():
                weight.normal_(0, settings.get_text_config().initializer_range)
    bare.tie_weights()
    return _like(model, bare.to(device=model.device, dtype=model.dtype), f"{model.name}{MARK}")


def with_random_encoder(model: HookedVLM, *, seed: int = 0) -> HookedVLM:
    """The model with an encoder that nobody trained; all else is the model's own, shared and not copied.

    Raises VlmProbeError for a model without an encoder.
    """
    own = _encoder(model)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(_APART + seed)
        tower = type(own)(copy.deepcopy(own.config))
    return _with_tower(model, tower, "random encoder")


def with_encoder(model: HookedVLM, weights: Mapping[str, Tensor], *, words: str = "another encoder") -> HookedVLM:
    """The model with an encoder of the same shape and other weights; all else is the model's own, not copied.

    weights: all of the encoder's, by the names that a checkpoint gives them, with or without what stands before
    ("vision_tower."). words: behind the model's name.

    Raises VlmProbeError for a model without an encoder, and weights that are not those of its encoder.
    """
    own = _encoder(model)
    if not hasattr(own, "from_pretrained"):
        raise VlmProbeError(f"{model.name}'s encoders are several in one, and take no weights of another")
    state = {name.rpartition("vision_tower.")[2]: value for name, value in weights.items()}
    with _without_bars():
        # What checkpoints call a weight is not what modules call it, and transformers knows both.
        tower, said = type(own).from_pretrained(
            None,
            config=copy.deepcopy(own.config),
            state_dict=state,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    wrong = [*said["missing_keys"], *said["unexpected_keys"], *(entry[0] for entry in said["mismatched_keys"])]
    if wrong:
        raise VlmProbeError(
            f"these are not the weights of {model.name}'s encoder: {len(wrong)} are missing, unknown or of another "
            f"shape, such as {min(wrong)}"
        )
    return _with_tower(model, tower, words)


def _encoder(model: HookedVLM) -> Any:
    if model.vision_config is None:
        raise VlmProbeError(f"{model.name} has no encoder")
    return model.hf.model.vision_tower


def _with_tower(model: HookedVLM, tower: nn.Module, words: str) -> HookedVLM:
    hf = model.hf
    prefix = next(name for name, module in hf.named_modules() if module is hf.model.vision_tower)
    drawn = tower.to(device=model.device, dtype=model.dtype).state_dict()
    state = {}
    for name, value in hf.state_dict(keep_vars=True).items():
        own = drawn.get(name.removeprefix(f"{prefix}."), None) if name.startswith(f"{prefix}.") else None
        state[name] = own if own is not None else (value.detach() if isinstance(value, nn.Parameter) else value)
    return _like(model, with_state(hf, copy.deepcopy(hf.config), state), f"{model.name} ({words})")


@contextmanager
def _without_bars() -> Iterator[None]:
    """transformers silenced: its bars would tear up ours, and what it would warn about is an error here."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _like(model: HookedVLM, hf: Any, name: str) -> HookedVLM:
    hf.generation_config = copy.deepcopy(model.hf.generation_config)
    return HookedVLM(
        hf.eval(),
        embed_scale=model.embed_scale,
        tokenizer=model.tokenizer,
        preparer=model.preparer,
        name=name,
        prompt=model.prompt,
    )
