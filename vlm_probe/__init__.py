"""vlm_probe opens vision-language models up: read, edit and explain what happens inside.

Everything here is imported on first use, so that `import vlm_probe` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vlm_probe.errors import VlmProbeError

if TYPE_CHECKING:
    from vlm_probe.hooked import HookedVLM, ModelInputs, load
    from vlm_probe.tokens import ImageTransform, TokenLayout
    from vlm_probe.trace import Trace

_HOMES = {
    "HookedVLM": "vlm_probe.hooked",
    "ModelInputs": "vlm_probe.hooked",
    "load": "vlm_probe.hooked",
    "ImageTransform": "vlm_probe.tokens",
    "TokenLayout": "vlm_probe.tokens",
    "Trace": "vlm_probe.trace",
}

_PARTS = (
    "attention", "embedding", "figures", "findings", "hooked", "replicas", "report", "scenes", "tokens", "trace",
    "vocabulary",
)  # fmt: skip

__all__ = ["HookedVLM", "ImageTransform", "ModelInputs", "TokenLayout", "Trace", "VlmProbeError", "load"]


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name in _PARTS:
        return import_module(f"vlm_probe.{name}")
    raise AttributeError(f"module 'vlm_probe' has no attribute {name!r}")
