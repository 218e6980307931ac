"""Trace: the activations of one run, with named dimensions, and where they came from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import xarray as xr
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from vlm_probe.errors import VlmProbeError, nearest
from vlm_probe.layout import TokenLayout
from vlm_probe.names import dimensions


@dataclass
class Trace:
    """What one example did to a model.

    Tensors keep their batch dimension of one (of the number of images, for vision and connector)
    and are detached.
    """

    activations: dict[str, Tensor]
    """By hook name, in the order they fired."""
    layout: TokenLayout
    logits: Float[Tensor, "position vocabulary"]
    provenance: dict[str, Any]
    depth: dict[str, int]
    """How many layers the model has: of its encoder ("vision") and its language model ("language")."""
    vision_layers_read: int = 0
    """How many of the encoder's layers feed the connector."""
    images: list[Image.Image] = field(default_factory=list)
    """The original images, where they are known."""
    image_scale: float = 1.0
    """Factor on the connector's output before it entered the language model."""

    def __getitem__(self, name: str) -> Tensor:
        """One activation as it was captured; VlmProbeError names what the trace holds."""
        if name not in self.activations:
            held = nearest(name, self.activations) or "nothing"
            raise VlmProbeError(
                f"the trace holds no {name!r}; it holds {len(self.activations)} activations, nearest are "
                f"{held}. Name it in capture=[...]"
            )
        return self.activations[name]

    def __contains__(self, name: str) -> bool:
        return name in self.activations

    def array(self, name: str) -> xr.DataArray:
        """One activation as a float32 DataArray with the dimension names of its hook point."""
        values = self[name].float().cpu().numpy()
        attrs = {"title": name, "units": "activation", **self.provenance}
        if name.endswith("hook_pattern"):
            attrs["units"] = "attention probability"
        return xr.DataArray(values, dims=dimensions(name), name=name, attrs=attrs)

    def stack(self, part: str, point: str, *, first: int | None = None) -> Tensor:
        """One point of every layer of a part, [layer, ...]: `stack("language", "attn.hook_pattern")`.

        `first` takes only so many layers from the bottom. Raises VlmProbeError unless all of them were
        captured.
        """
        wanted = range(self.depth[part] if first is None else first)
        missing = sorted(set(wanted) - set(self.layers(part, point)))
        if missing:
            raise VlmProbeError(f"the trace lacks {point} of {part} layers {missing}; capture {part}.blocks.*.{point}")
        return torch.stack([self.activations[f"{part}.blocks.{i}.{point}"] for i in wanted])

    def layers(self, part: str, point: str) -> list[int]:
        """The layers of a part for which a point was captured."""
        prefix, suffix = f"{part}.blocks.", f".{point}"
        found = [n for n in self.activations if n.startswith(prefix) and n.endswith(suffix)]
        return sorted(int(n.removeprefix(prefix).split(".", 1)[0]) for n in found)

    def __repr__(self) -> str:
        size = sum(t.numel() * t.element_size() for t in self.activations.values()) / 2**20
        return (
            f"Trace({self.provenance['model']}: {len(self.activations)} activations, {size:.1f} MiB, "
            f"{self.layout.length} positions, {len(self.layout.images)} images)"
        )
