"""Carrying interventions out: `run` once, or whatever is run within `applied`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import Tensor
from transformer_lens.hook_points import HookPoint

from vlm_probe.causal.edits import Edit
from vlm_probe.causal.interventions import Intervention
from vlm_probe.causal.planning import CutEdges, Plan, plan
from vlm_probe.causal.positions import Places, Sinks
from vlm_probe.hooked import HookedVLM
from vlm_probe.hooked.continuing import Progress, cut, following
from vlm_probe.hooked.proof import must_fire
from vlm_probe.inputs.model_inputs import ModelInputs
from vlm_probe.layout.boxes import AnyBox
from vlm_probe.running.protocol import NamesFilter

Boxes = Sequence[AnyBox] | Sequence[Sequence[AnyBox]] | None


@contextmanager
def carried_out(model: HookedVLM, made: Plan) -> Iterator[None]:
    """Meanwhile runs of the model are changed as a plan says."""

    def edges(own: CutEdges, progress: Progress | None, n_run: int, n_query: int, n_key: int) -> Tensor:
        return own.at(0 if progress is None else progress.start, n_run, n_query, n_key)

    def change(edit: Edit, progress: Progress | None, x: Tensor, hook: HookPoint) -> Tensor:
        if progress is None:
            return edit(x, 0)
        # Of the logits only the last ones may be made.
        return edit(x, progress.end - x.shape[1] if edit.name == "language.hook_logits" else progress.start)

    with ExitStack() as stack:
        progress = stack.enter_context(following(model))
        for (part, layer), own in made.cuts.items():
            stack.enter_context(cut(model, part, layer, partial(edges, own, progress if part == "language" else None)))
        hooks: list[Any] = [
            (edit.name, partial(change, edit, progress if edit.name.startswith("language.") else None))
            for edit in made.edits
        ]
        # Where another attention function runs, or a compiled graph, nothing would be cut: the point says so.
        hooks += [(f"{part}.blocks.{layer}.attn.hook_z", must_fire) for part, layer in made.cuts]
        stack.enter_context(model.hooks(fwd_hooks=hooks))
        yield


@contextmanager
def applied(
    model: HookedVLM,
    inputs: ModelInputs,
    interventions: Sequence[Intervention],
    *,
    boxes: Boxes = None,
    sinks: Sinks = (),
) -> Iterator[Plan]:
    """Meanwhile the model is changed by interventions: in forward passes, in `generate`, under gradients.

    Interventions are carried out in their order, also those of contexts within each other; each sees what those before
    it made. What is taken from a run of its own (a `ModelInputs` as source or reference, a mean over the inputs) is
    taken before, in the outer contexts alone. Whatever is run must have the examples of `inputs`; with gradient
    checkpointing `backward` must run within. A token that is generated counts among named positions where the answer
    position does, in whose place it stands; numbers name positions of the prompt alone.

    Parameters
    ----------
    inputs: one example or a batch, as it will be run.
    boxes: for "box" and "background": of the only example, or a sequence of boxes for every one.
    sinks: for "sink": positions, or positions by layer.

    Raises VlmProbeError before anything is run; see `planning.plan`.
    """
    places = Places.of(inputs.layouts, boxes, sinks, model.device)
    made = plan(model, inputs, [(example, interventions) for example in range(len(inputs))], places)
    with carried_out(model, made):
        yield made


def run(
    model: HookedVLM,
    inputs: ModelInputs,
    interventions: Sequence[Intervention] = (),
    *,
    names_filter: NamesFilter = (),
    boxes: Boxes = None,
    sinks: Sinks = (),
    **kwargs: Any,
) -> tuple[Any, dict[str, Tensor]]:
    """Run a batch once with interventions: the model's output, and the activations that `names_filter` names.

    Activations are as the interventions left them. None names all; other arguments are the model's.

    Raises VlmProbeError as `applied` and `run_with_cache` do.
    """
    with applied(model, inputs, interventions, boxes=boxes, sinks=sinks):
        if names_filter is not None and not isinstance(names_filter, str) and not callable(names_filter):
            names_filter = list(names_filter)
            if not names_filter:
                return model(inputs, **kwargs), {}
        return model.run_with_cache(inputs, names_filter=names_filter, **kwargs)
