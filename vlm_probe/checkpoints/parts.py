"""A checkpoint that holds a connector, and whose config.json names the rest.

`{"vlm_probe": {"parts": {"language": "gemma3-270m", "encoder": "dinov2-small", "adapters": true}}}`: so a few
megabytes make a vision-language model of an encoder and a language model that are kept elsewhere, each once. Beside
the configuration (a LLaVA one, whole) stand `connector.safetensors` and, where it says so, low-rank adapters on the
language model as peft saves them (`adapter_model.safetensors`, `adapter_config.json`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoTokenizer
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from vlm_probe.checkpoints.checkpoint import IMAGE_FILES, TOKENIZER_FILES, Checkpoint, first_of, read_config
from vlm_probe.checkpoints.files import read_weights, snapshot
from vlm_probe.errors import VlmProbeError
from vlm_probe.zoo.catalog import SOURCES, fetched_folder

CONNECTOR_FILE, ADAPTER_FILE, ADAPTER_CONFIG = (
    "connector.safetensors",
    "adapter_model.safetensors",
    "adapter_config.json",
)


def is_in_parts(config: dict[str, Any]) -> bool:
    """Whether a config.json names its language model and its encoder."""
    own = config.get("vlm_probe")
    return isinstance(own, dict) and "parts" in own


def part_folder(name: str, beside: Path | None = None) -> Path:
    """The folder of a part: a fetched model, a directory (a relative one is meant from `beside`), or a Hub repository.

    Raises VlmProbeError where it is none of them, or is not fetched yet.
    """
    if name in SOURCES:
        return fetched_folder(name)
    folder = (beside or Path()) / name
    if (folder / "config.json").is_file():
        return folder
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise VlmProbeError(
            f"the part {name!r} is no model that can be fetched ({', '.join(SOURCES)}), no folder with a config.json, "
            "and no Hub id (owner/name)"
        )
    return snapshot(name)


def resample_positions(
    rows: Float[Tensor, "1 position d_vision"], side: int
) -> Float[Tensor, "1 resampled_position d_vision"]:
    """DINOv2's position embeddings (CLS first) for a square of `side` patches a side.

    By bicubic interpolation, as transformers does in every forward pass where an image is not of the native size.
    """
    cls, patches = rows[:, :1], rows[:, 1:]
    native = round(patches.shape[1] ** 0.5)
    square = patches.unflatten(1, (native, native)).permute(0, 3, 1, 2).float()
    resampled = F.interpolate(square, size=(side, side), mode="bicubic", align_corners=False)
    return torch.cat([cls.float(), resampled.flatten(2).transpose(1, 2)], dim=1)


def _tensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise VlmProbeError(f"{file.parent} holds no {file.name} that can be read: {error}") from error


def merge_adapters(weights: dict[str, Tensor], folder: Path) -> None:
    """Add low-rank adapters (Hu et al. 2021, arXiv:2106.09685: W + alpha / r B A) to a language model's weights.

    Raises VlmProbeError for files that are missing or broken, for adapters of another kind than plain LoRA, and for
    those of another model.
    """
    file = folder / ADAPTER_CONFIG
    try:
        about = json.loads(file.read_text())
        rank, alpha = int(about["r"]), float(about["lora_alpha"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise VlmProbeError(f"{folder} holds no {ADAPTER_CONFIG} that can be read: {error}") from error
    other = ("use_rslora", "use_dora", "use_qalora", "rank_pattern", "alpha_pattern", "fan_in_fan_out")
    if about.get("peft_type") != "LORA" or any(about.get(name) for name in other):
        raise VlmProbeError(f"{file} describes no plain LoRA, which is all that is merged here")
    adapters = _tensors(folder / ADAPTER_FILE)
    downs = [name for name in adapters if name.endswith(".lora_A.weight")]
    odd = set(adapters) - set(downs) - {name.replace(".lora_A.", ".lora_B.") for name in downs}
    if odd or not downs or len(adapters) != 2 * len(downs):
        shown = f", such as {min(odd)}" if odd else ""
        raise VlmProbeError(f"{folder / ADAPTER_FILE} holds other tensors than pairs of lora_A and lora_B{shown}")
    for name in downs:
        down, up = adapters[name], adapters[name.replace(".lora_A.", ".lora_B.")]
        target = name.removeprefix("base_model.model.").replace(".lora_A.weight", ".weight")
        shape = list(weights[target].shape) if target in weights else None
        if [len(down), up.shape[1]] != [rank, rank] or shape != [len(up), down.shape[1]]:
            raise VlmProbeError(
                f"{folder / ADAPTER_FILE} adapts {target} by {list(up.shape)} x {list(down.shape)} at rank {rank}; the "
                f"language model's is {shape}"
            )
        weights[target] = weights[target].float() + alpha / rank * up.float() @ down.float()


def read_parts(name: str, folder: Path, revision: str | None, raw: dict[str, Any]) -> Checkpoint:
    """A checkpoint in parts; raw: its config.json as it stands.

    Raises VlmProbeError for a part that is not named or not here; reading its weights, for a connector or adapters
    that cannot be read.
    """
    own = raw["vlm_probe"]
    parts = own["parts"]
    if not isinstance(parts, dict) or not all(isinstance(parts.get(k), str) for k in ("language", "encoder")):
        raise VlmProbeError(
            f"{folder}'s config.json must name a language and an encoder under vlm_probe.parts: {parts}"
        )
    config = read_config(name, folder, revision, raw.get("text_config") or {})
    # In memory it is whole, and so it is where it is saved.
    config.vlm_probe = {key: value for key, value in own.items() if key != "parts"}
    language, encoder = (part_folder(parts[part], folder) for part in ("language", "encoder"))
    return Checkpoint(
        name=name,
        revision=revision,
        config=config,
        source=None,
        weights=lambda: joined_weights(folder, language, encoder, config, adapters=bool(parts.get("adapters"))),
        tokenizer=first_of(AutoTokenizer, TOKENIZER_FILES, (language,), revision),
        image_processor=first_of(AutoImageProcessor, IMAGE_FILES, (folder,), revision),
        prompt=lambda: own.get("prompt"),
        embed_scale=own.get("embed_scale"),
        pad=own.get("pad", True),
    )


def joined_weights(folder: Path, language: Path, encoder: Path, config: Any, *, adapters: bool) -> dict[str, Tensor]:
    """All weights of a checkpoint in parts, under Hugging Face names."""
    words, sight = dict(read_weights(language)), dict(read_weights(encoder))
    if adapters:
        merge_adapters(words, folder)
    positions = "embeddings.position_embeddings"
    side = config.vision_config.image_size // config.vision_config.patch_size
    if positions in sight and sight[positions].shape[1] != side**2 + 1:
        sight[positions] = resample_positions(sight[positions], side)
    weights = {f"language_model.{name}": tensor for name, tensor in words.items()}
    weights |= {f"vision_tower.{name}": tensor for name, tensor in sight.items()}
    connector = _tensors(folder / CONNECTOR_FILE)
    return weights | {f"multi_modal_projector.{name}": tensor for name, tensor in connector.items()}
