"""The hook points a HookedVLM declares: those of `vlm_probe.names`, and nothing else."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import torch
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint

from vlm_probe import names
from vlm_probe.errors import VlmProbeError


class Point(HookPoint):
    """TransformerLens' hook point, which knows its layer behind our prefixes and whether it has been called."""

    def __init__(self):
        super().__init__()
        self.fired = False
        """Whether it has been called; whoever asks sets it back before a run."""

    def forward(self, x: Tensor) -> Tensor:
        self.fired = True
        return super().forward(x)

    def layer(self) -> int:
        """The layer this point belongs to, counted within its tower.

        Raises VlmProbeError for a point that is in no block, or stands alone and has no name.
        """
        found = None if self.name is None else names.layer_of(self.name)
        if found is None:
            raise VlmProbeError(f"the hook point {self.name!r} is in no block, so it has no layer")
        return found


def is_hooked(point: HookPoint) -> bool:
    """Whether anything is hooked here."""
    return bool(point._forward_hooks or point._backward_hooks)


def is_active(point: HookPoint) -> bool:
    """Whether a point is to be fed: an idle one is never called.

    Nor is any while torch.compile traces: its graph would go on with what is hooked now when that is hooked no more.
    """
    return is_hooked(point) and not torch.compiler.is_compiling()


class Points(nn.Module):
    """Hook points by dotted name ("attn.hook_q"), nested as their names are; declared in the order of the names."""

    def __init__(self, declared: Iterable[str]):
        super().__init__()
        self.declared = tuple(declared)
        for name in self.declared:
            *above, last = name.split(".")
            owner: nn.Module = self
            for part in above:
                if part not in owner._modules:
                    owner.add_module(part, Points(()))
                owner = owner.get_submodule(part)
            owner.add_module(last, Point())

    def __getitem__(self, name: str) -> Point:
        point = self.get_submodule(name)
        assert isinstance(point, Point)
        return point

    def any_active(self) -> bool:
        return any(is_active(m) for m in self.modules() if isinstance(m, HookPoint))


class TowerPoints(Points):
    """Points of a vision encoder or a language model: its own, and those of every block."""

    def __init__(self, n_layers: int, own: Iterable[str], *, absent: Collection[str]):
        embed, *behind = own
        super().__init__((embed,))
        block = [name for name in names.BLOCK if name not in absent]
        self.blocks = nn.ModuleList(Points(block) for _ in range(n_layers))
        # What follows the blocks is declared behind them: names come in the order in which they fire.
        for name, child in Points(behind).named_children():
            self.add_module(name, child)

    def block(self, layer: int) -> Points:
        found = self.blocks[layer]
        assert isinstance(found, Points)
        return found


def vision_points(n_layers: int, absent: Collection[str] = ()) -> TowerPoints:
    return TowerPoints(n_layers, names.VISION, absent=(*names.ROTARY, *absent))


def language_points(n_layers: int, absent: Collection[str] = ()) -> TowerPoints:
    return TowerPoints(n_layers, names.LANGUAGE, absent=absent)


def connector_points(own: Collection[str]) -> Points:
    return Points(name for name in names.CONNECTOR if name in own)
