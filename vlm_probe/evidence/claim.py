"""A claim: a sentence, and everything that decides whether it holds, fixed before anything is measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vlm_probe.evidence.statistics import Statistic


@dataclass(frozen=True)
class Claim:
    """What a finding claims of a model, or of a model against the first one."""

    id: str
    """Short, and one of a kind within its finding."""
    sentence: str
    """With {model}, or for a pair {first} and {second}."""
    statistic: Statistic
    control: str
    """What the value is held against, in words."""
    unit: str
    """Of replication, in the plural: what the interval counts ("images", "training seeds")."""
    of: Literal["model", "pair"] = "model"
    margin: float = 0.0
    """The smallest difference that would matter, in the value's unit; of a whole interval inside it: equivalent."""
    least: int = 20
    """Fewer clusters than this decide nothing."""
    descriptive: bool = False
    """Whether it is a number to know, not a question to decide."""
    more: bool = True
    """Whether the sentence says that the difference is positive."""
    requires: tuple[str, ...] = ()
    """Claims of the same finding that must be supported, or this one is undecided."""
    untrained: bool = True
    """Whether an untrained copy of the model that shows the same takes the verdict away."""
    about: tuple[str, ...] = ()
    """Of a finding that opens no model: which of its tables it is about, by their names ("the paper"); (): all."""
