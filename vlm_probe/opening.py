"""`load`: from a name or a folder to a HookedVLM, faithful to how the checkpoint was trained."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers.utils import logging as transformers_logging

from vlm_probe.checkpoints import describe
from vlm_probe.checkpoints.checkpoint import check_quantization
from vlm_probe.errors import VlmProbeError, VlmProbeWarning, first_line
from vlm_probe.hooked import HookedVLM
from vlm_probe.hooked.families import LANGUAGE, families_of
from vlm_probe.hooked.joined import JOINED, habits_of
from vlm_probe.inputs.images import ImagePreparer
from vlm_probe.inputs.remapped import remapped
from vlm_probe.zoo.locating import locate


def load(
    name_or_path: str | Path,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    embed_scale: str | None = None,
    prompt: str | None = None,
    quantization: str | None = None,
    revision: str | None = None,
) -> HookedVLM:
    """Open a LLaVA checkpoint with hooks, or a language model alone.

    Parameters
    ----------
    name_or_path: `replica/...` (shipped miniatures), a model that `vlm-probe fetch` brought
        ("gemma3-270m"), one that is made of those ("llava-gemma3-270m"), a Hub id, or a local directory, in
        the Hugging Face layout (old or new key names), the original LLaVA layout, in parts (`checkpoints.parts`), or
        adapters as peft saves them, which are merged into the model they name. A causal language model has the hook
        points of `language.` only.
    device: where to put it; None takes CUDA where there is one, else the CPU.
    dtype: a torch dtype or its name; None takes float32 on the CPU and bfloat16 on a GPU.
    embed_scale: "all" or "text": whether image rows are multiplied by sqrt(d_model) as text rows
        are. None takes what the checkpoint declares, else "all" for gemma and gemma2, "text" for
        the rest: LLaVA-Gemma was trained so, and current transformers no longer does it.
    prompt: template with {images}, {question} and, where the text does not hold it, {bos}. None takes what the
        checkpoint declares, else its chat template, else the family's; a language model alone gets the bare question.
    quantization: "8bit" or "4bit" (needs bitsandbytes and a GPU).
    revision: branch, tag or commit on the Hub.

    Raises
    ------
    VlmProbeError: for an unknown name, a directory that is no LLaVA checkpoint, weights that are missing, misshapen
        or more than config.json has a place for, a missing shard, a missing encoder, a tokenizer or chat template that
        cannot be read, a prompt without {question} or {images}.
    """
    name = str(name_or_path)
    with _quiet():
        folder = locate(name)
        device = find_device(device)
        number = find_dtype(dtype, device)
        check_quantization(quantization, device)
        checkpoint = describe(
            name, folder, revision, languages=LANGUAGE, joined={kind: row.mark for kind, row in JOINED.items()}
        )
        # Said before the model is built, where a family has no row.
        vision, language = families_of(checkpoint.config)
        hf = checkpoint.build(device, number, quantization)
        processor = checkpoint.image_processor if vision is not None else None
        pad = habits_of(checkpoint.config).pads if checkpoint.pad is None else checkpoint.pad
        more = checkpoint.more_image_processors
        preparer = None if processor is None else ImagePreparer(processor, pad=pad, more=more, fit=checkpoint.fit)
        if preparer is not None and vision is not None and not vision.any_size:
            _check_size(name, preparer, checkpoint.config.vision_config.image_size)
        template = checkpoint.prompt() if prompt is None else prompt
        if template is None and vision is not None and checkpoint.tokenizer is not None:
            _say_assumed(name, language.prompt, checkpoint.tokenizer)
        return HookedVLM(
            hf,
            embed_scale=embed_scale or checkpoint.embed_scale,
            tokenizer=remapped(checkpoint.tokenizer, folder),
            preparer=preparer,
            name=name,
            revision=revision,
            prompt=template,
        )


def _check_size(name: str, preparer: ImagePreparer, side: int) -> None:
    """VlmProbeError where an image processor makes pictures that the encoder does not take, or cannot work at all."""
    try:
        pixels, _ = preparer(Image.new("RGB", (side + 2, side + 2)))
    except (ValueError, TypeError) as error:
        raise VlmProbeError(f"the image processor of {name} cannot be used: {first_line(error)}") from error
    if tuple(pixels.shape[-2:]) != (side, side):
        height, width = pixels.shape[-2:]
        raise VlmProbeError(
            f"the image processor of {name} makes {width} x {height} pixels, its encoder takes {side} x {side}"
        )


def _say_assumed(name: str, prompt: str, tokenizer: Any) -> None:
    """Warn where the family's prompt is spelt with tokens that a checkpoint without a chat template does not have."""
    marks = re.findall(r"<[^<>\s]+>", prompt)
    lacking = [mark for mark in dict.fromkeys(marks) if mark not in tokenizer.get_vocab()]
    if lacking:
        warnings.warn(
            f"{name} has no chat template and is asked as its family is, {prompt!r}, though its tokenizer has no "
            f"{', '.join(lacking)}; give its own with prompt= (--prompt)",
            VlmProbeWarning,
            stacklevel=3,
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers silenced: what it would warn about is an error here, and its bars would tear up ours."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def find_device(device: str | torch.device | None) -> torch.device:
    """The device of that name; None: CUDA if there is one. VlmProbeError for one that is not there."""
    try:
        found = torch.device(device if device is not None else "cuda" if torch.cuda.is_available() else "cpu")
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:
        raise VlmProbeError(f"no device {str(device)!r} here: {str(error).splitlines()[0]}") from error
    return found


def find_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """The dtype of that name; None: float32 on the CPU, bfloat16 on a GPU. VlmProbeError for one that is none."""
    if dtype is None:
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    resolved = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(resolved, torch.dtype) or not resolved.is_floating_point:
        raise VlmProbeError(f"dtype must be a floating torch dtype such as 'float32' or 'bfloat16', got {dtype!r}")
    return resolved
