"""`load`: from a name or a folder to a HookedVLM, faithful to how the checkpoint was trained."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    LlavaForConditionalGeneration,
)
from transformers.utils import logging as transformers_logging

from vlm_probe.checkpoints.original import fetch, is_original, read_original, weight_files
from vlm_probe.checkpoints.parts import is_in_parts, read_parts
from vlm_probe.errors import VlmProbeError, nearest
from vlm_probe.hooked.families import LANGUAGE, VISION, family
from vlm_probe.hooked.model import HookedVLM
from vlm_probe.inputs.images import ImagePreparer
from vlm_probe.inputs.remapped import remapped
from vlm_probe.zoo.catalog import FUSIONS, SOURCES, fetched_folder, fusion_folder
from vlm_probe.zoo.replicas import folder_of, shipped

_QUANTIZATION = {
    "8bit": {"load_in_8bit": True},
    "4bit": {"load_in_4bit": True, "bnb_4bit_compute_dtype": torch.bfloat16},
}


def load(
    name_or_path: str | Path,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    embed_scale: str | None = None,
    quantization: str | None = None,
    revision: str | None = None,
) -> HookedVLM:
    """Open a LLaVA checkpoint with hooks, or a language model alone.

    Parameters
    ----------
    name_or_path: `replica/...` (shipped miniatures), a model that `vlm-probe fetch` brought
        ("gemma3-270m"), one that is made of those ("llava-gemma3-270m"), a Hub id, or a local directory, in
        the Hugging Face layout (old or new key names), the original LLaVA layout, or in parts
        (`hooked.parts`). A causal language model has the hook points of `language.` only.
    device: where to put it; None takes CUDA where there is one, else the CPU.
    dtype: a torch dtype or its name; None takes float32 on the CPU and bfloat16 on a GPU.
    embed_scale: "all" or "text": whether image rows are multiplied by sqrt(d_model) as text rows
        are. None takes what the checkpoint declares, else "all" for gemma and gemma2, "text" for
        the rest (design section 3: how LLaVA-Gemma was trained, and what current transformers no
        longer does).
    quantization: "8bit" or "4bit" (needs bitsandbytes and a GPU).
    revision: branch, tag or commit on the Hub.

    Raises
    ------
    VlmProbeError: for an unknown name, a directory that is no LLaVA checkpoint, missing or
        misshapen weights, a missing shard, a missing encoder.
    """
    with _quiet():
        return _load(str(name_or_path), device, dtype, embed_scale, quantization, revision)


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


def _load(
    name: str,
    device: str | torch.device | None,
    dtype: str | torch.dtype | None,
    embed_scale: str | None,
    quantization: str | None,
    revision: str | None,
) -> HookedVLM:
    folder = _locate(name)
    raw = _raw_config(name, folder, revision)
    own = raw.get("vlm_probe") or {}
    if not isinstance(own, dict):
        raise VlmProbeError(f"{name}'s config.json holds a {type(own).__name__} under vlm_probe, expected an object")
    device = find_device(device)
    kwargs: dict[str, Any] = {"dtype": _dtype(dtype, device)}
    if quantization is not None:
        if quantization not in _QUANTIZATION:
            raise VlmProbeError(f"quantization must be one of {', '.join(_QUANTIZATION)}, got {quantization!r}")
        if device.type != "cuda":
            raise VlmProbeError(f"quantization {quantization!r} needs a CUDA device, got {device}")
        kwargs |= {"quantization_config": BitsAndBytesConfig(**_QUANTIZATION[quantization]), "device_map": {"": device}}
    if folder is None and (is_original(raw) or is_in_parts(raw)):
        # transformers cannot read these layouts, so they have to be here whole.
        folder = fetch(name, revision)
    source: str | Path = folder or name
    extra = words = source
    if folder is not None and is_original(raw):
        config, state, extra = read_original(folder, raw)
        _apply_activation_rule(config, raw)
        hf = _from_pretrained(name, None, config=config, state_dict=state, **kwargs)
        hf.generation_config.suppress_tokens = [config.image_token_id]
        pad = True
    elif folder is not None and is_in_parts(raw):
        config = _config(name, folder, revision)
        _apply_activation_rule(config, raw.get("text_config") or {})
        state, words = read_parts(folder, raw, config)
        # In memory it is whole, and so it is where it is saved.
        config.vlm_probe = {key: value for key, value in own.items() if key != "parts"}
        hf = _from_pretrained(name, None, config=config, state_dict=state, **kwargs)
        pad = own.get("pad", True)
    else:
        alone = raw.get("model_type") in LANGUAGE
        if not alone and (raw.get("model_type") != "llava" or "text_config" not in raw):
            raise VlmProbeError(
                f"{name} is a {raw.get('model_type')!r} checkpoint, expected a LLaVA one (model_type 'llava', or "
                f"the original layout with 'mm_vision_tower'), or a language model ({', '.join(LANGUAGE)})"
            )
        config = _config(name, source, revision)
        if folder is not None:
            weight_files(folder)
        text = raw if alone else raw["text_config"]
        pad = own.get("pad", text.get("model_type") in ("gemma", "gemma2"))
        _apply_activation_rule(config, text)
        hf = _from_pretrained(name, source, config=config, revision=revision, **kwargs)
    hf.eval()
    if quantization is None:
        hf.to(device)
    processor = _optional(AutoImageProcessor, (source, extra), revision) if hasattr(config, "vision_config") else None
    return HookedVLM(
        hf,
        embed_scale=embed_scale or own.get("embed_scale"),
        tokenizer=remapped(_optional(AutoTokenizer, (words,), revision), folder),
        preparer=None if processor is None else ImagePreparer(processor, pad=pad),
        name=name,
        revision=revision,
        prompt=own.get("prompt"),
    )


def _locate(name: str) -> Path | None:
    """The local folder of a name, or None where it can only be a Hub id."""
    if name.startswith("replica/") or name == "replica":
        return folder_of(name.removeprefix("replica").removeprefix("/") or "default")
    path = Path(name).expanduser()
    if name in SOURCES and not path.is_dir():
        return fetched_folder(name)
    if name in FUSIONS and not path.is_dir():
        return fusion_folder(name)
    if path.is_dir():
        return path
    if path.exists():
        raise VlmProbeError(f"{name} is a file, expected a checkpoint directory")
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        known = [*(f"replica/{s}" for s in ("default", *shipped())), *SOURCES, *FUSIONS]
        raise VlmProbeError(
            f"unknown model {name!r}: no such directory, and no Hub id (owner/name); nearest shipped are "
            f"{nearest(name, known)} (vlm-probe models lists all)"
        )
    return None


def _raw_config(name: str, folder: Path | None, revision: str | None) -> dict[str, Any]:
    """config.json as it stands: transformers' own reading of it changes some fields."""
    if folder is not None:
        file = folder / "config.json"
        if not file.is_file():
            raise VlmProbeError(f"{folder} is not a checkpoint: it has no config.json")
    else:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

        try:
            file = Path(hf_hub_download(name, "config.json", revision=revision))
        except (HfHubHTTPError, LocalEntryNotFoundError, HFValidationError, OSError) as error:
            offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") == "1" else ""
            raise VlmProbeError(
                f"unknown model {name!r}: no such directory, and the Hub did not give its config.json{offline}"
            ) from error
    try:
        raw = json.loads(file.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise VlmProbeError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(raw, dict):
        raise VlmProbeError(f"{file} holds a {type(raw).__name__}, expected an object")
    return raw


def _config(name: str, source: str | Path, revision: str | None) -> Any:
    """transformers' reading of config.json, refused before any weight is read where a part is unknown."""
    try:
        config = AutoConfig.from_pretrained(source, revision=revision)
    except (OSError, ValueError, KeyError) as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise VlmProbeError(f"{name}'s config.json is not understood: {first}") from error
    if getattr(config, "vision_config", None) is not None:
        family(VISION, config.vision_config.model_type, "a vision encoder")
    family(LANGUAGE, config.get_text_config().model_type, "a language model")
    return config


def _dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    if dtype is None:
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    resolved = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(resolved, torch.dtype) or not resolved.is_floating_point:
        raise VlmProbeError(f"dtype must be a floating torch dtype such as 'float32' or 'bfloat16', got {dtype!r}")
    return resolved


def _apply_activation_rule(config: Any, text: dict[str, Any]) -> None:
    """Gemma 1 ran `hidden_activation` until transformers 4.48; since then `hidden_act` decides.

    A checkpoint that says both means the former ("gelu" there is the exact one, not tanh).
    """
    own = config.get_text_config()
    if own.model_type == "gemma" and text.get("hidden_activation"):
        own.hidden_act = text["hidden_activation"]


def _from_pretrained(name: str, source: str | Path | None, **kwargs: Any) -> Any:
    kind: Any = LlavaForConditionalGeneration if hasattr(kwargs["config"], "vision_config") else AutoModelForCausalLM
    try:
        loaded: Any = kind.from_pretrained(source, output_loading_info=True, ignore_mismatched_sizes=True, **kwargs)
    except (OSError, RuntimeError, ValueError, KeyError, ImportError, SafetensorError) as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise VlmProbeError(f"{name} could not be loaded: {first}") from error
    model, info = loaded
    misshapen_keys = {entry[0] for entry in info["mismatched_keys"]}
    missing = sorted(set(info["missing_keys"]) - misshapen_keys)
    if missing:
        shown = ", ".join(missing[:4]) + (" ..." if len(missing) > 4 else "")
        raise VlmProbeError(f"{name} lacks {len(missing)} weights a LLaVA model needs: {shown}")
    misshapen = sorted(info["mismatched_keys"])
    if misshapen:
        key, have, want = misshapen[0][:3]
        raise VlmProbeError(
            f"{name} has {len(misshapen)} weights of a shape its config.json does not promise: {key} is {list(have)}, "
            f"expected {list(want)}"
        )
    return model


def _optional(auto: Any, sources: tuple[str | Path, ...], revision: str | None) -> Any:
    """A tokenizer or processor from the first source that has one, else None."""
    for number, source in enumerate(sources):
        try:
            # The revision is the checkpoint's; its encoder lives in another repository.
            return auto.from_pretrained(source, revision=revision if number == 0 else None)
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None
