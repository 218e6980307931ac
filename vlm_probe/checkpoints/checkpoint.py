"""A checkpoint on disk or on the Hub, described before its weights are read."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

from vlm_probe.checkpoints.adapters import merge_adapter
from vlm_probe.checkpoints.files import hub_file, read_weights, snapshot
from vlm_probe.errors import VlmProbeError, first_line
from vlm_probe.inputs.fitting import Fit

QUANTIZATION: dict[str, dict[str, Any]] = {
    "8bit": {"load_in_8bit": True},
    "4bit": {"load_in_4bit": True, "bnb_4bit_compute_dtype": torch.bfloat16},
}
"""Name -> bitsandbytes's settings."""


def check_quantization(quantization: str | None, device: torch.device) -> None:
    """VlmProbeError for an unknown quantization, and one without a CUDA device; asked before anything is read."""
    if quantization is None:
        return
    if quantization not in QUANTIZATION:
        raise VlmProbeError(f"quantization must be one of {', '.join(QUANTIZATION)}, got {quantization!r}")
    if device.type != "cuda":
        raise VlmProbeError(f"quantization {quantization!r} needs a CUDA device, got {device}")


@dataclass(frozen=True)
class Checkpoint:
    """What a model is made of, whatever the layout on disk: every layout's reader gives one of these."""

    name: str
    revision: str | None
    config: Any
    """transformers' configuration: a LLaVA one, or a language model's."""
    source: str | Path | None
    """Where transformers reads the weights itself; None where `weights` gives them."""
    weights: Callable[[], dict[str, Tensor]] | None
    """All weights under Hugging Face names; None where transformers reads `source`. Read when called, but for the
    original layout, whose configuration hangs on them."""
    tokenizer: Any
    image_processor: Any
    prompt: Callable[[], str | None]
    """The prompt's template where the checkpoint has one of its own; called where the user gives none."""
    embed_scale: str | None
    """What it declares, see `vlm_probe.load`."""
    pad: bool | None
    """Whether its images were padded to a square, where it says so; else the family's habit."""
    adapter: Path | None = None
    """A folder of peft's whose adapters are merged into the weights."""
    more_image_processors: tuple[Any, ...] = ()
    """Of the encoders behind the first."""
    fit: Fit | None = None
    """How pictures become squares, where the image processors leave that to others (Prismatic)."""
    suppressed: tuple[int, ...] = field(default=())
    """Ids that are never to be generated."""

    def build(self, device: torch.device, dtype: torch.dtype, quantization: str | None = None) -> Any:
        """The Hugging Face model with its weights, in evaluation mode.

        quantization: one that `check_quantization` lets pass. Raises VlmProbeError for weights that are missing,
        misshapen, unreadable or more than the configuration has a place for, and for adapters that do not fit.
        """
        kwargs: dict[str, Any] = {"config": self.config, "dtype": dtype}
        if quantization is not None:
            settings = BitsAndBytesConfig(**QUANTIZATION[quantization])
            kwargs |= {"quantization_config": settings, "device_map": {"": device}}
        if self.weights is None:
            kwargs["revision"] = self.revision
        else:
            kwargs["state_dict"] = self.weights()
        hf, biased = _from_pretrained(self.name, self.source, **kwargs)
        if biased:
            bias = self._output_bias(kwargs.get("state_dict"), hf.lm_head.out_features)
            hf.lm_head.bias = nn.Parameter(bias.to(device, dtype), requires_grad=False)
        if self.adapter is not None:
            hf = merge_adapter(self.name, hf, self.adapter)
        if self.suppressed:
            hf.generation_config.suppress_tokens = list(self.suppressed)
        hf.eval()
        return hf if quantization is not None else hf.to(device)

    def _output_bias(self, given: dict[str, Tensor] | None, rows: int) -> Tensor:
        """Of the output layer. transformers' LLaVA gives every language model one without, Phi's among them."""
        if given is None:
            source = self.source if isinstance(self.source, Path) else snapshot(str(self.source), self.revision)
            given = dict(read_weights(source))
        bias = next(tensor for key, tensor in given.items() if key.endswith(_BIAS))
        if list(bias.shape) != [rows]:
            raise VlmProbeError(f"{self.name} has the bias {_BIAS} of shape {list(bias.shape)}, expected {[rows]}")
        return bias


_BIAS = "lm_head.bias"
HARMLESS = (".rotary_emb.inv_freq", ".embeddings.position_ids")
"""Ends of names of what older transformers saved among the weights, and which is computed from the configuration."""


def _few(keys: list[str]) -> str:
    return ", ".join(keys[:4]) + (" ..." if len(keys) > 4 else "")


def _from_pretrained(name: str, source: str | Path | None, **kwargs: Any) -> tuple[Any, bool]:
    """A model with its weights, and whether a bias of its output layer is left over, for which it has no place yet."""
    sees = hasattr(kwargs["config"], "vision_config")
    kind: Any = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(kwargs["config"])] if sees else AutoModelForCausalLM
    try:
        loaded: Any = kind.from_pretrained(source, output_loading_info=True, ignore_mismatched_sizes=True, **kwargs)
    except (OSError, RuntimeError, ValueError, KeyError, ImportError, SafetensorError) as error:
        raise VlmProbeError(f"{name} could not be loaded: {first_line(error)}") from error
    model, info = loaded
    misshapen_keys = {entry[0] for entry in info["mismatched_keys"]}
    missing = sorted(set(info["missing_keys"]) - misshapen_keys)
    unknown = sorted(key for key in info["unexpected_keys"] if not key.endswith(HARMLESS))
    biased = sees and _BIAS in unknown
    unknown = [key for key in unknown if not (biased and key == _BIAS)]
    said = f"{kwargs['config'].model_type} model" if sees else "language model"
    if missing:
        more = f", and holds {len(unknown)} that it does not know: {_few(unknown)}" if unknown else ""
        raise VlmProbeError(f"{name} lacks {len(missing)} weights a {said} needs: {_few(missing)}{more}")
    if unknown:
        raise VlmProbeError(
            f"{name} holds {len(unknown)} weights that its config.json has no place for, so that it would not be the "
            f"model that was trained: {_few(unknown)}"
        )
    misshapen = sorted(info["mismatched_keys"])
    if misshapen:
        key, have, want = misshapen[0][:3]
        raise VlmProbeError(
            f"{name} has {len(misshapen)} weights of a shape its config.json does not promise: {key} is {list(have)}, "
            f"expected {list(want)}"
        )
    return model, biased


def raw_config(name: str, folder: Path | None, revision: str | None) -> dict[str, Any]:
    """config.json as it stands: transformers' own reading of it changes some fields.

    folder: where it is; None asks the Hub. Raises VlmProbeError where there is none that can be read.
    """
    if folder is not None:
        file = folder / "config.json"
        if not file.is_file():
            raise VlmProbeError(f"{folder} is not a checkpoint: it has no config.json")
    else:
        file = hub_file(name, "config.json", revision)
        if file is None:
            offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") == "1" else ""
            raise VlmProbeError(
                f"unknown model {name!r}: no such directory, and the Hub did not give its config.json{offline}"
            )
    try:
        raw = json.loads(file.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise VlmProbeError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(raw, dict):
        raise VlmProbeError(f"{file} holds a {type(raw).__name__}, expected an object")
    return raw


def read_config(name: str, source: str | Path, revision: str | None, raw_text: dict[str, Any]) -> Any:
    """transformers' reading of config.json, with the activation that Gemma 1 was trained with.

    raw_text: the language model's part as it stands in the file.
    """
    try:
        config = AutoConfig.from_pretrained(source, revision=revision)
    except Exception as error:  # strict dataclasses have errors of their own
        raise VlmProbeError(f"{name}'s config.json is not understood: {first_line(error)}") from error
    apply_activation_rule(config, raw_text)
    return config


def apply_activation_rule(config: Any, text: dict[str, Any]) -> None:
    """Gemma 1 ran `hidden_activation` until transformers 4.48; since then `hidden_act` decides.

    A checkpoint that says both means the former ("gelu" there is the exact one, not tanh).
    """
    own = config.get_text_config()
    if own.model_type == "gemma" and text.get("hidden_activation"):
        own.hidden_act = text["hidden_activation"]


TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")
IMAGE_FILES = ("preprocessor_config.json", "processor_config.json")


def first_of(auto: Any, files: tuple[str, ...], sources: tuple[str | Path, ...], revision: str | None) -> Any:
    """A tokenizer or processor from the first source that has one, else None.

    files: one of these is in a folder that has one. Raises VlmProbeError for one that is there and cannot be read.
    """
    for number, source in enumerate(sources):
        if isinstance(source, Path) and not any((source / name).is_file() for name in files):
            continue
        try:
            # The revision is the checkpoint's; its encoder lives in another repository.
            return auto.from_pretrained(source, revision=revision if number == 0 else None)
        except Exception as error:  # tokenizers raises nothing narrower
            if isinstance(error, OSError) and not isinstance(source, Path):
                continue  # the Hub does not have it
            said = f"{source} has a {files[0]} or its like that cannot be read: {first_line(error)}"
            raise VlmProbeError(said) from error
    return None
