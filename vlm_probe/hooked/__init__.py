"""The hooked vision encoder, connector and language model."""

from vlm_probe.hooked.inputs import ModelInputs
from vlm_probe.hooked.loading import load
from vlm_probe.hooked.model import HookedVLM

__all__ = ["HookedVLM", "ModelInputs", "load"]
