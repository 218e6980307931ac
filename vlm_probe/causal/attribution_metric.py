"""What two runs are compared by: a number of each example, as a small value, and whether the runs may be compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vlm_probe.errors import VlmProbeError
from vlm_probe.hooked import HookedVLM, anatomy
from vlm_probe.hooked.targets import target_token
from vlm_probe.inputs.model_inputs import ModelInputs

Metric = Callable[[Tensor], Tensor]
"""From logits at the answer position [example, vocabulary] to a number of every example [example], differentiable;
each example's of its own logits alone."""


@dataclass(frozen=True)
class LogitDifference:
    """The logit of one token minus that of another; a token for all examples, or one an example.

    >>> LogitDifference((1,), (0, 2))(torch.tensor([[1.0, 5.0, 0.0], [0.0, 5.0, 2.0]]))
    tensor([4., 3.])
    """

    answers: tuple[int, ...]
    others: tuple[int, ...]

    @classmethod
    def of(
        cls, model: HookedVLM, answers: int | str | Sequence[int | str], others: int | str | Sequence[int | str]
    ) -> LogitDifference:
        """From ids or texts (the token that begins it behind the prompt); VlmProbeError as `target_token` raises."""
        logits = torch.empty(len(anatomy.unembedding(model)), device="meta")

        def tokens(given: int | str | Sequence[int | str]) -> tuple[int, ...]:
            each = [given] if isinstance(given, int | str) else given
            return tuple(target_token(model, one, logits) for one in each)

        return cls(tokens(answers), tokens(others))

    @classmethod
    def between(
        cls, clean: Float[Tensor, "example vocabulary"], corrupt: Float[Tensor, "example vocabulary"]
    ) -> LogitDifference:
        """Of what one run would say over what the other would.

        Raises VlmProbeError for an example in which both say the same.
        """
        answers, others = clean.argmax(-1).tolist(), corrupt.argmax(-1).tolist()
        same = [i for i, (a, b) in enumerate(zip(answers, others, strict=True)) if a == b]
        if same:
            raise VlmProbeError(
                f"both runs of example {same[0]} are answered with token {answers[same[0]]}; give a metric: "
                "LogitDifference.of(model, clean's answer, corrupt's answer)"
            )
        return cls(tuple(answers), tuple(others))

    def __call__(self, logits: Float[Tensor, "example vocabulary"]) -> Float[Tensor, " example"]:
        """VlmProbeError for another number of examples than of tokens."""
        return self._of(logits, self.answers) - self._of(logits, self.others)

    def _of(self, logits: Tensor, tokens: tuple[int, ...]) -> Tensor:
        if len(tokens) not in (1, len(logits)):
            raise VlmProbeError(f"the metric has tokens of {len(tokens)} examples, and there are {len(logits)}")
        each = torch.tensor(tokens, device=logits.device).expand(len(logits))
        return logits.gather(-1, each[:, None])[:, 0]


def measured(metric: Metric, logits: Float[Tensor, "example vocabulary"]) -> Float[Tensor, " example"]:
    """A metric's numbers; VlmProbeError where it does not give one of each example."""
    found = metric(logits)
    if not isinstance(found, Tensor) or found.shape != logits.shape[:1]:
        got = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise VlmProbeError(f"the metric takes logits [example, vocabulary] to numbers [{len(logits)}], it gave {got}")
    return found


def check_alike(clean: ModelInputs, corrupt: ModelInputs) -> None:
    """VlmProbeError for batches in which not every position means the same, or that do not end with the answer's."""
    if clean.input_ids.shape != corrupt.input_ids.shape:
        raise VlmProbeError(
            f"clean has {list(clean.input_ids.shape)} examples and positions, corrupt {list(corrupt.input_ids.shape)}; "
            "patching takes prompts that are laid out alike"
        )
    if (clean.pixel_values is None) != (corrupt.pixel_values is None):
        raise VlmProbeError("one of clean and corrupt has an image, the other none")
    last = clean.input_ids.shape[1] - 1
    for example, (one, other) in enumerate(zip(clean.layouts, corrupt.layouts, strict=True)):
        places = [(layout.image_positions.tolist(), layout.text_positions.tolist()) for layout in (one, other)]
        if places[0] != places[1]:
            raise VlmProbeError(f"clean and corrupt are laid out differently in example {example}")
        if {one.answer_position, other.answer_position} != {last}:
            raise VlmProbeError(f"the answer position of example {example} is not the last; pad on the left")
