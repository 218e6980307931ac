"""A checkpoint that holds a connector, and whose config.json names the rest.

`{"vlm_probe": {"parts": {"language": "gemma3-270m", "encoder": "dinov2-small"}}}`: so a few megabytes make a
vision-language model of an encoder and a language model that are kept elsewhere, each once. Beside the
configuration (a LLaVA one, whole) stand `connector.safetensors`, and low-rank adapters on the language
model, if any, as peft saves them (`adapter_model.safetensors`, `adapter_config.json`).
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

from vlm_probe.errors import VlmProbeError
from vlm_probe.hooked.original import fetch, read_weights
from vlm_probe.real_small.catalog import SOURCES, fetched_folder

CONNECTOR_FILE, ADAPTER_FILE, ADAPTER_CONFIG = (
    "connector.safetensors", "adapter_model.safetensors", "adapter_config.json",
)  # fmt: skip


def is_in_parts(config: dict[str, Any]) -> bool:
    """Whether a config.json names its language model and its encoder."""
    return bool((config.get("vlm_probe") or {}).get("parts"))


def part_folder(name: str) -> Path:
    """The folder of a part: a fetched model, a directory, or else a Hub repository.

    Raises VlmProbeError where it is none of them, or is not fetched yet.
    """
    if name in SOURCES:
        return fetched_folder(name)
    return Path(name) if (Path(name) / "config.json").is_file() else fetch(name)


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


def merge_adapters(weights: dict[str, Tensor], folder: Path) -> None:
    """Add low-rank adapters (Hu et al. 2021, arXiv:2106.09685: W + alpha / r B A) to a language model's weights.

    Raises VlmProbeError for adapters of another kind or of another model.
    """
    about = json.loads((folder / ADAPTER_CONFIG).read_text())
    plain = ("use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "modules_to_save", "fan_in_fan_out")
    if about.get("peft_type") != "LORA" or any(about.get(name) for name in plain):
        raise VlmProbeError(
            f"{folder / ADAPTER_CONFIG} is no plain LoRA configuration, which is all that is merged here"
        )
    factor = about["lora_alpha"] / about["r"]
    adapters = load_file(folder / ADAPTER_FILE)
    for name, down in adapters.items():
        if not name.endswith("lora_A.weight"):
            continue
        target = name.removeprefix("base_model.model.").replace("lora_A.weight", "weight")
        up = adapters[name.replace("lora_A", "lora_B")]
        if target not in weights or weights[target].shape != (up.shape[0], down.shape[1]):
            raise VlmProbeError(f"{folder / ADAPTER_FILE} adapts {target}, which the language model does not have so")
        weights[target] = weights[target].float() + factor * up.float() @ down.float()


def read_parts(folder: Path, config: dict[str, Any]) -> tuple[dict[str, Tensor], Path]:
    """All weights of such a checkpoint under Hugging Face names, and the folder with its tokenizer.

    Raises VlmProbeError for a part that is not here, and for a connector that cannot be read.
    """
    parts = config["vlm_probe"]["parts"]
    language, encoder = part_folder(parts["language"]), part_folder(parts["encoder"])
    words = dict(read_weights(language))
    if (folder / ADAPTER_FILE).is_file():
        merge_adapters(words, folder)
    weights = {f"language_model.{name}": tensor for name, tensor in words.items()}
    sight = dict(read_weights(encoder))
    positions = "embeddings.position_embeddings"
    side = config["vision_config"]["image_size"] // config["vision_config"]["patch_size"]
    if positions in sight and sight[positions].shape[1] != side**2 + 1:
        sight[positions] = resample_positions(sight[positions], side)
    weights |= {f"vision_tower.{name}": tensor for name, tensor in sight.items()}
    try:
        connector = load_file(folder / CONNECTOR_FILE)
    except (OSError, SafetensorError) as error:
        raise VlmProbeError(f"{folder} holds no connector that can be read ({CONNECTOR_FILE}): {error}") from error
    weights |= {f"multi_modal_projector.{name}": tensor for name, tensor in connector.items()}
    return weights, language
