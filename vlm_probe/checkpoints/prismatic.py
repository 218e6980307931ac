"""Prismatic VLMs' own checkpoints: `config.json` and `checkpoints/latest-checkpoint.pt`.

The file holds what was trained: connector and language model, and the encoders where those were. The rest, the language
model's configuration and tokenizer and untrained encoders (as timm has them), lies in folders beside the checkpoint
or on the Hub, under the names that the configuration implies.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer

from vlm_probe.checkpoints.checkpoint import TOKENIZER_FILES, Checkpoint, first_of
from vlm_probe.checkpoints.files import add_placeholder, find_beside, read_weights, snapshot
from vlm_probe.checkpoints.prismatic_model import PROJECTORS, PrismaticConfig
from vlm_probe.checkpoints.timm_encoders import from_timm
from vlm_probe.errors import VlmProbeError, first_line
from vlm_probe.inputs.fitting import FITS, Fit

_DINO, _SO400M = "vit_large_patch14_reg4_dinov2.lvd142m", "vit_so400m_patch14_siglip_"
_CLIP_L = "vit_large_patch14_clip_"
BACKBONES: dict[str, tuple[int, dict[str, str]]] = {
    "clip-vit-b": (224, {"featurizer": "vit_base_patch16_clip_224.openai"}),
    "clip-vit-l": (224, {"featurizer": f"{_CLIP_L}224.openai"}),
    "clip-vit-l-336px": (336, {"featurizer": f"{_CLIP_L}336.openai"}),
    "siglip-vit-b16-224px": (224, {"featurizer": "vit_base_patch16_siglip_224.webli"}),
    "siglip-vit-b16-256px": (256, {"featurizer": "vit_base_patch16_siglip_256.webli"}),
    "siglip-vit-b16-384px": (384, {"featurizer": "vit_base_patch16_siglip_384.webli"}),
    "siglip-vit-so400m": (224, {"featurizer": f"{_SO400M}224.webli"}),
    "siglip-vit-so400m-384px": (384, {"featurizer": f"{_SO400M}384.webli"}),
    "dinov2-vit-l": (224, {"featurizer": _DINO}),
    "dinoclip-vit-l-336px": (336, {"dino_featurizer": _DINO, "clip_featurizer": f"{_CLIP_L}336.openai"}),
    "dinosiglip-vit-so-224px": (224, {"dino_featurizer": _DINO, "siglip_featurizer": f"{_SO400M}224.webli"}),
    "dinosiglip-vit-so-384px": (384, {"dino_featurizer": _DINO, "siglip_featurizer": f"{_SO400M}384.webli"}),
}
"""vision_backbone_id -> pixels a side, and what each encoder is called in the checkpoint and by timm."""
_PURE = "{bos}{images}In: {question}\nOut:"
_VICUNA = (
    "{bos}{images}A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
    "detailed, and polite answers to the user's questions. USER: {question} ASSISTANT:"
)
# One bracket is missing behind SYS, in training too.
_CHAT = (
    "{bos}{images}[INST] <<SYS>\nYou are a helpful language and vision assistant. You are able to understand the "
    "visual content that the user provides, and assist the user with a variety of tasks using natural language.\n"
    "<</SYS>>\n\n"
    "{question} [/INST]"
)
LANGUAGES: dict[str, tuple[str, str]] = {
    "llama2-7b-pure": ("meta-llama/Llama-2-7b-hf", _PURE),
    "llama2-13b-pure": ("meta-llama/Llama-2-13b-hf", _PURE),
    "llama2-7b-chat": ("meta-llama/Llama-2-7b-chat-hf", _CHAT),
    "llama2-13b-chat": ("meta-llama/Llama-2-13b-chat-hf", _CHAT),
    "vicuna-v15-7b": ("lmsys/vicuna-7b-v1.5", _VICUNA),
    "vicuna-v15-13b": ("lmsys/vicuna-13b-v1.5", _VICUNA),
    "mistral-v0.1-7b-pure": ("mistralai/Mistral-7B-v0.1", _PURE),
    "mistral-v0.1-7b-instruct": ("mistralai/Mistral-7B-Instruct-v0.1", "{bos}{images}[INST] {question} [/INST]"),
    "phi-2-3b": ("microsoft/phi-2", "<|endoftext|>{images}Input: {question}\nOutput:"),
}
"""llm_backbone_id -> the language model's repository, and how it is asked."""
_PIXELS = {
    "dinov2": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "siglip": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
"""What is taken off the channels and divided by, by encoder."""
_EMBEDDING = "model.language_model.embed_tokens.weight"
_LAYERS = {"0": "linear_1", "2": "linear_2", "4": "linear_3"}


def is_prismatic(config: dict[str, Any]) -> bool:
    """Whether a config.json is a Prismatic run's."""
    return isinstance(config.get("model"), dict) and "vision_backbone_id" in config["model"]


def read_prismatic(name: str, folder: Path, revision: str | None, raw: dict[str, Any]) -> Checkpoint:
    """A Prismatic run; raw: its config.json as it stands.

    The image's placeholder gets a row of zeros behind the vocabulary, and generation never emits it.

    Raises VlmProbeError for an encoder or a language model that Prismatic does not have, a connector or a way of
    resizing of another kind, parts that are not here, encoders of two grids, and a file that holds other things than
    tensors.
    """
    about = raw["model"]
    pixels, encoders = _known(BACKBONES, about.get("vision_backbone_id"), "vision_backbone_id", folder)
    language, prompt = _known(LANGUAGES, about.get("llm_backbone_id"), "llm_backbone_id", folder)
    projector = str(about.get("arch_specifier")).rpartition("+")[2]
    if projector not in PROJECTORS:
        raise VlmProbeError(f"{folder} has a connector of kind {projector!r}; there are {', '.join(PROJECTORS)}")
    trained = _trained(folder)
    weights = {f"model.multi_modal_projector.{_layer(key)}": value for key, value in trained["projector"].items()}
    for key, value in trained["llm_backbone"].items():
        below = key.removeprefix("llm.")
        inside = below.startswith("model.")
        weights[f"model.language_model.{below.removeprefix('model.')}" if inside else below] = value
    sights = []
    for number, (prefix, timm) in enumerate(encoders.items()):
        own = _encoder(folder, prefix, timm, trained.get("vision_backbone") or {})
        settings, named = from_timm(own, pixels, exact_gelu=len(encoders) > 1)
        sights.append(settings)
        weights |= {f"model.vision_tower.towers.{number}.{key}": value for key, value in named.items()}
    if len({one.image_size // one.patch_size for one in sights}) > 1:
        grids = " and ".join(str(one.image_size // one.patch_size) for one in sights)
        raise VlmProbeError(f"{folder} fuses encoders of {grids} patches a side; they must be of one grid")
    if _EMBEDDING not in weights:
        raise VlmProbeError(f"{folder} holds a language model without llm.model.embed_tokens.weight")
    rows = add_placeholder(weights, _EMBEDDING, "lm_head.weight", "lm_head.bias")
    source = find_beside(folder, language)
    text = _language(folder, language, source)
    text.vocab_size = rows + 1
    strategy = about.get("image_resize_strategy")
    if strategy not in FITS:
        raise VlmProbeError(f"{folder} resizes images by {strategy!r}; known are {', '.join(FITS)}")
    config = PrismaticConfig(
        text_config=text,
        vision_config=sights[0],
        more_vision_configs=[one.to_dict() for one in sights[1:]] or None,
        image_token_index=rows,
        projector_type=projector,
    )
    own = raw.get("vlm_probe") or {}
    prompt = own.get("prompt") or prompt
    # timm resizes this one to more than it shows.
    shortest = 248 if about["vision_backbone_id"] == "clip-vit-b" else pixels
    config.vlm_probe = {"prompt": prompt, "pad": False, "fit": [strategy, pixels, shortest]}
    first, *more = (_processor(one.model_type, pixels) for one in sights)
    return Checkpoint(
        name=name,
        revision=revision,
        config=config,
        source=None,
        weights=lambda: weights,
        tokenizer=first_of(AutoTokenizer, TOKENIZER_FILES, (source,), None),
        image_processor=first,
        more_image_processors=tuple(more),
        prompt=lambda: prompt,
        embed_scale=None,
        pad=False,
        fit=Fit(strategy, pixels, shortest),
        suppressed=(rows,),
    )


def _known(table: Mapping[str, Any], key: object, field: str, folder: Path) -> Any:
    if not isinstance(key, str) or key not in table:
        raise VlmProbeError(f"{folder} has the {field} {key!r}; known are {', '.join(table)}")
    return table[key]


def _trained(folder: Path) -> dict[str, dict[str, Tensor]]:
    """What the run's file holds, by part."""
    files = sorted((folder / "checkpoints").glob("*.pt"))
    latest = [file for file in files if file.name == "latest-checkpoint.pt"] or files[-1:]
    if not latest:
        raise VlmProbeError(f"{folder} lacks checkpoints/latest-checkpoint.pt")
    try:
        held = torch.load(latest[0], map_location="cpu", weights_only=True)
    except (RuntimeError, UnpicklingError, EOFError, OSError) as error:
        raise VlmProbeError(f"{latest[0]} is no file of tensors: {first_line(error)}") from error
    parts = held.get("model") if isinstance(held, dict) else None
    lacking = [part for part in ("projector", "llm_backbone") if part not in (parts or {})]
    if parts is None or lacking:
        raise VlmProbeError(f"{latest[0]} holds no {' and no '.join(lacking)}; a run's last stage has both")
    return parts


def _layer(key: str) -> str:
    """A connector's weight by its name here: "projector.2.bias" is "linear_2.bias", "projector.bias" the first's."""
    *_, number, leaf = ("0", *key.split("."))
    return f"{_LAYERS.get(number, 'linear_1')}.{leaf}"


def _encoder(folder: Path, prefix: str, timm: str, trained: dict[str, Tensor]) -> dict[str, Tensor]:
    """An encoder's weights by timm's names: those that were trained, or those it began with."""
    own = {key.removeprefix(f"{prefix}."): value for key, value in trained.items() if key.startswith(f"{prefix}.")}
    if own:
        return own
    if trained:
        raise VlmProbeError(f"{folder} holds trained encoders, and {prefix!r} is none of them: {min(trained)}")
    plain = find_beside(folder, f"timm/{timm.partition('.')[0]}")  # timm's names without and with the tag
    source = plain if isinstance(plain, Path) else find_beside(folder, f"timm/{timm}")
    try:
        return dict(read_weights(source if isinstance(source, Path) else snapshot(source)))
    except VlmProbeError as error:
        raise VlmProbeError(
            f"the encoder {timm!r} of {folder}, which was not trained, could not be opened: put its folder as timm has "
            f"it (config.json, model.safetensors) beside the checkpoint ({error})"
        ) from error


def _language(folder: Path, language: str, source: Path | str) -> Any:
    try:
        return AutoConfig.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise VlmProbeError(
            f"the language model {language!r} of {folder} could not be opened: put its folder (config.json and "
            "tokenizer; no weights) beside the checkpoint"
        ) from error


def _processor(kind: str, pixels: int) -> Any:
    """The image processor of one encoder, which is given squares (`Fit`)."""
    from transformers import CLIPImageProcessorPil  # that of torchvision warns, and rounds otherwise

    mean, std = next(value for key, value in _PIXELS.items() if kind.startswith(key))
    square = {"height": pixels, "width": pixels}
    return CLIPImageProcessorPil(
        size=square, do_resize=False, do_center_crop=False, crop_size=square, image_mean=mean, image_std=std
    )
