"""The plain Hugging Face model of a hooked one."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from vlm_probe.errors import VlmProbeError
from vlm_probe.hooked.anatomy import without_weights
from vlm_probe.hooked.model import HookedVLM


def plain_twin(model: HookedVLM, implementation: str) -> Any:
    """The model's weights, not copied, in a Hugging Face model of its own: its attention ("sdpa", "eager"), no hook.

    What leaves its connector is multiplied as the hooked model's is.

    Raises VlmProbeError for quantized weights.
    """
    hf = model.hf
    if getattr(hf, "is_quantized", False):
        raise VlmProbeError(
            f"{model.name} is quantized: its weights cannot be shared with a plain model; load it whole"
        )
    twin = without_weights(hf, copy.deepcopy(hf.config))
    twin.load_state_dict(hf.state_dict(), assign=True)
    twin.tie_weights()
    # SDPA has no soft cap: transformers runs Gemma 2's attention eagerly whatever is asked for.
    text = "eager" if getattr(model.text_config, "attn_logit_softcapping", None) else implementation
    parts = {"": implementation, "vision_config": implementation, "text_config": text}
    twin.set_attn_implementation(text if model.vision_config is None else parts)
    if model.image_scale != 1.0:

        def scaled(_module: Any, _args: Any, output: Tensor) -> Tensor:
            return output * torch.tensor(model.image_scale, dtype=output.dtype, device=output.device)

        twin.model.multi_modal_projector.register_forward_hook(scaled)
    return twin.to(model.device).eval()
