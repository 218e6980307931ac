"""The plain Hugging Face model of a hooked one."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from vlm_probe.errors import VlmProbeError, first_line
from vlm_probe.hooked.anatomy import with_state
from vlm_probe.hooked.model import HookedVLM


def plain_twin(model: HookedVLM, implementation: str) -> Any:
    """The model's weights, not copied, in a Hugging Face model of its own: its attention ("sdpa", "eager"), no hook.

    What leaves its connector is multiplied as the hooked model's is.

    Raises VlmProbeError for quantized weights, and for others than its configuration describes.
    """
    hf = model.hf
    if getattr(hf, "is_quantized", False):
        raise VlmProbeError(
            f"{model.name} is quantized: its weights cannot be shared with a plain model; load it whole"
        )
    try:
        twin = with_state(hf, copy.deepcopy(hf.config), hf.state_dict())
    except RuntimeError as error:
        raise VlmProbeError(
            f"{model.name} is not the model that its configuration describes, so that no plain one takes its weights: "
            f"{first_line(error)}"
        ) from error
    # SDPA has no soft cap: transformers runs Gemma 2's attention eagerly whatever is asked for.
    text = "eager" if getattr(model.text_config, "attn_logit_softcapping", None) else implementation
    parts = {"": implementation, "vision_config": implementation, "text_config": text}
    twin.set_attn_implementation(text if model.vision_config is None else parts)
    if model.image_scale != 1.0:

        def scaled(_module: Any, _args: Any, output: Tensor) -> Tensor:
            return output * torch.tensor(model.image_scale, dtype=output.dtype, device=output.device)

        twin.model.multi_modal_projector.register_forward_hook(scaled)
    return twin
