"""Interventions as values: what is changed, where, in which layers. `causal.run` and `causal.applied` carry them out.

>>> Knockout("answer", "image", layers=range(2, 5))
Knockout('answer' -/-> 'image', language layers 2-4)
>>> Ablate("language.blocks.3.hook_mlp_out", "box")
Ablate(language.blocks.3.hook_mlp_out at 'box', by mean)

Positions are named as everywhere (`layout.positions_of`): "image", "box", "question & ~answer", a word of the question,
or numbers. In the encoder and the connector positions are patches: "image", "box", "background" and "all" (there with
CLS and registers), or numbers of rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral

from torch import Tensor

from vlm_probe.inputs.model_inputs import ModelInputs
from vlm_probe.layout.groups import Where
from vlm_probe.trace import Trace

Numbers = int | Sequence[int] | range | None
"""Of layers or heads; None for all of them."""
Source = Tensor | Mapping[str, Tensor] | Trace | ModelInputs
"""Where activations come from: as a tensor, a cache or a trace that holds them, or inputs that are run for them."""


def _said(where: Where) -> str:
    return (
        repr(where)
        if isinstance(where, str)
        else f"{len(where)} positions"
        if isinstance(where, Sequence)
        else str(where)
    )


def _numbers(numbers: Numbers, what: str) -> str:
    if numbers is None:
        return f"all {what}s"
    if isinstance(numbers, Integral):
        return f"{what} {numbers}"
    own: list[int] = [*numbers]  # pyright: ignore[reportGeneralTypeIssues]
    if len(own) > 1 and own == list(range(own[0], own[-1] + 1)):
        return f"{what}s {own[0]}-{own[-1]}"
    return f"{what}{'s' * (len(own) != 1)} {', '.join(map(str, own))}"


@dataclass(frozen=True, repr=False)
class Knockout:
    """Queries do not see keys: attention knockout (Geva et al. 2023, arXiv:2304.14767).

    The scores of the edges are masked before the softmax, so that their weight is exactly zero and rows still sum to
    one. A position that would be left nothing to look at is an error.

    paired: queries and keys are numbers that pair up, an edge each; else every query is kept from every key.
    """

    queries: Where
    keys: Where
    layers: Numbers = None
    heads: Numbers = None
    part: str = "language"
    paired: bool = False

    def __repr__(self) -> str:
        heads = "" if self.heads is None else f", {_numbers(self.heads, 'head')}"
        layers = _numbers(self.layers, "layer")
        if self.paired:
            return f"Knockout({len(list(self.queries))} edges, {self.part} {layers}{heads})"  # pyright: ignore[reportArgumentType]
        return f"Knockout({_said(self.queries)} -/-> {_said(self.keys)}, {self.part} {layers}{heads})"


@dataclass(frozen=True, eq=False, repr=False)
class Replace:
    """An activation is that of another run: activation patching (Vig et al. 2020; Meng et al. 2022, arXiv:2202.05262).

    point: a hook point's name, or globs of several.
    positions: where; of the source the same positions are taken.
    source: `Source`; a tensor has the shape of the activation, a first dimension of one counts for every example.
    heads: of points that have some; None for all.
    source_point: the point the source is read at, if that is another one (back-patching: Biran et al. 2024,
        arXiv:2406.12775, give a later layer's activation to an earlier one).
    """

    point: str
    positions: Where
    source: Source
    heads: Numbers = None
    source_point: str | None = None

    def __repr__(self) -> str:
        heads = "" if self.heads is None else f", {_numbers(self.heads, 'head')}"
        read = "" if self.source_point is None else f" at {self.source_point}"
        return f"Replace({self.point} at {_said(self.positions)}{heads}, from a {type(self.source).__name__}{read})"


@dataclass(frozen=True, eq=False, repr=False)
class Ablate:
    """An activation loses what it says of this example.

    by: "mean" (of the rows at these positions, over all examples and positions of `reference`; Wang et al. 2022,
        arXiv:2211.00593), "resample" (the rows of the reference's next example, at the same positions; Chan et al.
        2022, causal scrubbing) or "zero".
    reference: what it is taken from; the run's own inputs if None, which takes two examples for "resample" and more
        than one row for "mean".
    """

    point: str
    positions: Where
    by: str = "mean"
    heads: Numbers = None
    reference: Source | None = None

    def __repr__(self) -> str:
        heads = "" if self.heads is None else f", {_numbers(self.heads, 'head')}"
        return f"Ablate({self.point} at {_said(self.positions)}{heads}, by {self.by})"


@dataclass(frozen=True, eq=False, repr=False)
class Steer:
    """A direction is added to an activation (Turner et al. 2023, arXiv:2308.10248).

    direction: [feature].
    strength: how often it is added; with `norm_matched`, how long it is beside the row that it is added to.
    """

    point: str
    direction: Tensor
    strength: float | int = 1.0
    norm_matched: bool = False
    positions: Where = "all"

    def __repr__(self) -> str:
        matched = ", of the row's length" if self.norm_matched else ""
        return f"Steer({self.point} at {_said(self.positions)}, x {self.strength:g}{matched})"


Intervention = Knockout | Replace | Ablate | Steer
