"""What a finding says nothing about."""

from __future__ import annotations

from collections.abc import Iterable

from vlm_probe.zoo.catalog import FUSIONS, SOURCES


def scope_of(models: Iterable[str]) -> str:
    """A sentence for results of miniatures and of the real small models, by their names; empty where there are none."""
    names = list(models)
    said = []
    if any(name.startswith("replica") for name in names):
        said.append("replicas are miniatures")
    if any(name in FUSIONS or name in SOURCES for name in names):
        said.append("the small real models are other models")
    if not said:
        return ""
    reason = " and ".join(said)
    return f"{reason[0].upper()}{reason[1:]}: nothing here is a statement about the 2B or the 7B."
