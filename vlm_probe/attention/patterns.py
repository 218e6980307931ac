"""What all readers of attention share: the patterns of a trace, what a position is in its prompt, and attributes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from vlm_probe.errors import VlmProbeError
from vlm_probe.layout import TokenLayout
from vlm_probe.trace import Trace

PATTERN = "attn.hook_pattern"


class Role(NamedTuple):
    """What a position is in its prompt, which other prompts of the same template have too."""

    kind: str
    """ "image" for a patch, "register" for a CLS or register token that the model keeps, "question", or "text" for the
    template around the question."""
    index: int
    """Number among the patches, the registers, or all text tokens ("text" and "question"), from the start."""
    token: str
    """As text; "" without a tokenizer."""


def roles_of(layout: TokenLayout) -> dict[Role, int]:
    """Role -> position, of every position that is no padding, in ascending order of positions."""
    asked = set(layout.question_positions.tolist())
    extra = [int(p) for span in layout.images for p in span.extra_positions]
    groups = {"text": layout.text_positions.tolist(), "image": layout.image_positions.tolist(), "register": extra}
    found = {}
    for group, positions in groups.items():
        for index, position in enumerate(positions):
            kind = "question" if position in asked else group
            found[Role(kind, index, layout.tokens[position] if layout.tokens else "")] = position
    return dict(sorted(found.items(), key=lambda one: one[1]))


def stacked(trace: Trace, part: str) -> Float[Tensor, "layer batch head query key"]:
    """The attention of every captured layer of a part, float32 on the CPU.

    Raises VlmProbeError where the trace holds none.
    """
    return (
        torch.stack([trace[f"{part}.blocks.{i}.{PATTERN}"] for i in layers_with_attention(trace, part)]).float().cpu()
    )


def layers_with_attention(trace: Trace, part: str) -> list[int]:
    """The layers whose attention the trace holds; VlmProbeError where there is none."""
    layers = trace.layers(part, PATTERN)
    if not layers:
        raise VlmProbeError(
            f"the trace holds no {part} attention; capture {part}.blocks.*.{PATTERN} (the default of model.trace)"
        )
    return layers


def method_attrs(trace: Trace, title: str, units: str, citation: str, **more: object) -> dict[str, object]:
    """`attrs` of what is read off attention probabilities."""
    method = {"method": "attention probabilities, exact softmax rows"}
    return {"title": title, "units": units, **method, "citation": citation, **more, **trace.provenance}
