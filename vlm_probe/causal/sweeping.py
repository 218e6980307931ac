"""What sweeps over many items share: which of them can be run, batch by batch, and what a run did to the answer beside
what it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from vlm_probe.causal.outcomes import Sought, outcomes
from vlm_probe.errors import VlmProbeError
from vlm_probe.files import writable
from vlm_probe.hooked import HookedVLM
from vlm_probe.inputs.model_inputs import ModelInputs
from vlm_probe.items import Item
from vlm_probe.layout import TokenLayout

Given = TypeVar("Given")
Found = TypeVar("Found")


def prepared(model: HookedVLM, items: Sequence[Item], suffix: str) -> ModelInputs:
    """Items as a batch."""
    return model.prepare(list[Any](map(model.picture, items)), [item.question + suffix for item in items])


class Able(Generic[Given, Found]):
    """Items, or pairs of them, batch by batch, of those that can be run; the others are named in `left_out`.

    check: what is needed of one; VlmProbeError where it cannot be run.
    what, name: how one is named: "item", its id.
    """

    def __init__(
        self,
        given: Sequence[Given],
        check: Callable[[Given], Found],
        batch_size: int,
        *,
        what: str = "item",
        name: Callable[[Any], str] = lambda item: item.id,
    ):
        if batch_size < 1:
            raise VlmProbeError(f"batch_size must be at least 1, got {batch_size}")
        self.given, self.check, self.batch_size, self.what, self.name = given, check, batch_size, what, name
        self._wrong: dict[int, str] = {}

    @property
    def left_out(self) -> list[str]:
        """Those that could not be run, with the reason, as far as batches were taken."""
        return [self._wrong[i] for i in sorted(self._wrong)]

    def leave_out(self, one: Given, reason: object) -> None:
        """Name one that turned out later not to be of use."""
        for number, other in enumerate(self.given):
            if other is one:
                self._wrong[number] = f"{self.what} {self.name(one)}: {reason}"

    def __len__(self) -> int:
        """How many are not left out."""
        return len(self.given) - len(self._wrong)

    def each(self, progress: Callable[[int], None] | None = None) -> Iterator[tuple[list[Given], list[Found]]]:
        """Batches of one at least: what was given, and what was found of it. Only a batch at a time is held.

        progress: called with the number of items just done, those that are left out among them.

        Raises VlmProbeError in the end where none could be run.
        """
        for start in range(0, len(self.given), self.batch_size):
            some = self.given[start : start + self.batch_size]
            able, found = [], []
            for one in some:
                try:
                    found.append(self.check(one))
                    able.append(one)
                except VlmProbeError as error:
                    self.leave_out(one, error)
            if able:
                yield able, found
            if progress is not None:
                progress(len(some))
        self.some()

    def some(self) -> None:
        """VlmProbeError where none is left."""
        if not len(self):
            raise VlmProbeError(f"no {self.what} can be run; {[*self.left_out, 'there is none'][0]}")

    def describe(self, table: pd.DataFrame, model: HookedVLM, *, title: str, units: str, **about: str | int) -> None:
        """Fill a table's `attrs`: what it is of, and which are not in it."""
        own = {"title": title, "units": units, **about, **model.provenance()}
        table.attrs.update(writable(own) | {f"{self.what}s": len(self), "left_out": self.left_out})


def check_item(model: HookedVLM, suffix: str, item: Item) -> TokenLayout:
    """The layout of an item's prompt; VlmProbeError where its answer is no token, or it has not one image."""
    Sought.of(model, item)
    layout = prepared(model, [item], suffix).layout
    if len(layout.pictures) != 1:
        raise VlmProbeError(f"its prompt has {len(layout.pictures)} images, and one is taken")
    return layout


def beside(
    table: pd.DataFrame,
    after: Float[Tensor, "row vocabulary"],
    before: Float[Tensor, "example vocabulary"],
    sought: Sequence[Sought],
) -> pd.DataFrame:
    """A table of runs, whose column `example` numbers what they are runs of, with what they did to the answer.

    Adds probability, probability_before, change (of the probability), logit_difference, logit_difference_before,
    change_logit (of the logit difference; both changes are below 0 where the answer lost), flipped (another token is
    said than before), right and right_before (the one that was sought is said); takes `example` away.
    """
    examples = table["example"].to_numpy()
    new = outcomes(after, [sought[i] for i in examples])
    old = outcomes(before, sought).iloc[examples].reset_index(drop=True)
    return table.drop(columns="example").assign(
        probability=new["probability"],
        probability_before=old["probability"],
        change=new["probability"] - old["probability"],
        logit_difference=new["logit_difference"],
        logit_difference_before=old["logit_difference"],
        change_logit=new["logit_difference"] - old["logit_difference"],
        flipped=new["says"] != old["says"],
        right=new["right"],
        right_before=old["right"],
    )
