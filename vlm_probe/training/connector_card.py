"""The card of a connector and its adapters: what they join, how they were trained, how they score."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pandas as pd

from vlm_probe.training.card import ITEMS_SEED, record, score_table, stage_table, write_files
from vlm_probe.training.connector import ADAPTED, ALPHA, IMAGE_SIZE, PROMPT, RANK, Steps, stage_files
from vlm_probe.zoo.catalog import SOURCES, Fusion


def write_card(
    fusion: Fusion,
    runs: Path,
    folder: Path,
    scores: dict[str, pd.DataFrame],
    check: dict[str, float | int],
    *,
    steps: Steps,
    seed: int,
) -> None:
    """Write `README.md` (the card), `card.json` (the same as data) and `training_log.jsonl`.

    scores: `accuracy_table` of every split in `training.card.SPLITS`; check: `check_scores` of the exported model.
    """
    files = stage_files(fusion, runs, seed)
    own = {"fusion": asdict(fusion), "steps": asdict(steps), "training_seed": seed}
    data = {**own, **record(files, scores, check)}
    language, encoder = SOURCES[fusion.language], SOURCES[fusion.encoder]
    adapters = (
        f"- LoRA adapters (rank {RANK}, alpha {ALPHA}) on {', '.join(ADAPTED)} of every layer, merged by `load`.\n"
        if fusion.adapters
        else ""
    )
    frozen = "The encoder and the language model's own weights are" if fusion.adapters else "Both of them are"
    text = f"""# {fusion.name}

A vision-language model of real parts: {encoder.name} and {language.name}, joined by a connector that
`vlm-probe train {fusion.name} --seed {seed}` trained on generated scenes. It knows those scenes and
their questions, and no photographs.

- Encoder: {encoder.what} ({encoder.repository}), {IMAGE_SIZE} px. Licence: {encoder.terms}.
- Language model: {language.what} ({language.repository}). Licence: {language.terms}.
- Connector: two-layer MLP on the second to last layer, CLS dropped (`connector.safetensors`).
{adapters}- {frozen} frozen, and not in this folder: `vlm-probe fetch real-small` brings them.
- Prompt: `{PROMPT!r}`; `{fusion.placeholder}` stands for a patch, so the vocabulary is the original one.
- Image rows are not multiplied by sqrt(d_model) (`embed_scale="text"`).

## Held-out scenes

Every scene shows two coloured shapes together that never stand together in a training image; each was seen with others
(`scene_items(n, split="heldout", seed={ITEMS_SEED})`; greedy decoding, exact match). The best blind guess is the most
frequent answer to the same question in training, the image unseen.

{score_table(scores["heldout"])}

## Novel kinds

The harder question: every scene shows a coloured shape (a green cross, a blue triangle, a yellow circle) that no
training image ever showed.

{score_table(scores["novel"])}

## Training

{stage_table(data["stages"])}
"""
    write_files(folder, files, data, text)
