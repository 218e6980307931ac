"""The layout that transformers reads itself: LLaVA (old and new key names), or a causal language model alone."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from vlm_probe.checkpoints.chat_template import prompt_of
from vlm_probe.checkpoints.checkpoint import IMAGE_FILES, TOKENIZER_FILES, Checkpoint, first_of, read_config
from vlm_probe.checkpoints.files import weight_files
from vlm_probe.errors import VlmProbeError
from vlm_probe.inputs.fitting import Fit
from vlm_probe.inputs.images import MORE
from vlm_probe.inputs.prompts import IMAGE
from vlm_probe.inputs.remapped import remapped


def read_hugging_face(
    name: str,
    folder: Path | None,
    revision: str | None,
    raw: dict[str, Any],
    languages: Collection[str],
    joined: Mapping[str, str],
) -> Checkpoint:
    """A checkpoint of a folder, or of the Hub where it is None; raw: its config.json as it stands.

    languages: model types of language models that may come alone. joined: those of models with an encoder,
    and what stands for an image where their chat templates write it.

    Raises VlmProbeError for a model of another kind, and a shard that is missing.
    """
    alone = raw.get("model_type") in languages
    if not alone and (raw.get("model_type") not in joined or "text_config" not in raw):
        raise VlmProbeError(
            f"{name} is a {raw.get('model_type')!r} checkpoint, expected a model with an encoder "
            f"({', '.join(joined)}, or LLaVA's original layout with 'mm_vision_tower'), or a language model "
            f"({', '.join(languages)})"
        )
    source: str | Path = folder or name
    config = read_config(name, source, revision, raw if alone else raw["text_config"])
    if folder is not None:
        weight_files(folder)
    own = raw.get("vlm_probe") or {}
    if not alone and not 0 <= config.image_token_id < config.text_config.vocab_size:
        raise VlmProbeError(
            f"{name}'s config.json has the image token {config.image_token_id}, outside the vocabulary of "
            f"{config.text_config.vocab_size}"
        )
    tokenizer = first_of(AutoTokenizer, TOKENIZER_FILES, (source,), revision)
    # A trimmed checkpoint's tokenizer is the original one, with the ids that were kept beside it.
    known = None if alone or tokenizer is None else remapped(tokenizer, folder).get_vocab().get(IMAGE)
    if known not in (None, getattr(config, "image_token_id", None)):
        raise VlmProbeError(
            f"{name}'s config.json has the image token {config.image_token_id}, its tokenizer's {IMAGE} is {known}"
        )
    return Checkpoint(
        name=name,
        revision=revision,
        config=config,
        source=source,
        weights=None,
        tokenizer=tokenizer,
        image_processor=None if alone else first_of(AutoImageProcessor, IMAGE_FILES, (source,), revision),
        more_image_processors=_more_processors(folder, config),
        fit=Fit(*own["fit"]) if own.get("fit") else None,
        prompt=lambda: (
            own.get("prompt")
            or (
                None
                if alone
                else prompt_of(name, tokenizer, folder, config.image_token_id, mark=joined[config.model_type])
            )
        ),
        embed_scale=own.get("embed_scale"),
        pad=own.get("pad"),
    )


def _more_processors(folder: Path | None, config: Any) -> tuple[Any, ...]:
    """The image processors of encoders behind the first, as `HookedVLM.save_pretrained` writes them."""
    found = []
    for number in range(len(getattr(config, "more_vision_configs", None) or [])):
        own = None if folder is None else folder / f"{MORE}{number + 1}"
        processor = None if own is None else first_of(AutoImageProcessor, IMAGE_FILES, (own,), None)
        if processor is None:
            raise VlmProbeError(f"{folder} lacks the image processor of its encoder {number + 1}, {MORE}{number + 1}/")
        found.append(processor)
    return tuple(found)
