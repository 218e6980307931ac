"""Many items through a model, a batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vlm_probe.items import Item
from vlm_probe.layout import TokenLayout
from vlm_probe.running.protocol import Runs


@dataclass
class Batch:
    """Some items that have just run."""

    start: int
    """Number of the first of them."""
    items: Sequence[Item]
    layouts: list[TokenLayout]
    activations: Mapping[str, Tensor]


@torch.no_grad()
def run_batches(
    model: Runs,
    items: Sequence[Item],
    names: list[str],
    *,
    batch_size: int,
    progress: Callable[[int], None] | None = None,
) -> Iterator[Batch]:
    """Items run a batch at a time, with the activations of some hook points; only one batch is ever held.

    progress: called with the number of items just done.
    """
    for start in range(0, len(items), batch_size):
        batch = items[start : start + batch_size]
        inputs = model.prepare(list[Any](map(model.picture, batch)), [item.question for item in batch])
        _, cache = model.run_with_cache(inputs, names_filter=names)
        yield Batch(start, batch, inputs.layouts, cache)
        if progress is not None:
            progress(len(batch))
