"""What a run could not measure, and items that a model cannot be asked: said, and never at the cost of all the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from vlm_probe.errors import VlmProbeError
from vlm_probe.hooked import HookedVLM
from vlm_probe.hooked.targets import target_token
from vlm_probe.items import Item, suffix_of


@dataclass(frozen=True)
class Skipped:
    """A finding that could not be measured, on a model or on any (""), and what it would take."""

    finding: str
    model: str
    reason: str

    def __str__(self) -> str:
        return f"{self.finding} on {self.model}: {self.reason}" if self.model else f"{self.finding}: {self.reason}"


@dataclass(frozen=True)
class LeftOut:
    """An item that a model cannot be asked; findings that need it were measured without it."""

    item: str
    model: str
    reason: str

    def __str__(self) -> str:
        return f"item {self.item} is left out, for {self.model}: {self.reason}"


def unaskable(model: HookedVLM, items: Iterable[Item], suffix: str) -> list[LeftOut]:
    """The items whose picture, question or answer a model cannot take, each with the reason."""
    found = []
    for item in items:
        try:
            model.prepare(model.picture(item), item.question + suffix_of(item, suffix))
            target_token(model, item.answer, torch.empty(0))
        except VlmProbeError as error:
            found.append(LeftOut(item.id, str(model.name), str(error)))
    return found


def left_out_lines(left: Sequence[LeftOut], n: int) -> list[str]:
    """How many of n items were left out, by model and reason, a line each."""
    counts = Counter((one.model, one.reason) for one in left)
    return [f"{count} of {n} items, for {model}: {reason}" for (model, reason), count in counts.items()]
