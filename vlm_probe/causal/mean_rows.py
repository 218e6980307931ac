"""What sweeps over many items share: which items can be run, what stands at a kind of position on average, and what a
run did to the answer beside what it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vlm_probe.causal.outcomes import Sought, outcomes
from vlm_probe.errors import VlmProbeError
from vlm_probe.files import writable
from vlm_probe.hooked import HookedVLM
from vlm_probe.inputs.preparing import ModelInputs
from vlm_probe.items import Item
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


def prepared(model: HookedVLM, items: Sequence[Item], suffix: str) -> ModelInputs:
    """Items as a batch."""
    return model.prepare(list[Any](map(model.picture, items)), [item.question + suffix for item in items])


class Able:
    """Items that can be run, batch by batch; the others are named with the reason in `left`."""

    def __init__(self, items: Sequence[Item], check: Callable[[Item], object], batch_size: int):
        if batch_size < 1:
            raise VlmProbeError(f"batch_size must be at least 1, got {batch_size}")
        self.left: list[str] = []
        self.batches: list[list[Item]] = []
        self.sizes: list[int] = []
        """Of every batch with those left out, for a progress callback."""
        for start in range(0, len(items), batch_size):
            batch = []
            for item in items[start : start + batch_size]:
                try:
                    check(item)
                    batch.append(item)
                except VlmProbeError as error:
                    self.left.append(f"item {item.id}: {error}")
            self.batches.append(batch)
            self.sizes.append(len(items[start : start + batch_size]))
        if not any(self.batches):
            raise VlmProbeError(f"no item can be run; {self.left[0] if self.left else 'there is none'}")

    def each(self, progress: Callable[[int], None] | None = None) -> Iterator[list[Item]]:
        """The batches that hold an item. progress: called with the number of items just done."""
        for batch, size in zip(self.batches, self.sizes, strict=True):
            if batch:
                yield batch
            if progress is not None:
                progress(size)


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


def beside(
    table: pd.DataFrame,
    after: Float[Tensor, "row vocabulary"],
    before: Float[Tensor, "example vocabulary"],
    sought: Sequence[Sought],
) -> pd.DataFrame:
    """A table of runs, whose column `example` numbers what they are runs of, with what they did to the answer.

    Adds probability, probability_before, logit_difference, logit_difference_before, drop (of the logit difference:
    above 0 where the answer lost), flipped (another token is said than before); takes `example` away.
    """
    examples = table["example"].to_numpy()
    new = outcomes(after, [sought[i] for i in examples])
    old = outcomes(before, sought).iloc[examples].reset_index(drop=True)
    return table.drop(columns="example").assign(
        probability=new["probability"],
        probability_before=old["probability"],
        logit_difference=new["logit_difference"],
        logit_difference_before=old["logit_difference"],
        drop=old["logit_difference"] - new["logit_difference"],
        flipped=new["says"] != old["says"],
    )


def check_item(model: HookedVLM, suffix: str, item: Item) -> TokenLayout:
    """The layout of an item's prompt; VlmProbeError where its answer is no token, or it has not one image."""
    Sought.of(model, item)
    layout = prepared(model, [item], suffix).layout
    if len(layout.images) != 1:
        raise VlmProbeError(f"its prompt has {len(layout.images)} images, and one is taken")
    return layout


def describe(table: pd.DataFrame, model: HookedVLM, able: Able, title: str, units: str, source: str, seed: int) -> None:
    """Fill a table's `attrs`: what it is of, and which items are not in it."""
    about = {"title": title, "units": units, "citation": source, "seed": seed, **model.provenance()}
    table.attrs.update(writable(about) | {"items": sum(map(len, able.batches)), "left_out": able.left})
