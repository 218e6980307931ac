"""From interventions to what a run does: edges that are cut by layer, and edits of activations by hook point.

Everything that can be wrong with an intervention is found here, before anything runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from numbers import Integral
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from vlm_probe.causal.edits import Edit, head_axis, value_of
from vlm_probe.causal.interventions import Ablate, Intervention, Knockout, Numbers, Replace, Steer
from vlm_probe.causal.positions import Places
from vlm_probe.errors import VlmProbeError
from vlm_probe.hooked import HookedVLM
from vlm_probe.inputs.model_inputs import ModelInputs
from vlm_probe.layout.groups import Where, numbers_in
from vlm_probe.names import dimensions, layer_of
from vlm_probe.running.sliding import window_of

Row = tuple[int, Sequence[Intervention]]
"""One run of an example: its number in the batch, and what is done to it."""
_LAST = ("language.ln_final", "language.hook_logits")


@dataclass
class CutEdges:
    """The edges at which one layer's attention is cut, row by row, over the whole sequence."""

    edges: Bool[Tensor, "#run #head query key"]
    queries_go_on: Bool[Tensor, " run"]
    """Whether what is generated counts among the queries, as the answer position does."""

    def at(self, start: int, n_run: int, n_query: int, n_key: int) -> Bool[Tensor, "#run #head query key"]:
        """The edges from the positions a run is given to those it looks at, of which its own are the last.

        Raises VlmProbeError for a run of another number of rows.
        """
        edges, end = self.edges, start + n_query
        if len(edges) != n_run:
            raise VlmProbeError(f"attention is cut for {len(edges)} examples, and this run has {n_run}")
        new = end - edges.shape[-1]
        if new > 0:
            # A generated token looks as the answer position does, and every later position may look at it.
            later = edges[:, :, -1:] & self.queries_go_on[:, None, None, None]
            edges = torch.cat([edges, later.expand(-1, -1, new, -1)], dim=2)
            edges = torch.cat([edges, edges.new_zeros(*edges.shape[:3], new)], dim=3)
        given = edges[:, :, start:end, max(0, end - n_key) : end]
        room = n_key - given.shape[-1]  # of a cache that has room for what is to come
        return given if not room else torch.cat([given, given.new_zeros(*given.shape[:3], room)], dim=3)


@dataclass
class Plan:
    """What is done in a run: by layer, and by hook point."""

    cuts: dict[tuple[str, int], CutEdges] = field(default_factory=dict)
    """By part ("language", "vision") and layer."""
    edits: list[Edit] = field(default_factory=list)


def begins_at(model: HookedVLM, row: Row, places: Places) -> tuple[int, int]:
    """The first layer of the language model and the first position at which a run differs from one without
    interventions; (-1, 0) where it differs before the sequence is made: in the encoder or the connector.

    Raises VlmProbeError as `plan` does, for what it looks at.
    """
    example, interventions = row
    depth = model.layers["language"]
    layers, positions = [depth - 1], []
    for one in interventions:
        if isinstance(one, Knockout):
            if one.part != "language":
                return -1, 0
            own = numbers_of(one.layers, depth, "layer")
            layers.append(min(own))
            positions += [places.at(one.queries, "language", example, layer) for layer in own]
            continue
        for name in filter(partial(is_read, model), model.match(one.point)):
            own = layer_of(name) if name.startswith("language.") else -1
            layers.append((depth - 1 if name.startswith(_LAST) else 0) if own is None else own)
            # A pattern has a column for every position: where a window slides, a run that goes on has fewer.
            whole = own == -1 or "key" in dimensions(name)
            positions.append(None if whole else places.at(one.positions, name, example, own))
    if min(layers) < 0:
        return -1, 0
    return min(layers), min((0 if mask is None else int(mask.nonzero()[0]) for mask in positions), default=0)


def plan(model: HookedVLM, inputs: ModelInputs, rows: Sequence[Row], places: Places) -> Plan:
    """Check interventions, and lay them out by layer and point, for a run with a row for each of `rows`.

    inputs, places: of the examples that rows number.

    Raises VlmProbeError for an unknown point, layer, head or group of positions, positions that an example does not
    have, a source that lacks the activation or has another shape, edges that nothing looks along, and edges without
    which a position has nothing to look at.
    """
    examples = torch.tensor([example for example, _ in rows], device=model.device)
    made, alike = Plan(), dict[tuple[object, ...], list[tuple[int, Replace | Ablate | Steer]]]()
    for number, (example, interventions) in enumerate(rows):
        for turn, one in enumerate(interventions):
            if isinstance(one, Knockout):
                _add_cut(made, model, inputs, one, places, example, number, len(rows))
            elif isinstance(one, Replace | Ablate | Steer):
                # Of one row each has its turn, and sees what those before it made.
                alike.setdefault((turn, *_told_apart(one)), []).append((number, one))
            else:
                raise VlmProbeError(
                    f"interventions are Knockout, Replace, Ablate and Steer, got a {type(one).__name__}"
                )
    for turn in range(max((len(interventions) for _, interventions in rows), default=0)):
        for key, parts in alike.items():
            if key[0] == turn:
                _add_edits(made, model, inputs, parts, places, examples)
    return made


def is_read(model: HookedVLM, name: str) -> bool:
    """Whether anything depends on a point: on vision layers behind the one that the connector reads nothing does."""
    layer = layer_of(name)
    return not name.startswith("vision.") or layer is None or layer < model.layers_read(name)


def numbers_of(given: Numbers, n: int, what: str) -> list[int]:
    """Numbers of layers or heads; VlmProbeError for one that is not there, for none, and for what is no number."""
    listed: Any = range(n) if given is None else [given] if isinstance(given, Integral) else given
    own: list[Any] = list(listed)
    odd = [one for one in own if isinstance(one, bool) or not isinstance(one, Integral)]
    if odd:
        raise VlmProbeError(f"{what}s are numbers from 0 to {n - 1}, got {odd[0]!r}")
    own = [int(one) for one in own]
    bad = [one for one in own if not 0 <= one < n]
    if bad or not own:
        raise VlmProbeError(f"{what}s are 0 to {n - 1}, got {bad[0] if bad else 'none'}")
    return own


def slides(model: HookedVLM, layer: int) -> bool:
    """Whether a layer of the language model looks back no further than a window."""
    return window_of(model.text_config, layer) is not None


def visible(model: HookedVLM, inputs: ModelInputs, layer: int, example: int) -> Bool[Tensor, "query key"]:
    """Which keys a query of a layer of the language model may look at: those before it, and those that a prompt lets
    see each other (`TokenTypes`), within a sliding window; no padding."""
    live = inputs.attention_mask[example].bool()
    at = torch.arange(len(live), device=live.device)
    back = at[:, None] - at[None, :]
    window, types = window_of(model.text_config, layer), inputs.types
    seen, near = back >= 0, back < (len(live) if window is None else window)
    if types is None:
        seen &= near
    else:
        blocks = types.blocks(inputs.tensors["token_type_ids"][example])
        together = (blocks[:, None] == blocks[None, :]) & (blocks >= 0)[:, None]
        # transformers lets PaliGemma's prompt see all of itself, and Gemma 3's images no further back than the window.
        seen = (seen & near) | together if types.together == "prompt" else (seen | together) & near
    return seen & live[None, :] & live[:, None]


def _goes_on(where: Where, places: Places, example: int, layer: int | None) -> bool:
    """Whether what is generated counts among named positions: where the answer position, after which it stands, does.

    Numbers name positions of the prompt alone.
    """
    if not isinstance(where, str):
        return False
    return bool(places.at(where, "language", example, layer)[places.layouts[example].answer_position])


def _add_cut(
    made: Plan,
    model: HookedVLM,
    inputs: ModelInputs,
    one: Knockout,
    places: Places,
    example: int,
    row: int,
    n: int,
) -> None:
    if one.part not in model.layers:
        raise VlmProbeError(f"part must be {' or '.join(map(repr, reversed(model.layers)))}, got {one.part!r}")
    if one.part != "language" and inputs.pixel_values is None:
        raise VlmProbeError("a knockout in the encoder needs an image in the prompt")
    language = one.part == "language"
    every = model.config_of(one.part).num_attention_heads
    depth = model.layers_read(one.part)
    heads = torch.zeros(1 if one.heads is None else every, dtype=torch.bool, device=model.device)
    heads[slice(None) if one.heads is None else numbers_of(one.heads, every, "head")] = True
    cuts, of_kind = False, dict[object, Tensor]()
    for layer in numbers_of(one.layers, depth, "layer"):
        # What a layer's queries may look at, and which positions are sinks, is alike in most layers.
        kind = (slides(model, layer) if language else None, layer if isinstance(places.sinks, Mapping) else None)
        if kind not in of_kind:
            edges = _edges(one, places, example, layer)
            seen = visible(model, inputs, layer, example) if language else torch.ones_like(edges)
            cuts |= bool((seen & edges).any())
            of_kind[kind] = heads[:, None, None] & edges
            _check_seeing(one, seen, of_kind[kind], layer, example)
        edges = of_kind[kind]
        own = made.cuts.get((one.part, layer))
        if own is None:
            nothing = torch.zeros(n, *edges.shape, dtype=torch.bool, device=edges.device)
            own = made.cuts[one.part, layer] = CutEdges(nothing, nothing[:, 0, 0, 0].clone())
        if own.edges.shape[1] != len(heads):  # some cut all heads, some cut a few
            own.edges = own.edges.expand(-1, every, -1, -1).clone()
        own.edges[row] |= edges
        own.queries_go_on[row] |= language and _goes_on(one.queries, places, example, layer)
    if not cuts:  # of some layers a sliding window alone may keep them apart
        raise VlmProbeError(f"{one!r} cuts nothing in example {example}: none of these queries looks at these keys")


def _edges(one: Knockout, places: Places, example: int, layer: int) -> Bool[Tensor, "query key"]:
    queries, keys = (places.at(where, one.part, example, layer) for where in (one.queries, one.keys))
    edges = queries[:, None] & keys[None, :]
    if one.paired:
        if isinstance(one.queries, str | int) or isinstance(one.keys, str | int) or len(one.queries) != len(one.keys):
            raise VlmProbeError(f"{one.part} edges that pair up are as many numbers of queries as of keys")
        edges = torch.zeros_like(edges)
        edges[list(one.queries), list(one.keys)] = True
    return edges


def _check_seeing(one: Knockout, seen: Tensor, edges: Tensor, layer: int, example: int) -> None:
    blind = (seen.any(-1) & ~(seen & ~edges).any(-1)).any(0)
    if blind.any():
        raise VlmProbeError(
            f"{one!r} leaves position {int(blind.nonzero()[0])} of example {example} nothing to look at in layer "
            f"{layer}; leave it itself, or another position"
        )


def _told_apart(one: Replace | Ablate | Steer) -> tuple[object, ...]:
    """Interventions alike in this differ in their positions alone, and are one edit of many rows."""
    common = (type(one), one.point, None if isinstance(one, Steer) else str(one.heads))
    if isinstance(one, Replace):
        return (*common, id(one.source), one.source_point)
    if isinstance(one, Steer):
        return (*common, id(one.direction), one.strength, one.norm_matched)
    # The mean of a group is another one than that of another group.
    where = one.positions if isinstance(one.positions, str) else tuple(numbers_in(one.positions))
    return (*common, one.by, id(one.reference), where)


def _add_edits(
    made: Plan,
    model: HookedVLM,
    inputs: ModelInputs,
    parts: list[tuple[int, Replace | Ablate | Steer]],
    places: Places,
    examples: Int[Tensor, " run"],
) -> None:
    one = parts[0][1]
    names = [name for name in model.match(one.point, image=inputs.pixel_values is not None) if is_read(model, name)]
    if not names:
        raise VlmProbeError(f"{one!r} changes nothing: the connector reads no layer of the encoder behind these")
    for name in names:
        masks = {
            number: places.at(each.positions, name, int(examples[number]), layer_of(name)) for number, each in parts
        }
        rows = torch.zeros(len(examples), len(masks[parts[0][0]]), dtype=torch.bool, device=model.device)
        for number, mask in masks.items():
            rows[number] |= mask
        heads = None
        if not isinstance(one, Steer) and one.heads is not None:
            head_axis(name)
            config: Any = model.config_of(name)
            grouped = getattr(config, "num_key_value_heads", None) if name.endswith(("_k", "_v")) else None
            heads = numbers_of(one.heads, grouped or config.num_attention_heads, "head")
        goes_on = torch.zeros(len(examples), dtype=torch.bool, device=model.device)
        if name.startswith("language."):
            for number, each in parts:
                goes_on[number] |= _goes_on(each.positions, places, int(examples[number]), layer_of(name))
        made.edits.append(Edit(name, rows, goes_on, value_of(model, inputs, one, name, places, examples), heads))
