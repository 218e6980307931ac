"""Vision encoders as timm names their weights, as transformers has them.

Three kinds that Prismatic VLMs use: CLIP's and SigLIP's, and DINOv2 with registers. timm computes what transformers
does, with two differences that are settled here: its DINOv2 has no position embedding for CLS (its converter has added
it to CLS itself), and its SigLIP has the exact GELU where transformers has the tanh one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import init_empty_weights
from torch import Tensor
from transformers import AutoModel, CLIPVisionConfig, Dinov2WithRegistersConfig, SiglipVisionConfig

from vlm_probe.errors import VlmProbeError

_CLIP = {
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "attn.proj": "self_attn.out_proj",
    "attn.qkv": "self_attn.{}_proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
_DINOV2 = {
    "norm1": "norm1",
    "norm2": "norm2",
    "attn.proj": "attention.o_proj",
    "attn.qkv": "attention.{}_proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
_OLDER = {
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense",
}
"""What transformers before 5.18 called DINOv2's."""


def from_timm(weights: Mapping[str, Tensor], pixels: int, *, exact_gelu: bool) -> tuple[Any, dict[str, Tensor]]:
    """A configuration of transformers and the weights by its names, for pictures of so many pixels a side.

    weights: of one encoder, by timm's names. exact_gelu: of a CLIP; False is OpenAI's own quick GELU.

    Raises VlmProbeError for an encoder of another kind, and one whose position embeddings are for another grid and
    cannot be brought to this one (CLIP's and SigLIP's are resampled by nobody).
    """
    try:
        patch, positions = weights["patch_embed.proj.weight"], weights["pos_embed"][0]
        depth = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))
        inner, width = weights["blocks.0.mlp.fc1.weight"].shape
    except (KeyError, ValueError) as error:
        raise VlmProbeError(f"an encoder of timm's is expected, which has no {error}") from error
    shape: dict[str, Any] = {
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": 16 if width == 1152 else width // 64,
        "image_size": pixels,
        "patch_size": patch.shape[-1],
    }
    cells = (pixels // patch.shape[-1]) ** 2
    if "reg_token" in weights:
        settings: Any = Dinov2WithRegistersConfig(
            **shape, mlp_ratio=inner // width, num_register_tokens=weights["reg_token"].shape[1], layer_norm_eps=1e-6
        )
        return settings, _dinov2(weights, settings, _resampled(positions, cells))
    if len(positions) != cells + int("cls_token" in weights):
        raise VlmProbeError(
            f"an encoder for {len(positions) - int('cls_token' in weights)} patches cannot see {cells} of them"
        )
    if "cls_token" in weights and "norm_pre.weight" in weights:
        act = "gelu" if exact_gelu else "quick_gelu"
        settings = CLIPVisionConfig(**shape, intermediate_size=inner, hidden_act=act, layer_norm_eps=1e-5)
        own = {"pre_layrnorm.weight": weights["norm_pre.weight"], "pre_layrnorm.bias": weights["norm_pre.bias"]}
        own["embeddings.class_embedding"] = weights["cls_token"].flatten()
    elif "cls_token" not in weights:
        settings = SiglipVisionConfig(
            **shape, intermediate_size=inner, hidden_act="gelu", layer_norm_eps=1e-6, vision_use_head=False
        )
        own = {"embeddings.patch_embedding.bias": weights["patch_embed.proj.bias"]}
    else:
        raise VlmProbeError("an encoder of timm's is expected that is CLIP's, SigLIP's or DINOv2 with registers")
    own |= {"embeddings.patch_embedding.weight": patch, "embeddings.position_embedding.weight": positions}
    own |= {f"post_layernorm.{leaf}": weights[f"norm.{leaf}"] for leaf in ("weight", "bias")}
    return settings, own | _blocks(weights, "encoder.layers", _CLIP)


def _dinov2(weights: Mapping[str, Tensor], settings: Any, positions: Tensor) -> dict[str, Tensor]:
    width = settings.hidden_size
    own = {
        "embeddings.cls_token": weights["cls_token"],
        "embeddings.register_tokens": weights["reg_token"],
        "embeddings.mask_token": torch.zeros(1, width),
        "embeddings.position_embeddings": torch.cat([positions.new_zeros(1, width), positions])[None],
        "embeddings.patch_embeddings.projection.weight": weights["patch_embed.proj.weight"],
        "embeddings.patch_embeddings.projection.bias": weights["patch_embed.proj.bias"],
        "layernorm.weight": weights["norm.weight"],
        "layernorm.bias": weights["norm.bias"],
    }
    own |= _blocks(weights, "encoder.layer", _DINOV2)
    with init_empty_weights():
        known = AutoModel.from_config(settings).state_dict()
    for new, old in _OLDER.items():
        if not any(f".{new}." in name for name in known):
            own = {name.replace(f".{new}.", f".{old}."): value for name, value in own.items()}
    return own


def _blocks(weights: Mapping[str, Tensor], layers: str, names: dict[str, str]) -> dict[str, Tensor]:
    """The layers' weights; queries, keys and values stand behind one another in one matrix."""
    found = {}
    for name, value in weights.items():
        if not name.startswith("blocks."):
            continue
        _, number, rest = name.split(".", 2)
        module, _, leaf = rest.rpartition(".")
        at = f"{layers}.{number}"
        if module in ("ls1", "ls2"):
            found[f"{at}.layer_scale{module[-1]}.lambda1"] = value
        elif module == "attn.qkv":
            for letter, part in zip("qkv", value.chunk(3), strict=True):
                found[f"{at}.{names[module].format(letter)}.{leaf}"] = part.clone()
        elif module in names:
            found[f"{at}.{names[module]}.{leaf}"] = value
        else:
            raise VlmProbeError(f"an encoder of timm's is expected, in which {name} is not known")
    return found


def _resampled(rows: Tensor, cells: int) -> Tensor:
    """Position embeddings for another square, as timm makes them: bicubic, antialiased."""
    native, side = round(len(rows) ** 0.5), round(cells**0.5)
    if native == side:
        return rows
    square = rows.unflatten(0, (native, native)).permute(2, 0, 1)[None].float()
    made = F.interpolate(square, size=(side, side), mode="bicubic", antialias=True, align_corners=False)
    return made[0].flatten(1).T.to(rows.dtype)
