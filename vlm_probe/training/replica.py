"""The recipe of LLaVA in miniature: encoder, language model, connector, then both together.

Stages that cells share (an encoder, a language model) are trained once in a runs folder and found
there by the next cell. Everything is deterministic by the cell's seed, and a killed run goes on
from its last checkpoint to the same weights (on the same machine and number of threads).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPImageProcessor, GemmaForCausalLM, LlavaConfig, LlavaForConditionalGeneration

from vlm_probe.errors import VlmProbeError, nearest
from vlm_probe.scenes import world_of
from vlm_probe.training.encoders import MEAN, STD, encoder_stage
from vlm_probe.training.fusion import PATCHES, Connector, FusionStage, LanguageStage
from vlm_probe.training.loop import Listener, run_stage
from vlm_probe.training.packing import IMAGE, PROMPT, Packer, build_tokenizer
from vlm_probe.zoo.cells import CELLS, IMAGE_SIZE, ROWS, VOCABULARY, Cell

FUSION_STAGES: tuple[Literal["connector", "joint", "questions"], ...] = ("connector", "joint", "questions")


@dataclass
class Trained:
    """The parts of a finished cell."""

    cell: Cell
    packer: Packer
    encoder: nn.Module
    connector: Connector
    language: GemmaForCausalLM


def find_cell(name: str) -> Cell:
    """A cell of the grid by its name, with or without `replica/`; VlmProbeError lists the nearest."""
    short = name.removeprefix("replica/")
    if short not in CELLS:
        raise VlmProbeError(f"no replica cell {short!r} in the grid; nearest are {nearest(short, CELLS)}")
    return CELLS[short]


def runs_of(cell: Cell, runs: Path) -> Path:
    """The part of a runs folder that cells of one seed, and of one world, share."""
    return runs / ("" if cell.world == "shipped" else cell.world) / f"seed-{cell.seed}"


def train(
    cell: Cell, runs: Path, *, resume: bool = False, listen: Listener | None = None, device: str = "cpu"
) -> Trained:
    """Train a cell, stage by stage, in a runs folder.

    With `resume`, finished stages are loaded and an unfinished one goes on; without, the cell's own
    stages start afresh, and so do the shared ones it needs. Stages go to `<runs>/seed-<seed>/`:
    `encoders/`, `language-<size>/` and `<cell>/`.
    """
    trained = apart(cell, runs, resume=resume, listen=listen, device=device)
    for name in FUSION_STAGES:
        stage = FusionStage(name, cell, trained.packer, trained.encoder, trained.connector, trained.language)
        if stage.steps > 0:
            run_stage(stage, runs_of(cell, runs) / cell.name, resume=resume, listen=listen)
    return trained


def packer_of(cell: Cell) -> Packer:
    """Encodes text as a cell's language model reads it."""
    return Packer(build_tokenizer(cell.vocabulary, world_of(cell.world), ROWS[cell.rows].extra))


def apart(cell: Cell, runs: Path, *, resume: bool, listen: Listener | None = None, device: str = "cpu") -> Trained:
    """A cell's parts before they meet: encoder and language model trained, the connector's weights as drawn."""
    runs, world = runs_of(cell, runs), world_of(cell.world)
    packer = packer_of(cell)
    # The encoder never meets the language model's tokens: one encoder serves every vocabulary.
    shared = replace(cell, vocabulary=VOCABULARY)
    encoder = encoder_stage(shared, Packer(build_tokenizer(VOCABULARY, world)), device)
    language = LanguageStage(cell, packer, device)
    stages = ((encoder, "encoders"), (language, cell.language_name))
    # Of two processes that begin with a size each, none waits for the other's encoder, whichever it is.
    for stage, folder in stages if cell.size == "small" else stages[::-1]:
        run_stage(stage, runs / folder, resume=resume, listen=listen)
    torch.manual_seed(cell.seed + 2)
    connector = Connector(cell.vision["hidden_size"], cell.language.hidden_size).to(device)
    return Trained(cell, packer, encoder.encoder, connector, language.module)


def never_seen(cell: Cell, *, every: int = 1) -> list[int]:
    """Ids of a cell's vocabulary that no step of its training ever reads: its steps packed once more, without a model.

    They are known to be untrained, which on real models only tokens with telling names are (`<unused7>`).

    every: look at each so-manieth step alone, for a quick look: rare ids are then missed, and listed too.
    """
    packer = packer_of(cell)
    language = LanguageStage(cell, packer)
    seen: set[int] = set()
    for step in range(0, language.steps, every):
        seen.update(language.pack(step).input_ids.unique().tolist())
    connector = Connector(1, 1)
    for name in FUSION_STAGES:
        stage = FusionStage(name, cell, packer, nn.Identity(), connector, language.module)
        for step in range(0, stage.steps, every):
            seen.update(stage.pack(step)[1].input_ids.unique().tolist())
    return sorted(set(range(len(packer.tokenizer))) - seen)


def assemble(trained: Trained) -> LlavaForConditionalGeneration:
    """The parts as one Hugging Face LLaVA model, half precision."""
    vision: Any = trained.encoder.config
    config = LlavaConfig(
        vision_config=vision.to_dict(),
        text_config=trained.language.config.to_dict(),
        image_token_index=trained.packer.id[IMAGE],
        image_seq_length=PATCHES,
    )
    model = LlavaForConditionalGeneration(config)
    model.model.vision_tower.load_state_dict(trained.encoder.state_dict())
    model.model.language_model.load_state_dict(trained.language.model.state_dict())
    model.lm_head.load_state_dict(trained.language.lm_head.state_dict())
    model.model.multi_modal_projector.load_state_dict(trained.connector.state_dict())
    model.tie_weights()
    # Read by vlm_probe.load: image rows are not scaled (as current transformers trains), and how to ask.
    model.config.vlm_probe = {"embed_scale": "text", "prompt": PROMPT, "pad": True}
    return model.half().cpu().eval()


def export(trained: Trained, folder: Path) -> None:
    """Write a checkpoint that `vlm_probe.load` and plain transformers open: weights, tokenizer, processor."""
    folder.mkdir(parents=True, exist_ok=True)
    assemble(trained).save_pretrained(folder)
    trained.packer.tokenizer.save_pretrained(folder)
    CLIPImageProcessor(
        size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        do_center_crop=False,
        image_mean=[MEAN] * 3,
        image_std=[STD] * 3,
    ).save_pretrained(folder)


def share_encoder(folder: Path, name: str) -> None:
    """Turn a checkpoint of one file into two shards, the encoder's beside the folder: `../<name>`.

    Cells that have the encoder in common then hold it once; loaders find both by the index.
    """
    whole = folder / "model.safetensors"
    weights = load_file(whole)
    parts = {f"../{name}": {k: v for k, v in weights.items() if "vision_tower" in k}}
    parts["language.safetensors"] = {k: v for k, v in weights.items() if "vision_tower" not in k}
    for file, tensors in parts.items():
        save_file(tensors, folder / file, metadata={"format": "pt"})
    index = {
        "metadata": {"total_size": sum(v.numel() * v.element_size() for v in weights.values())},
        "weight_map": {key: file for file, tensors in parts.items() for key in tensors},
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")
    whole.unlink()
