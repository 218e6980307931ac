"""The original LLaVA checkpoint layout, converted in memory to Hugging Face's.

`LlavaGemmaForCausalLM` (LLaVA-Gemma 7B) and `LlavaLlamaForCausalLM` (LLaVA-1.5): the language model
under `model.`, the connector as `model.mm_projector.0/2`, the encoder inside the checkpoint
(`model.vision_tower.vision_tower.`) or in a folder or repository that `mm_vision_tower` names.
transformers reads such a folder as a default Llama, with no more than a warning.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, LlavaConfig

from vlm_probe.errors import VlmProbeError

_LANGUAGE = {"LlavaGemmaForCausalLM": "gemma", "LlavaLlamaForCausalLM": "llama"}
_TOWER_PREFIX = "model.vision_tower.vision_tower."
_CONNECTOR = {"0": "linear_1", "2": "linear_2"}


def is_original(config: dict[str, Any]) -> bool:
    """Whether a config.json is of the original layout."""
    return "mm_vision_tower" in config or any(a in _LANGUAGE for a in config.get("architectures") or [])


def weight_files(folder: Path) -> list[Path]:
    """All weight files of a checkpoint folder.

    Raises VlmProbeError for a shard the index names and the folder lacks, and for no weights at all.
    """
    for index in sorted(folder.glob("*.index.json")):
        shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        missing = [s for s in shards if not (folder / s).is_file()]
        if missing:
            raise VlmProbeError(
                f"{folder} lacks {len(missing)} of the {len(shards)} shards that {index.name} names: "
                + ", ".join(missing)
            )
        return [folder / s for s in shards]
    found = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not found:
        raise VlmProbeError(f"{folder} holds no weights: expected *.safetensors or pytorch_model*.bin")
    return found


def read_weights(folder: Path) -> Iterator[tuple[str, Tensor]]:
    for file in weight_files(folder):
        try:
            if file.suffix == ".safetensors":
                weights = load_file(file)
            else:
                weights = torch.load(file, map_location="cpu", weights_only=True)
        except (SafetensorError, RuntimeError, UnpicklingError, EOFError) as error:
            raise VlmProbeError(f"{file} cannot be read as weights (cut off, or a pointer?): {error}") from error
        yield from weights.items()


def _find_tower(folder: Path, name: str, *, offline_ok: bool) -> Path | str | None:
    """The encoder's folder beside or inside the checkpoint, or else its Hub id."""
    for candidate in (folder / name, folder / Path(name).name, folder.parent / Path(name).name, Path(name)):
        if (candidate / "config.json").is_file():
            return candidate
    return name if offline_ok and not name.startswith((".", "/")) else None


def read_original(folder: Path, config: dict[str, Any]) -> tuple[LlavaConfig, dict[str, Tensor], Path | str]:
    """Configuration and weights under Hugging Face names, and where the encoder's files are.

    The original has no `<image>` row: one row of zeros is appended for the placeholder, whose id is
    the original vocabulary's size, and generation never emits it.

    Raises VlmProbeError without an encoder, and for a connector that is no two-layer MLP.
    """
    kind = config.get("mm_projector_type", "linear")
    if kind != "mlp2x_gelu":
        raise VlmProbeError(f"{folder} has a connector of type {kind!r}; expected 'mlp2x_gelu'")
    architecture = next((a for a in config.get("architectures") or [] if a in _LANGUAGE), None)
    if architecture is None:
        raise VlmProbeError(
            f"{folder} is in the original LLaVA layout with architectures {config.get('architectures')}; "
            f"supported are {', '.join(_LANGUAGE)}"
        )
    tower_name = config.get("mm_vision_tower") or ""
    tower = _find_tower(folder, tower_name, offline_ok=True)
    if tower is None:
        raise VlmProbeError(
            f"{folder} is in the original LLaVA layout and its encoder is missing: config.json names "
            f"mm_vision_tower={tower_name!r}, expected a folder with config.json there"
        )
    try:
        tower_config = AutoConfig.from_pretrained(tower)
    except (OSError, ValueError) as error:
        raise VlmProbeError(
            f"the encoder {tower_name!r} of {folder} could not be opened: put its folder beside the checkpoint"
        ) from error
    # A full CLIP's configuration holds its vision part.
    tower_config = getattr(tower_config, "vision_config", tower_config)

    weights: dict[str, Tensor] = {}
    for name, tensor in read_weights(folder):
        if name.startswith(_TOWER_PREFIX):
            weights["vision_tower." + name.removeprefix(_TOWER_PREFIX)] = tensor
        elif name.startswith("model.mm_projector."):
            number, leaf = name.removeprefix("model.mm_projector.").split(".")
            weights[f"multi_modal_projector.{_CONNECTOR[number]}.{leaf}"] = tensor
        else:
            weights[f"language_model.{name}"] = tensor
    if not any(name.startswith("vision_tower.") for name in weights):
        source = tower if isinstance(tower, Path) else fetch(tower)
        for name, tensor in read_weights(source):
            # A full CLIP also holds its text part, which nobody asks for.
            if not name.startswith(("text_model.", "text_projection", "visual_projection", "logit_scale")):
                weights[f"vision_tower.{name}"] = tensor

    rows = len(weights["language_model.model.embed_tokens.weight"])
    for name in ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight"):
        if name in weights:
            weights[name] = torch.cat([weights[name], weights[name].new_zeros(1, weights[name].shape[1])])
    text = {k: v for k, v in config.items() if not k.startswith(("mm_", "tune_", "use_mm", "image_", "architectures"))}
    text |= {"model_type": _LANGUAGE[architecture], "vocab_size": rows + 1}
    converted = LlavaConfig(
        text_config=text,
        vision_config=tower_config.to_dict(),
        image_token_index=rows,
        projector_hidden_act="gelu",
        vision_feature_layer=config.get("mm_vision_select_layer", -2),
        vision_feature_select_strategy="full" if config.get("mm_vision_select_feature") == "cls_patch" else "default",
    )
    return converted, weights, tower


def fetch(repository: str, revision: str | None = None) -> Path:
    """A Hub repository's configuration, tokenizer and weights, in the local cache.

    Raises VlmProbeError where the Hub does not give them.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = ["*.json", "*.safetensors", "*.model"]
    try:
        folder = Path(snapshot_download(repository, revision=revision, allow_patterns=patterns))
        if not any(folder.glob("*.safetensors")):
            folder = Path(snapshot_download(repository, revision=revision, allow_patterns=[*patterns, "*.bin"]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise VlmProbeError(f"{repository!r} could not be fetched from the Hub: {error}") from error
    return folder
