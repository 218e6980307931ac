"""From a name to the folder of a model that is here."""

from __future__ import annotations

from pathlib import Path

from vlm_probe.errors import VlmProbeError, nearest
from vlm_probe.zoo.catalog import FUSIONS, SOURCES, fetched_folder, fusion_folder
from vlm_probe.zoo.replicas import folder_of, shipped


def locate(name: str) -> Path | None:
    """The local folder of a name, or None where it can only be a Hub id.

    Raises VlmProbeError for a name that is neither; it lists the nearest.
    """
    if name.startswith("replica/") or name == "replica":
        return folder_of(name.removeprefix("replica").removeprefix("/") or "default")
    path = Path(name).expanduser()
    if name in SOURCES and not path.is_dir():
        return fetched_folder(name)
    if name in FUSIONS and not path.is_dir():
        return fusion_folder(name)
    if path.is_dir():
        return path
    if path.exists():
        raise VlmProbeError(f"{name} is a file, expected a checkpoint directory")
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        known = [*(f"replica/{s}" for s in ("default", *shipped())), *SOURCES, *FUSIONS]
        raise VlmProbeError(
            f"unknown model {name!r}: no such directory, and no Hub id (owner/name); nearest shipped are "
            f"{nearest(name, known)} (vlm-probe models lists all)"
        )
    return None
