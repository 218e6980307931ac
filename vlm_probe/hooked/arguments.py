"""What a Hugging Face model is called with, and a configuration that nobody else can change under it."""

from __future__ import annotations

import copy
import inspect
from functools import cache
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.utils.generic import TransformersKwargs

from vlm_probe.errors import VlmProbeError, nearest
from vlm_probe.inputs.model_inputs import ModelInputs

_PASSED_ON = frozenset({*TransformersKwargs.__annotations__, "use_cache", "return_dict"})
"""Keywords that a model's `forward` takes without naming them, because a part of it does."""


def refuse_adapters(hf: nn.Module) -> None:
    """VlmProbeError for a model whose adapters are not merged into its weights."""
    if type(hf).__name__.startswith("PeftModel"):
        raise VlmProbeError(
            f"HookedVLM takes a Hugging Face model, got a {type(hf).__name__}: merge its adapters first, "
            "HookedVLM(model.merge_and_unload())"
        )
    if getattr(hf, "_hf_peft_config_loaded", False):
        raise VlmProbeError(
            f"this {type(hf).__name__} runs adapters (add_adapter) beside its weights, which methods that read "
            "weights would not see: merge them into it first (peft's merge_and_unload)"
        )


def own_configuration(hf: nn.Module) -> None:
    """Give a model a configuration that is its own.

    Models built from one configuration object share it, and with it the attention implementation: what is set on
    one would silence the hook points of the other.
    """
    memo: dict[int, Any] = {}
    for module in hf.modules():
        if isinstance(getattr(module, "config", None), PreTrainedConfig):
            module.config = copy.deepcopy(module.config, memo)


@cache
def _named(kind: type) -> frozenset[str]:
    parameters = inspect.signature(kind.forward).parameters.values()  # pyright: ignore[reportAttributeAccessIssue]
    return frozenset(p.name for p in parameters if p.kind is not p.VAR_KEYWORD) - {"self"}


def call_arguments(
    hf: nn.Module,
    inputs: Any,
    pixel_values: Tensor | None,
    attention_mask: Tensor | None,
    others: dict[str, Any],
) -> dict[str, Any]:
    """Keyword arguments for a model, of a `ModelInputs` or of tensors (ids and mask without a batch dimension get one).

    Raises VlmProbeError for an argument that the model would take and ignore.
    """
    if isinstance(inputs, ModelInputs):
        given: dict[str, Any] = {**inputs.tensors, **others}
    elif not isinstance(inputs, Tensor | None):
        raise VlmProbeError(
            f"a model takes ModelInputs or token ids, got a {type(inputs).__name__}: model.prepare(image, question) "
            "makes them"
        )
    else:
        words = {"input_ids": inputs, "attention_mask": attention_mask}
        batched = {name: one if one is None or one.ndim > 1 else one[None] for name, one in words.items()}
        tensors = {**batched, "pixel_values": pixel_values}
        given = {**{name: one for name, one in tensors.items() if one is not None}, **others}
    if given.get("input_ids") is None and given.get("inputs_embeds") is None:
        raise VlmProbeError("there is nothing to run: model.prepare(image, question) makes inputs")
    taken = _named(type(hf)) | _PASSED_ON
    for name in given:
        if name not in taken:
            raise VlmProbeError(
                f"{type(hf).__name__} takes no argument {name!r}; nearest are {nearest(name, sorted(taken))}"
            )
    return given
