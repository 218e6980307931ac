"""Layouts of checkpoints on disk, each read to one `Checkpoint`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

from transformers import AutoTokenizer

from vlm_probe.checkpoints.adapters import CONFIG, base_of, is_adapter
from vlm_probe.checkpoints.chat_template import prompt_of
from vlm_probe.checkpoints.checkpoint import TOKENIZER_FILES, Checkpoint, first_of, raw_config
from vlm_probe.checkpoints.files import hub_file, snapshot
from vlm_probe.checkpoints.hugging_face import read_hugging_face
from vlm_probe.checkpoints.original import is_original, read_original
from vlm_probe.checkpoints.parts import is_in_parts, read_parts
from vlm_probe.checkpoints.prismatic import is_prismatic, read_prismatic
from vlm_probe.errors import VlmProbeError
from vlm_probe.inputs.prompts import IMAGE
from vlm_probe.zoo.locating import locate

__all__ = ["Checkpoint", "describe"]


def describe(
    name: str, folder: Path | None, revision: str | None, *, languages: Collection[str], joined: Mapping[str, str]
) -> Checkpoint:
    """A checkpoint in whichever layout it is, or adapters together with the checkpoint that they change.

    Parameters
    ----------
    name: for messages and provenance; a Hub id where `folder` is None.
    folder: its local folder.
    revision: branch, tag or commit on the Hub.
    languages: model types of language models that may come without an encoder.
    joined: model types of those with one, and what stands for an image where their chat templates write it.

    Raises VlmProbeError for what is no checkpoint, and as the layouts do.
    """
    try:
        raw = raw_config(name, folder, revision)
    except VlmProbeError:
        # peft writes no config.json.
        if folder is None and hub_file(name, CONFIG, revision) is not None:
            folder = snapshot(name, revision)
        if folder is None or not is_adapter(folder):
            raise
        return _adapted(name, folder, languages, joined)
    own = raw.get("vlm_probe") or {}
    if not isinstance(own, dict):
        raise VlmProbeError(f"{name}'s config.json holds a {type(own).__name__} under vlm_probe, expected an object")
    original, parts, prismatic = is_original(raw), is_in_parts(raw), is_prismatic(raw)
    if folder is not None and not parts and is_adapter(folder):
        if original:
            raise VlmProbeError(
                f"{folder} holds adapters beside an original LLaVA config.json: merge them into their model first "
                "(LLaVA's scripts/merge_lora_weights.py)"
            )
        return _adapted(name, folder, languages, joined)
    if not original and not parts and not prismatic:
        return read_hugging_face(name, folder, revision, raw, languages, joined)
    # transformers cannot read these layouts, so they have to be here whole.
    also = ("checkpoints/latest-checkpoint.pt",) if prismatic else ()
    here = folder if folder is not None else snapshot(name, revision, also=also)
    if prismatic:
        return read_prismatic(name, here, revision, raw)
    return read_original(name, here, revision, raw) if original else read_parts(name, here, revision, raw)


def _adapted(name: str, folder: Path, languages: Collection[str], joined: Mapping[str, str]) -> Checkpoint:
    """Adapters, and the checkpoint they change: a path (a relative one also from their folder), or any name to open."""
    base = base_of(folder)
    try:
        there = folder / base if (folder / base).is_dir() else locate(base)
    except VlmProbeError as error:
        raise VlmProbeError(f"{folder} holds adapters of another model: {error}") from error
    made = describe(base, there, None, languages=languages, joined=joined)
    # peft's trainer saves a tokenizer beside adapters, where it has changed.
    own = first_of(AutoTokenizer, TOKENIZER_FILES, (folder,), None)
    if own is None:
        return replace(made, name=name, adapter=folder)
    placeholder = getattr(made.config, "image_token_id", None)

    def prompt() -> str | None:
        if placeholder is None:
            return made.prompt()
        mark = joined.get(made.config.model_type, IMAGE)
        return prompt_of(name, own, folder, placeholder, mark=mark) or made.prompt()

    return replace(made, name=name, adapter=folder, tokenizer=own, prompt=prompt)
