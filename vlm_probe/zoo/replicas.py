"""The replicas that are shipped inside the package (no torch needed to list them)."""

from __future__ import annotations

import json
from pathlib import Path

from vlm_probe.errors import VlmProbeError, nearest
from vlm_probe.zoo.cells import CELLS

DEFAULT = "small-clip"
"""What `replica/default` stands for."""
_WEIGHTS = Path(__file__).parent / "weights" / "replicas"


def shipped() -> list[str]:
    """Names of all cells whose weights are in the package."""
    return sorted(p.parent.name for p in _WEIGHTS.glob("*/config.json"))


def folder_of(cell: str) -> Path:
    """The folder of a shipped replica; VlmProbeError lists those there are."""
    folder = _WEIGHTS / (DEFAULT if cell == "default" else cell)
    if cell != "default" and cell not in shipped():
        raise VlmProbeError(f"no replica {cell!r}; nearest are {nearest(cell, ['default', *shipped()])}")
    return folder


def second_encoder(cell: str) -> Path | None:
    """Weights of a second encoder of a cell's recipe, trained from another seed; None where none is shipped.

    Named as in a checkpoint ("vision_tower.embeddings..."). No replica sees through it: it is there to say how far
    apart two encoders are that differ in nothing but their seed.
    """
    name = DEFAULT if cell == "default" else cell
    file = _WEIGHTS / f"encoder-{CELLS[name].encoder}-seed1.safetensors" if name in CELLS else None
    return file if file is not None and file.is_file() else None


def never_seen(cell: str) -> list[int]:
    """Ids that no step of a shipped replica's training ever read (`training.replica.never_seen` finds them anew).

    They hang on the vocabulary alone: cells of one vocabulary read the same text.
    """
    vocabulary = CELLS[DEFAULT if cell == "default" else cell].vocabulary
    runs = json.loads((_WEIGHTS / "never_seen.json").read_text())[str(vocabulary)]
    return [i for first, last in runs for i in range(first, last + 1)]
