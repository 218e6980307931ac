"""Where an intervention applies, in a batch: named positions as masks over the rows of an activation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from vlm_probe.errors import VlmProbeError
from vlm_probe.layout import TokenLayout
from vlm_probe.layout.boxes import AnyBox
from vlm_probe.layout.groups import Where, numbers_in, positions_of

Sinks = Sequence[int] | Mapping[int, Sequence[int]]
"""Positions of attention sinks: of all layers alike, or by layer."""


@dataclass(frozen=True)
class Places:
    """The examples of a batch as far as positions go."""

    layouts: Sequence[TokenLayout]
    boxes: Sequence[Sequence[AnyBox]]
    """Of every example."""
    sinks: Sinks
    device: torch.device
    _known: dict[Any, Tensor] = field(default_factory=dict, repr=False)
    """Rows that were asked for before: sweeps ask for the same many times."""

    @classmethod
    def of(
        cls,
        layouts: Sequence[TokenLayout],
        boxes: Sequence[AnyBox] | Sequence[Sequence[AnyBox]] | None,
        sinks: Sinks,
        device: torch.device,
    ) -> Places:
        """boxes: of the only example, or one sequence an example. Raises VlmProbeError where they do not pair up."""
        own: list[Any] = [] if boxes is None else list(boxes)
        if any(len(one) == 4 and not isinstance(one[0], tuple) for one in own):  # boxes, not examples
            own = [own]
        each: list[Sequence[AnyBox]] = own or [()] * len(layouts)
        if len(each) != len(layouts):
            raise VlmProbeError(f"there are boxes of {len(each)} examples, and {len(layouts)} examples")
        return cls(layouts, each, sinks, device)

    def at(self, where: Where, name: str, example: int, layer: int | None = None) -> Bool[Tensor, " row"]:
        """Which rows of an activation are meant.

        name: of a hook point; "language" or "vision" for the positions that attention in there runs over.
        layer: whose sinks are meant.

        Raises VlmProbeError as `layout.positions_of` does, and says of which example.
        """
        key = (where if isinstance(where, str) else tuple(numbers_in(where)), name, example, layer)
        if key not in self._known:
            self._known[key] = self._find(where, name, example, layer)
        return self._known[key]

    def _find(self, where: Where, name: str, example: int, layer: int | None) -> Bool[Tensor, " row"]:
        layout = self.layouts[example]
        sinks = self.sinks.get(layer or 0, ()) if isinstance(self.sinks, Mapping) else self.sinks
        try:
            if name.startswith("language"):
                mask = np.zeros(layout.length, dtype=bool)
                mask[positions_of(layout, where, boxes=self.boxes[example], sinks=sinks)] = True
                mask &= _live(layout)
                if not mask.any():
                    raise VlmProbeError(f"positions {where!r} are padding")
            else:
                mask = _patches(layout, self.boxes[example], where, name)
        except VlmProbeError as error:
            raise VlmProbeError(f"example {example}: {error}" if len(self.layouts) > 1 else str(error)) from error
        return torch.from_numpy(mask).to(self.device)


def _live(layout: TokenLayout) -> np.ndarray:
    """Positions that are no padding: "all", and what is not something, are among them."""
    live = np.zeros(layout.length, dtype=bool)
    live[layout.text_positions] = True
    for span in layout.images:
        live[span.positions] = live[span.extra_positions] = True
    return live


def _patches(layout: TokenLayout, boxes: Sequence[AnyBox], where: Where, name: str) -> np.ndarray:
    """Rows of the encoder's or the connector's activations."""
    if layout.encoded != 1:
        raise VlmProbeError(
            f"in {name} positions are those of one image, and the encoder is given {layout.encoded} of this prompt "
            "(several pictures, or tiles or crops of one)"
        )
    span = layout.image()
    patches = span.cells_at(f"{name}." if "." not in name else name)
    mask = np.zeros(int(patches.max()) + 1, dtype=bool)
    if not isinstance(where, str):
        given = numbers_in(where)
        if not given or not 0 <= min(given) <= max(given) < len(mask):
            raise VlmProbeError(f"rows of {name} must be between 0 and {len(mask) - 1}, got {given}")
        mask[given] = True
    elif where.strip() == "all":
        mask[:] = True
    else:
        at = {int(position): rows for position, rows in zip(span.positions, patches, strict=True)}
        found = positions_of(layout, where, boxes=boxes)
        elsewhere = [p for p in found.tolist() if p not in at]
        if elsewhere:
            raise VlmProbeError(f"{where!r} names positions that are no patches, and {name} has patches alone")
        for position in found.tolist():
            mask[at[position]] = True
    return mask


def given_rows(
    mask: Bool[Tensor, "row position"], start: int, n: int, goes_on: Bool[Tensor, " row"]
) -> Bool[Tensor, "row given"]:
    """The part of a mask over a prompt's positions that a run is given: n from `start` on.

    goes_on: stands for what is generated behind them.
    """
    within = mask[:, start : start + n]
    behind = n - within.shape[1]
    return within if not behind else torch.cat([within, goes_on[:, None].expand(-1, behind)], dim=1)
