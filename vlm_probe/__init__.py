"""vlm_probe opens vision-language models up: read, edit and explain what happens inside.

Everything here is imported on first use, so that `import vlm_probe` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vlm_probe.errors import VlmProbeError, VlmProbeWarning

if TYPE_CHECKING:
    from vlm_probe.explorer import explore
    from vlm_probe.hooked import HookedVLM
    from vlm_probe.hooked.verifying import verify
    from vlm_probe.inputs.model_inputs import ModelInputs
    from vlm_probe.layout import ImageTransform, PixelBox, TokenLayout, UnitBox
    from vlm_probe.opening import load
    from vlm_probe.running.evaluation import evaluate
    from vlm_probe.store import capture, open_store
    from vlm_probe.trace import Trace

    __version__: str

_HOMES = {
    "HookedVLM": "vlm_probe.hooked",
    "ImageTransform": "vlm_probe.layout",
    "ModelInputs": "vlm_probe.inputs.preparing",
    "PixelBox": "vlm_probe.layout",
    "TokenLayout": "vlm_probe.layout",
    "Trace": "vlm_probe.trace",
    "UnitBox": "vlm_probe.layout",
    "capture": "vlm_probe.store",
    "evaluate": "vlm_probe.running.evaluation",
    "explore": "vlm_probe.explorer",
    "load": "vlm_probe.opening",
    "open_store": "vlm_probe.store",
    "verify": "vlm_probe.hooked.verifying",
}

_PARTS = (
    "attention",
    "causal",
    "checkpoints",
    "embedding",
    "evidence",
    "explorer",
    "figures",
    "findings",
    "hooked",
    "inputs",
    "items",
    "layout",
    "lens",
    "report",
    "running",
    "scenes",
    "store",
    "studies",
    "trace",
    "training",
    "vocabulary",
    "zoo",
)

__all__ = [
    "HookedVLM",
    "ImageTransform",
    "ModelInputs",
    "PixelBox",
    "TokenLayout",
    "Trace",
    "UnitBox",
    "VlmProbeError",
    "VlmProbeWarning",
    "capture",
    "evaluate",
    "explore",
    "load",
    "open_store",
    "verify",
]


def __getattr__(name: str) -> object:
    from importlib import import_module, metadata

    if name == "__version__":
        return metadata.version("vlm_probe")

    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name in _PARTS:
        return import_module(f"vlm_probe.{name}")
    raise AttributeError(f"module 'vlm_probe' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *_PARTS, "__version__"})
