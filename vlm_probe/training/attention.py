"""Attention for training under autocast: float32 inside bfloat16.

The flash kernel of CPUs takes 2.3 times as long backward in bfloat16 as in float32 at the sizes of
the replicas (32 x 8 heads x 212 positions x 16), and attention is half of a step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

FLOAT32_ATTENTION = "vlm_probe_float32"
"""Name under which transformers knows the function."""


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, Tensor | None]:
    with torch.autocast(query.device.type, enabled=False):
        z, pattern = sdpa_attention_forward(module, query.float(), key.float(), value.float(), attention_mask, **kwargs)
    return z.to(query.dtype), pattern


AttentionInterface.register(FLOAT32_ATTENTION, _attention)
AttentionMaskInterface.register(FLOAT32_ATTENTION, sdpa_mask)
