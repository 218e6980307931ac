"""The replicas that are shipped inside the package (no torch needed to list them)."""

from __future__ import annotations

from pathlib import Path

from vlm_probe.errors import VlmProbeError, nearest

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
