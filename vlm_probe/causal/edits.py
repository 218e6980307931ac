"""Edits of one activation: which rows get new values, and which values those are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from vlm_probe.causal.interventions import Ablate, Replace, Source, Steer
from vlm_probe.causal.positions import Places, given_rows
from vlm_probe.errors import VlmProbeError
from vlm_probe.hooked import HookedVLM
from vlm_probe.inputs.model_inputs import ModelInputs
from vlm_probe.layout import TokenLayout
from vlm_probe.names import dimensions, layer_of, sequence_axis
from vlm_probe.trace import Trace

Value = Callable[[Tensor, int], Tensor]
"""(an activation, the first position it has) -> what its rows become; of its shape, or one that broadcasts to it."""


def head_axis(name: str) -> int:
    """The axis of an activation's heads; VlmProbeError where it has none."""
    if "head" not in dimensions(name):
        raise VlmProbeError(f"{name} has no heads; attn.hook_q, hook_k, hook_v, hook_z and hook_pattern have some")
    return dimensions(name).index("head")


@dataclass
class Edit:
    """What is done to one activation: some rows get new values."""

    name: str
    rows: Bool[Tensor, "row position"]
    goes_on: Bool[Tensor, " row"]
    """Whether what is generated counts among the positions."""
    new: Value
    heads: list[int] | None = None

    def __call__(self, x: Tensor, start: int) -> Tensor:
        """The activation with those rows changed; `start`: the first position it has.

        Raises VlmProbeError for a run of another number of rows.
        """
        axis = sequence_axis(self.name)
        mask = given_rows(self.rows, start, x.shape[axis], self.goes_on)
        if len(mask) != len(x):
            raise VlmProbeError(f"{self.name} is edited for {len(mask)} examples, and this run has {len(x)}")
        mask = mask.unflatten(0, (-1, 1)) if axis == 2 else mask  # behind the heads, in scores and patterns
        mask = mask.reshape(*mask.shape, *[1] * (x.ndim - mask.ndim))
        if self.heads is not None:
            which = torch.zeros(x.shape[head_axis(self.name)], dtype=torch.bool, device=x.device)
            which[self.heads] = True
            mask = mask & which.reshape([-1 if i == head_axis(self.name) else 1 for i in range(x.ndim)])
        return torch.where(mask, self.new(x, start).to(x.dtype), x)


def value_of(
    model: HookedVLM,
    inputs: ModelInputs,
    one: Replace | Ablate | Steer,
    name: str,
    places: Places,
    examples: Int[Tensor, " row"],
) -> Value:
    """What rows become. examples: the number of the example that each row of the run is one of."""
    if isinstance(one, Steer):
        return _steered(one, name, model)
    if isinstance(one, Replace):
        if isinstance(one.source, ModelInputs):
            layouts = one.source.layouts * (len(places.layouts) if len(one.source) == 1 else 1)
            if len(layouts) == len(places.layouts):
                _check_laid_out(one, layouts, name, places)
        source = _of_examples(activation_of(model, one.source, one.source_point or name), name, places, one)
        return _from_source(source, sequence_axis(name), examples)
    if one.by == "zero":
        return lambda x, start: x.new_zeros(())
    if one.by not in ("mean", "resample"):
        raise VlmProbeError(f"by must be 'mean', 'resample' or 'zero', got {one.by!r}")
    given = inputs if one.reference is None else one.reference
    source = activation_of(model, given, name)
    if one.by == "mean":
        row = _mean(source, given, one, name, places)
        return lambda x, start: row.to(x)
    source = _of_examples(source, name, places, one)
    if len(source) < 2:
        raise VlmProbeError(f"{one!r} takes the next example's rows, and there is one example; give a reference")
    if isinstance(given, ModelInputs):
        _check_laid_out(one, [*given.layouts[1:], given.layouts[0]], name, places)
    return _from_source(source.roll(-1, 0), sequence_axis(name), examples)


def activation_of(model: HookedVLM, source: Source, name: str) -> Tensor:
    """An activation from a source; VlmProbeError where it does not hold it."""
    if isinstance(source, Tensor):
        return source
    if isinstance(source, ModelInputs):
        with torch.no_grad():
            return model.run_with_cache(source, names_filter=name, logits_to_keep=1)[1][name]
    if isinstance(source, Trace):
        return source[name]
    if name not in source:
        raise VlmProbeError(f"the source holds no {name}; it holds {', '.join(list(source)[:3]) or 'nothing'}")
    return source[name].detach()


def _check_laid_out(one: Replace | Ablate, layouts: Sequence[TokenLayout], name: str, places: Places) -> None:
    """VlmProbeError where the rows that are taken from a run, laid out so, are not what they are put in place of."""
    if not name.startswith("language."):
        return  # patches stand alike whatever is around them
    for example, (own, other) in enumerate(zip(places.layouts, layouts, strict=True)):
        if _laid(own) != _laid(other):
            there = Places([other], [places.boxes[example]], places.sinks, places.device)
            rows = there.at(one.positions, name, 0, layer_of(name))
            if rows.tolist() != places.at(one.positions, name, example, layer_of(name)).tolist():
                raise VlmProbeError(f"{one!r} takes rows of a prompt that is laid out otherwise: of another length")


def _laid(layout: TokenLayout) -> list[list[int]]:
    return [layout.image_positions.tolist(), layout.text_positions.tolist()]


def _of_examples(source: Tensor, name: str, places: Places, one: object) -> Tensor:
    """A source that has every example's positions, checked."""
    dims, axis, n = dimensions(name), sequence_axis(name), len(places.layouts)
    length = max(len(places.at("all", name, example)) for example in range(n))
    if source.ndim != len(dims) or source.shape[axis] != length or len(source) not in (1, n):
        raise VlmProbeError(
            f"the source of {one!r} has shape {list(source.shape)}; it takes {', '.join(dims)} with {n} examples and "
            f"{length} positions: activations of a run whose prompt is laid out alike"
        )
    return source


def _from_source(source: Tensor, axis: int, examples: Int[Tensor, " row"]) -> Value:
    def new(x: Tensor, start: int) -> Tensor:
        own = source.to(x)
        own = own if len(own) == 1 else own[examples.to(own.device)]
        n = x.shape[axis]
        others = [i for i in range(1, x.ndim) if i != axis]
        if [own.shape[i] for i in others] != [x.shape[i] for i in others]:
            raise VlmProbeError(
                f"a source of shape {list(own.shape)} does not fit an activation of shape {list(x.shape)}: it is "
                "another point's, or (of patterns) of a run that has other positions"
            )
        own = own.narrow(axis, min(start, own.shape[axis]), max(0, min(n, own.shape[axis] - start)))
        if own.shape[axis] < n:  # of what is generated the source knows nothing
            rest = x.narrow(axis, own.shape[axis], n - own.shape[axis])
            own = torch.cat([own.expand(len(x), *own.shape[1:]), rest], dim=axis)
        return own

    return new


def _mean(source: Tensor, given: object, one: Ablate, name: str, places: Places) -> Tensor:
    """The mean over examples and positions, as one row of the activation."""
    axis = sequence_axis(name)
    if isinstance(given, ModelInputs):
        boxes = places.boxes if len(given) == len(places.layouts) else [()] * len(given)
        places = Places(given.layouts, boxes, places.sinks, places.device)
    each = [places.at(one.positions, name, example, layer_of(name)) for example in range(len(places.layouts))]
    there = torch.stack(each)[: len(source)]
    if source.shape[axis] != there.shape[1] or len(source) != len(there):
        raise VlmProbeError(
            f"the reference of {one!r} has shape {list(source.shape)}, and {list(there.shape)} positions"
        )
    chosen = source.movedim(axis, 1)[there]
    if len(chosen) < 2:
        raise VlmProbeError(f"{one!r} is the mean of one row, which is that row; give a reference, or more examples")
    return chosen.mean(0)[None, None].movedim(1, axis)


def _steered(one: Steer, name: str, model: HookedVLM) -> Value:
    direction = one.direction.to(model.device)
    if direction.ndim != 1 or not direction.isfinite().all() or not direction.any() or not isfinite(one.strength):
        said = f"got shape {list(direction.shape)} and strength {one.strength}"
        raise VlmProbeError(f"a direction is a row of numbers [feature], not all zero, times a number; {said}")

    def new(x: Tensor, start: int) -> Tensor:
        if x.shape[-1] != len(direction):
            raise VlmProbeError(f"the direction has {len(direction)} features, {name} has {x.shape[-1]}")
        own = direction.to(x)
        if one.norm_matched:
            own = own / own.norm() * x.norm(dim=-1, keepdim=True)
        return x + one.strength * own

    return new
