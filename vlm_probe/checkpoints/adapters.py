"""Folders that peft wrote: low-rank adapters, and the name of the model that they change."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from vlm_probe.checkpoints.files import weight_files
from vlm_probe.errors import VlmProbeError, first_line

CONFIG = "adapter_config.json"


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds adapters in place of a model's weights.

    Raises VlmProbeError for one that holds both: which of them is meant cannot be told.
    """
    if not (folder / CONFIG).is_file():
        if stray := sorted(folder.glob("adapter_model.*")):
            raise VlmProbeError(f"{folder} holds {stray[0].name} without {CONFIG}: what it adapts cannot be told")
        return False
    others = [file.name for file in _model_files(folder)]
    if others:
        raise VlmProbeError(
            f"{folder} holds adapters ({CONFIG}) and a model's weights ({others[0]}): put one of them elsewhere"
        )
    return True


def _model_files(folder: Path) -> list[Path]:
    try:
        found = weight_files(folder)
    except VlmProbeError:
        return []
    return [file for file in found if not file.name.startswith("adapter_")]


def base_of(folder: Path) -> str:
    """The model that the adapters of a folder change; VlmProbeError where it is not named."""
    file = folder / CONFIG
    try:
        base = json.loads(file.read_text())["base_model_name_or_path"]
    except (ValueError, LookupError, TypeError) as error:
        raise VlmProbeError(f"{file} cannot be read: {error}") from error
    if not isinstance(base, str) or not base or (folder / base).resolve() == folder.resolve():
        raise VlmProbeError(f"{file} does not name the model it adapts (base_model_name_or_path)")
    return base


def merge_adapter(name: str, hf: Any, folder: Path) -> Any:
    """A model with the adapters of a folder merged into its weights, by peft.

    Raises VlmProbeError without peft, and for adapters that cannot be read, do not fit or would be left out in part.
    """
    try:
        from peft import PeftModel, get_peft_model_state_dict
        from peft.utils import load_peft_weights
    except ImportError as error:
        raise VlmProbeError(f"{name} holds adapters; to open it: pip install 'vlm-probe[real-small]'") from error
    try:
        with warnings.catch_warnings():
            # What it warns about (keys that are missing) is an error below.
            warnings.simplefilter("ignore")
            adapted = PeftModel.from_pretrained(hf, folder)
            stored = set(load_peft_weights(str(folder), device="cpu"))
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise VlmProbeError(f"the adapters of {name} could not be loaded: {first_line(error)}") from error
    odd = sorted(stored ^ set(get_peft_model_state_dict(adapted)))
    if odd:
        raise VlmProbeError(f"the adapters of {name} do not fit its model: {len(odd)} weights, {odd[0]} among them")
    merged: Any = adapted.merge_and_unload()
    return merged
