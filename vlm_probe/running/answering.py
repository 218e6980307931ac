"""Answering by greedy decoding, one batch at a time."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch

from vlm_probe.errors import VlmProbeError, VlmProbeWarning
from vlm_probe.inputs.images import ImageLike
from vlm_probe.inputs.model_inputs import ModelInputs


@torch.no_grad()
def answer_tokens(model: Any, inputs: ModelInputs, max_new_tokens: int) -> list[list[int]]:
    """Greedily decoded ids of every example, up to and without the end of the answer."""
    ends, length = model.answer_ends, inputs.input_ids.shape[1] + max_new_tokens
    if model.inputs.context is not None and length > model.inputs.context:
        warnings.warn(
            f"an answer of {max_new_tokens} tokens may go beyond the {model.inputs.context} positions that "
            f"{model.name} was made for",
            VlmProbeWarning,
            stacklevel=3,
        )
    out = model.generate(
        inputs,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=sorted(ends) or None,
        pad_token_id=model.text_config.pad_token_id or 0,
    )
    new = out[:, inputs.input_ids.shape[1] :].tolist()
    return [row[: next((i for i, t in enumerate(row) if t in ends), len(row))] for row in new]


def answer_all(model: Any, images: Sequence[ImageLike | None], questions: list[str], max_new_tokens: int) -> list[str]:
    """Answers to several questions, each about its own image (or none), in one left-padded batch."""
    if max_new_tokens < 1:
        raise VlmProbeError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
    tokens = answer_tokens(model, model.prepare(list(images), questions), max_new_tokens)
    return [model.tokenizer.decode(row, skip_special_tokens=True).strip() for row in tokens]
