"""What stands at a kind of position on average, over many items: what an ablation puts in its place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vlm_probe.errors import VlmProbeError
from vlm_probe.hooked import HookedVLM
from vlm_probe.inputs.model_inputs import ModelInputs
from vlm_probe.layout import TokenLayout
from vlm_probe.names import layer_of

KINDS = ("image", "register", "question", "prompt", "answer")
"""Of positions, as `layout.groups` names them; registers are what the model keeps beside the patches."""

Labels = Callable[[TokenLayout, int], Int[np.ndarray, " position"]]
"""(layout, layer) -> the number of each position's kind; -1 for those of none."""


def kinds_of(layout: TokenLayout, layer: int = 0) -> Int[np.ndarray, " position"]:
    """The number among `KINDS` of every position, in any layer; -1 for padding."""
    found = np.full(layout.length, -1, dtype=np.int64)
    found[layout.text_positions] = KINDS.index("prompt")
    found[layout.question_positions] = KINDS.index("question")
    for span in layout.images:
        found[span.positions] = KINDS.index("image")
        found[span.extra_positions] = KINDS.index("register")
    found[layout.answer_position] = KINDS.index("answer")
    return found


@torch.no_grad()
def mean_rows(
    model: HookedVLM, batches: Iterator[ModelInputs], names: Sequence[str], labels: Labels, count: int
) -> dict[str, Float[Tensor, "kind ..."]]:
    """The mean row of language points at each of `count` kinds of positions, over all examples; NaN of a kind without
    one. Only sums are kept."""
    sums: dict[str, Tensor] = {}
    numbers = {name: torch.zeros(count, device=model.device) for name in names}
    for inputs in batches:

        def add(x: Tensor, hook: Any, name: str, inputs: ModelInputs = inputs) -> None:
            at = _labels(inputs.layouts, labels, name).to(x.device).flatten()
            rows = x.float().flatten(0, 1)[at >= 0]
            zero = rows.new_zeros(count, *rows.shape[1:])
            sums[name] = sums.get(name, zero).index_add(0, at[at >= 0], rows)
            numbers[name] += torch.bincount(at[at >= 0], minlength=count)

        with model.hooks(fwd_hooks=[(name, partial(add, name=name)) for name in names]):
            model(inputs, logits_to_keep=1)
    return {name: total / numbers[name].reshape(-1, *[1] * (total.ndim - 1)) for name, total in sums.items()}


def spread(
    mean: Float[Tensor, "kind ..."], layouts: Sequence[TokenLayout], labels: Labels, name: str
) -> Float[Tensor, "example position ..."]:
    """Every position's mean row, to replace what a point has there; zero at positions of no kind.

    Raises VlmProbeError for a kind that has no mean.
    """
    at = _labels(layouts, labels, name).to(mean.device)
    if not mean[at[at >= 0].unique()].isfinite().all():
        raise VlmProbeError(f"{name} has no mean row of a kind of positions: there is none to take it of")
    return torch.where((at >= 0).reshape(*at.shape, *[1] * (mean.ndim - 1)), mean[at.clamp(0)], mean.new_zeros(()))


def _labels(layouts: Sequence[TokenLayout], labels: Labels, name: str) -> Int[Tensor, "example position"]:
    return torch.from_numpy(np.stack([labels(layout, layer_of(name) or 0) for layout in layouts]))
