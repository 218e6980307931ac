"""The hooked vision encoder, connector and language model."""

from vlm_probe.hooked.model import HookedVLM
from vlm_probe.inputs.model_inputs import ModelInputs

__all__ = ["HookedVLM", "ModelInputs"]
