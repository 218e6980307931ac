"""The original LLaVA checkpoint layout, converted in memory to Hugging Face's.

`LlavaGemmaForCausalLM` (LLaVA-Gemma 7B), `LlavaLlamaForCausalLM` (LLaVA-1.5) and others: the language model
under `model.`, the connector as `model.mm_projector.0/2`, the encoder inside the checkpoint
(`model.vision_tower.vision_tower.`) or in a folder or repository that `mm_vision_tower` names.
transformers reads such a folder as a default Llama, with no more than a warning.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from torch import Tensor
from transformers import AutoConfig, AutoTokenizer, LlavaConfig
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from vlm_probe.checkpoints.chat_template import prompt_of
from vlm_probe.checkpoints.checkpoint import (
    IMAGE_FILES,
    TOKENIZER_FILES,
    Checkpoint,
    apply_activation_rule,
    first_of,
)
from vlm_probe.checkpoints.files import add_placeholder, find_beside, read_weights, snapshot
from vlm_probe.errors import VlmProbeError

_LANGUAGE = {
    "LlavaGemmaForCausalLM": "gemma",
    "LlavaLlamaForCausalLM": "llama",
    "LlavaMistralForCausalLM": "mistral",
    "LlavaPhiForCausalLM": "phi",
    "LlavaQwenForCausalLM": "qwen2",
}
_TOWER_PREFIX = "model.vision_tower.vision_tower."
_CONNECTOR = {"0": "linear_1", "2": "linear_2"}


def is_original(config: dict[str, Any]) -> bool:
    """Whether a config.json is of the original layout."""
    return "mm_vision_tower" in config or any(a in _LANGUAGE for a in config.get("architectures") or [])


def _selection(config: dict[str, Any], sight: Any) -> Literal["default", "full"]:
    """A selection of patches leaves the CLS token out; SigLIP has none, and every row is a patch."""
    every = config.get("mm_vision_select_feature") == "cls_patch" or sight.model_type.startswith("siglip")
    return "full" if every else "default"


def read_original(name: str, folder: Path, revision: str | None, config: dict[str, Any]) -> Checkpoint:
    """A checkpoint of the original layout; config: its config.json as it stands.

    The original has no `<image>` row: one row of zeros is appended for the placeholder, whose id is
    the original vocabulary's size, and generation never emits it.

    Raises VlmProbeError without an encoder, for a connector that is no two-layer MLP, and for images in tiles or
    between tokens of their own.
    """
    if config.get("mm_use_im_start_end"):
        raise VlmProbeError(
            f"{folder} puts every image between tokens of its own (mm_use_im_start_end), which is not supported"
        )
    ratio, merged = config.get("image_aspect_ratio"), config.get("mm_patch_merge_type")
    if "anyres" in str(ratio) or "spatial" in str(merged):
        raise VlmProbeError(
            f"{folder} cuts images into tiles (image_aspect_ratio {ratio!r}, mm_patch_merge_type {merged!r}), which is "
            "not supported"
        )
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
    tower = find_beside(folder, tower_name)
    if not tower_name or (isinstance(tower, str) and tower.startswith((".", "/"))):
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
    for key, tensor in read_weights(folder):
        if key.startswith(_TOWER_PREFIX):
            weights["vision_tower." + key.removeprefix(_TOWER_PREFIX)] = tensor
        elif key.startswith("model.mm_projector."):
            number, leaf = key.removeprefix("model.mm_projector.").split(".")
            weights[f"multi_modal_projector.{_CONNECTOR[number]}.{leaf}"] = tensor
        else:
            weights[f"language_model.{key}"] = tensor
    if not any(key.startswith("vision_tower.") for key in weights):
        source = tower if isinstance(tower, Path) else snapshot(tower)
        for key, tensor in read_weights(source):
            # A full CLIP or SigLIP also holds its text part, which nobody asks for.
            if not key.startswith(("text_model.", "text_projection", "visual_projection", "logit_scale", "logit_bias")):
                weights[f"vision_tower.{key}"] = tensor

    by_token = ("model.embed_tokens.weight", "lm_head.weight", "lm_head.bias")
    rows = add_placeholder(weights, *(f"language_model.{key}" for key in by_token))
    text = {k: v for k, v in config.items() if not k.startswith(("mm_", "tune_", "use_mm", "image_", "architectures"))}
    text |= {"model_type": _LANGUAGE[architecture], "vocab_size": rows + 1}
    converted = LlavaConfig(
        text_config=text,
        vision_config=tower_config.to_dict(),
        image_token_index=rows,
        projector_hidden_act="gelu",
        vision_feature_layer=config.get("mm_vision_select_layer", -2),
        vision_feature_select_strategy=_selection(config, tower_config),
    )
    apply_activation_rule(converted, config)
    own = config.get("vlm_probe") or {}
    tokenizer = first_of(AutoTokenizer, TOKENIZER_FILES, (folder,), revision)
    return Checkpoint(
        name=name,
        revision=revision,
        config=converted,
        source=None,
        weights=lambda: weights,
        tokenizer=tokenizer,
        image_processor=first_of(AutoImageProcessor, IMAGE_FILES, (folder, tower), revision),
        prompt=lambda: own.get("prompt") or prompt_of(name, tokenizer, folder, rows),
        embed_scale=own.get("embed_scale"),
        # As LLaVA's process_images reads it: an image is padded where that is said, and nowhere else.
        pad=config.get("image_aspect_ratio") == "pad",
        suppressed=(rows,),
    )
