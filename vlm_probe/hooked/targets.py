"""What a gradient is taken of: an output token, with no parameter in the way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from vlm_probe.errors import VlmProbeError
from vlm_probe.hooked.model import HookedVLM
from vlm_probe.inputs.prompts import first_answer_token


@contextmanager
def frozen(model: HookedVLM) -> Iterator[None]:
    """No parameter asks for a gradient meanwhile: less is kept, and nothing is left in `.grad`."""
    learning = [p for p in model.hf.parameters() if p.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


def target_token(model: HookedVLM, target: int | str | None, logits: Tensor) -> int:
    """The token asked for: an id, the one that begins a text behind the prompt, or where None the most probable one.

    logits: [vocabulary]. Raises VlmProbeError for an id or a text outside the vocabulary.
    """
    if target is None:
        return int(logits.argmax())
    if isinstance(target, str):
        if model.tokenizer is None:
            raise VlmProbeError(f"{model.name} has no tokenizer; give the target as a token id")
        first = first_answer_token(model.tokenizer, model.prompt, target)
        if first is None or first == model.tokenizer.unk_token_id or not model.token_strings([first])[0].strip():
            raise VlmProbeError(f"target {target!r} does not begin with a token of this model's vocabulary")
        return first
    if not 0 <= target < logits.shape[-1]:
        raise VlmProbeError(f"target token {target} is outside the vocabulary of {logits.shape[-1]}")
    return target
