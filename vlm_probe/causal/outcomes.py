"""What an intervention does to an answer: its probability, its lead over another answer, and what is said instead."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from vlm_probe.errors import VlmProbeError
from vlm_probe.hooked import HookedVLM
from vlm_probe.hooked.targets import target_token
from vlm_probe.items import Item


@dataclass(frozen=True)
class Sought:
    """The token that begins an answer, and those that begin other answers."""

    token: int
    rivals: tuple[int, ...] = ()
    """The answer's lead is over the strongest of these; over any other token where there is none."""

    @classmethod
    def of(cls, model: HookedVLM, item: Item) -> Sought:
        """An item's right answer, and its distractors (those that begin with another token of the vocabulary).

        Raises VlmProbeError for an answer that does not begin with a token of the model's vocabulary.
        """
        nothing = torch.empty(0)
        token = target_token(model, item.answer, nothing)
        others = dict[int, None]()
        for text in item.distractors:
            with suppress(VlmProbeError):
                others[target_token(model, text, nothing)] = None
        return cls(token, tuple(one for one in others if one != token))


def logit_differences(logits: Float[Tensor, "row vocabulary"], sought: Sequence[Sought]) -> Float[Tensor, " row"]:
    """The logit of each row's answer less that of its strongest rival."""
    found = []
    for row, one in zip(logits, sought, strict=True):
        if one.rivals:
            rival = row[list(one.rivals)].max()
        else:
            others = row.clone()
            others[one.token] = -torch.inf
            rival = others.max()
        found.append(row[one.token] - rival)
    return torch.stack(found)


def outcomes(logits: Float[Tensor, "row vocabulary"], sought: Sequence[Sought]) -> pd.DataFrame:
    """A row a run: probability (of the answer's first token), logit_difference (see `Sought`), says (most probable
    token's id) and right (whether that is the answer's)."""
    tokens = torch.tensor([one.token for one in sought], device=logits.device)
    says = logits.argmax(-1)
    return pd.DataFrame(
        {
            "probability": logits.softmax(-1).gather(1, tokens[:, None])[:, 0].double().cpu().numpy(),
            "logit_difference": logit_differences(logits, sought).double().cpu().numpy(),
            "says": says.cpu().numpy(),
            "right": (says == tokens).cpu().numpy(),
        }
    )
