"""Runs that go on from what another run has computed: from a layer, from a position.

An edit changes nothing below its layer nor, in a causal language model, before its position. What is there need not be
computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vlm_probe.errors import VlmProbeError
from vlm_probe.hooked.anatomy import attention_modules, language_tower, tower_of
from vlm_probe.hooked.attention import Cut, cut_in, is_cut
from vlm_probe.hooked.families import families_of
from vlm_probe.hooked.model import HookedVLM
from vlm_probe.hooked.points import is_hooked
from vlm_probe.hooked.wiring import layers_of


def is_touched(model: HookedVLM) -> bool:
    """Whether anything is hooked, or cut, in a model now."""
    parts = [part for part, depth in model.layers.items() if depth]
    cuts = any(is_cut(module) for part in parts for module in attention_modules(model, part))
    return cuts or any(is_hooked(point) for point in model.hook_dict.values())


@dataclass
class Progress:
    """Which positions of the sequence the language model is given in its current run."""

    start: int = 0
    """The first: behind those that are in its cache."""
    end: int = 0
    """Behind the last."""


@contextmanager
def following(model: HookedVLM) -> Iterator[Progress]:
    """Meanwhile every run of the language model says where in the sequence it is: in `generate`, step by step."""
    progress = Progress()

    def before(_module: nn.Module, _args: Any, kwargs: dict[str, Any]) -> None:
        past = kwargs.get("past_key_values")
        progress.start = 0 if past is None else int(past.get_seq_length())
        given = next(kwargs[name] for name in ("inputs_embeds", "input_ids") if kwargs.get(name) is not None)
        progress.end = progress.start + given.shape[1]

    handle = language_tower(model).register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield progress
    finally:
        handle.remove()


@contextmanager
def cut(model: HookedVLM, part: str, layer: int, edges: Cut) -> Iterator[None]:
    """Meanwhile a layer's queries do not see some keys: `attention.cut_in` by part ("vision", "language") and layer."""
    with cut_in(attention_modules(model, part)[layer], edges):
        yield


@contextmanager
def starting_at(model: HookedVLM, layer: int) -> Iterator[None]:
    """Meanwhile the language model's layers before `layer` hand on what they get, so that `inputs_embeds` is the
    residual stream that `layer` receives.

    Raises VlmProbeError where the model has no such layer.
    """
    layers = layers_of(language_tower(model), families_of(model.hf.config)[1].blocks)
    if not 0 <= layer < len(layers):
        raise VlmProbeError(f"{model.name} has layers 0 to {len(layers) - 1}, no {layer}")
    with _forwards(dict.fromkeys(list(layers)[:layer], _hand_on)):
        yield


@contextmanager
def checkpointed(model: HookedVLM, part: str) -> Iterator[None]:
    """Meanwhile a forward pass with gradients keeps one activation a layer, and the backward pass computes the rest
    again (Chen et al. 2016, arXiv:1604.06174): hooks inside layers fire twice. It must not fill a key-value cache."""
    tower, blocks = tower_of(model, part)
    with _forwards({m: partial(checkpoint, m.forward, use_reentrant=False) for m in layers_of(tower, blocks)}):
        try:
            yield
        finally:
            model.proof.forget()  # what fired in the backward pass is no proof of the next run


@contextmanager
def _forwards(instead: Mapping[nn.Module, Callable]) -> Iterator[None]:
    """Meanwhile modules compute something else; their hooks stay."""
    before = {module: module.__dict__.get("forward") for module in instead}
    try:
        for module, forward in instead.items():
            module.forward = forward
        yield
    finally:
        for module, own in before.items():
            if own is None:
                module.__dict__.pop("forward", None)
            else:
                module.forward = own


def _hand_on(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return hidden_states
