"""Activations of many items on disk, in shards that a killed run goes on with: `capture`, `open_store`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vlm_probe.store.capturing import Captured, capture
    from vlm_probe.store.checking import Verified, repair_store, verify_store
    from vlm_probe.store.planning import plan
    from vlm_probe.store.reading import open_store, store_errors

_HOMES = {
    "Captured": "capturing",
    "Verified": "checking",
    "capture": "capturing",
    "open_store": "reading",
    "plan": "planning",
    "repair_store": "checking",
    "store_errors": "reading",
    "verify_store": "checking",
}

__all__ = ["Captured", "Verified", "capture", "open_store", "plan", "repair_store", "store_errors", "verify_store"]


def __getattr__(name: str) -> object:
    """Each on first use: reading a store needs no torch."""
    from importlib import import_module

    if name in _HOMES:
        return getattr(import_module(f"vlm_probe.store.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'vlm_probe.store' has no attribute {name!r}")
