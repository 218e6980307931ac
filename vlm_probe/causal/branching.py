"""Many edited runs of the same examples, each from where it begins to differ.

Below the first layer that an intervention changes, and before the first position, a run is what it was without it: what
is there is computed once for all of them. Runs that begin at one layer go through the model together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import DynamicCache

from vlm_probe.causal.applying import Boxes, carried_out
from vlm_probe.causal.planning import Row, begins_at, plan
from vlm_probe.causal.positions import Places, Sinks
from vlm_probe.errors import VlmProbeError
from vlm_probe.hooked import HookedVLM
from vlm_probe.hooked.continuing import is_touched, starting_at
from vlm_probe.inputs.model_inputs import ModelInputs
from vlm_probe.running.asking import check_numbers

ROWS_AT_ONCE = 64
"""Edited runs that go through the model together."""
_WASTE = 1.5
"""By how much a run may be lengthened to go with others."""


def repeated(inputs: ModelInputs, examples: Sequence[int]) -> ModelInputs:
    """A batch with a row for each of these numbers of examples.

    Raises VlmProbeError where a prompt has several images, or none and others one.
    """
    at = torch.as_tensor(list(examples), device=inputs.input_ids.device)
    pixels = inputs.pixel_values
    if pixels is not None:
        if any(len(layout.pictures) != 1 for layout in inputs.layouts):
            raise VlmProbeError("examples are repeated with one image each; a prompt here has another number")
        counts = [layout.encoded for layout in inputs.layouts]
        begins = np.cumsum([0, *counts])
        pixels = pixels[np.concatenate([np.arange(begins[i], begins[i] + counts[i]) for i in examples])]
    return replace(
        inputs,
        input_ids=inputs.input_ids[at],
        attention_mask=inputs.attention_mask[at],
        pixel_values=pixels,
        image_sizes=None if inputs.image_sizes is None else inputs.image_sizes[at],
        layouts=[inputs.layouts[i] for i in examples],
        images=[inputs.images[i] for i in examples] if inputs.images else [],
        prompts=[inputs.prompts[i] for i in examples] if inputs.prompts else [],
    )


class Branches:
    """A batch that has run once, and goes on from there with interventions.

    inputs: a left-padded batch whose answer position is its last (as `prepare` makes it), one image an example.
    boxes, sinks: as `causal.applied` takes them.
    exact: run everything anew for every row, as a single run would: the slow way, to hold the other against.
    """

    def __init__(
        self,
        model: HookedVLM,
        inputs: ModelInputs,
        *,
        boxes: Boxes = None,
        sinks: Sinks = (),
        rows_at_once: int = ROWS_AT_ONCE,
        exact: bool = False,
    ):
        last = inputs.input_ids.shape[1] - 1
        if any(layout.answer_position != last for layout in inputs.layouts):
            raise VlmProbeError("examples must end with their answer position; pad on the left, as prepare does")
        self.model, self.inputs, self.rows_at_once, self.exact = model, inputs, rows_at_once, exact
        self.places = Places.of(inputs.layouts, boxes, sinks, model.device)
        self._cache = DynamicCache()
        names = [f"language.blocks.{layer}.hook_resid_pre" for layer in range(model.layers["language"])]
        with torch.no_grad():
            # Not the model's own kind of cache: of layers that look back no further than a window it keeps no more.
            given = {} if exact else {"use_cache": True, "past_key_values": self._cache}
            output, cache = model.run_with_cache(inputs, names_filter=names, logits_to_keep=1, **given)
        self._entering = [cache[name] for name in names]
        self.logits: Float[Tensor, "example vocabulary"] = output.logits[:, -1].float()
        """Of the answer position, without interventions."""
        check_numbers(model, self.logits)

    @torch.no_grad()
    def run(
        self, rows: Sequence[Row], *, progress: Callable[[int], None] | None = None
    ) -> Float[Tensor, "row vocabulary"]:
        """Logits (float32) of the answer position for every row: an example's number, and what is done to it.

        progress: called with the number of rows just done.

        Raises VlmProbeError as `planning.plan` does.
        """
        begins = [begins_at(self.model, row, self.places) for row in rows]
        if self.inputs.types is not None:  # what stands before a change sees it, too
            begins = [(layer, 0) for layer, _ in begins]
        # Late ones first: those that begin about as late go together, from the earliest of them.
        order = sorted(range(len(rows)), key=lambda i: (begins[i][0], -begins[i][1]))
        found: list[Tensor | None] = [None] * len(rows)
        length = self.inputs.input_ids.shape[1]
        while order:
            layer, late = begins[order[0]]
            reach = length - _WASTE * (length - late)
            some = [i for i in order[: self.rows_at_once] if begins[i][0] == layer and begins[i][1] >= reach]
            order = order[len(some) :]
            start = begins[some[-1]][1]
            for i, logits in zip(some, self._run([rows[i] for i in some], layer, start), strict=True):
                found[i] = logits
            if progress is not None:
                progress(len(some))
        return torch.stack([one for one in found if one is not None]) if rows else self.logits[:0]

    def _run(self, rows: list[Row], layer: int, start: int) -> Tensor:
        model, examples = self.model, [example for example, _ in rows]
        made = plan(model, self.inputs, rows, self.places)
        # What is hooked from outside may change what lies below: then nothing is known of it.
        if layer < 0 or self.exact or is_touched(model):
            with carried_out(model, made):
                return model(repeated(self.inputs, examples), logits_to_keep=1).logits[:, -1].float()
        at = torch.as_tensor(examples, device=model.device)
        given: dict[str, Any] = {
            "inputs_embeds": self._entering[layer][at, start:],
            "attention_mask": self.inputs.attention_mask[at],
            "use_cache": False,
        }
        if self.inputs.types is not None:
            given["token_type_ids"] = self.inputs.tensors["token_type_ids"][at]
        if start:
            given |= {"past_key_values": self._before(start, at), "use_cache": True}
        with carried_out(model, made), starting_at(model, layer):
            return model(logits_to_keep=1, **given).logits[:, -1].float()

    def _before(self, start: int, examples: Tensor) -> DynamicCache:
        """Keys and values of all positions before one, without interventions: a causal model's do not depend on what
        follows."""
        past, layers = DynamicCache(), list[Any](self._cache.layers)
        for number, layer in enumerate(layers):
            past.update(layer.keys[examples, :, :start], layer.values[examples, :, :start], number)
        return past
