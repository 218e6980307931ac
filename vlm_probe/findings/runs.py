"""Hypotheses measured on models, one after the other or all at once, and judged: `findings.run`."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch

from vlm_probe.errors import VlmProbeError
from vlm_probe.evidence import Tables
from vlm_probe.findings.engine import Model, Only, Run, able_among, asked_of, find, measure_model
from vlm_probe.findings.side_by_side import measure_ahead
from vlm_probe.findings.skipped import Skipped
from vlm_probe.hooked import HookedVLM
from vlm_probe.items import Item
from vlm_probe.items.item import with_others
from vlm_probe.opening import load as open_model
from vlm_probe.running.scheduling import LOCAL, Engine


def run(
    ids: Sequence[str],
    models: Sequence[Model],
    items: Sequence[Item] = (),
    *,
    seed: int = 0,
    suffix: str = "",
    untrained: bool | None = None,
    only: Only | None = None,
    parts: Path | None = None,
    engine: Engine = LOCAL,
    load: Callable[[str], HookedVLM] = open_model,
    progress: Callable[[int], None] | None = None,
) -> Run:
    """Measure findings on models and items. A finding or model that lacks something is skipped, and says what it lacks.

    Parameters
    ----------
    ids: of `FINDINGS`.
    models: names (opened one at a time by `load`) or models; pairs are every other against the first.
    items: of scenes (`generated_items`) or any benchmark's reader; each finding takes those it can be measured on.
    suffix: appended to every question (see `items.suffix_of`).
    untrained: whether an untrained copy is measured beside every model; None: beside replicas, where it is cheap.
    only: the names of the models that a finding is measured on, of those given and first the one that the others are
        compared with; all without.
    parts: a folder for finished parts, from which a killed run goes on to the identical result.
    engine: where models are measured (`running.scheduling`), to the identical result. On Ray an actor takes a model,
        given by its name, which `load` (a function that can be pickled) opens there; this process then reads the parts,
        which a cluster of several machines must write to a folder of a disk they share.
    progress: called with how many of `steps` were just done.

    Raises
    ------
    VlmProbeError: an unknown finding, no finding that could be measured (with what each would take), parts of
        another run, two models of one name; an open model on Ray, or Ray that cannot be used.
    """
    began, chosen = time.monotonic(), find([ids] if isinstance(ids, str) else ids)
    models = [models] if isinstance(models, str | HookedVLM) else list(models)
    names = [model if isinstance(model, str) else str(model.name) for model in models]
    for name in names:
        if names.count(name) > 1:
            raise VlmProbeError(f"{name} is given twice; models are told apart by their names")
    if engine.name != "local":
        if opened := [name for model, name in zip(models, names, strict=True) if not isinstance(model, str)]:
            raise VlmProbeError(f"engine {engine.name} opens models in other processes; give {opened[0]} by its name")
        with nullcontext(parts) if parts is not None else TemporaryDirectory() as folder:
            given: dict[str, Any] = {"seed": seed, "suffix": suffix, "untrained": untrained, "only": only, "load": load}
            given["parts"] = Path(folder)
            asked = [finding.id for finding in chosen]
            took = measure_ahead(asked, names, items, engine=engine, progress=progress or (lambda n: None), **given)
            result = run(asked, names, items, **given)
        result.seconds, result.took = time.monotonic() - began, {**result.took, **took}
        return result
    result = Run(chosen, names, with_others(items), seed, suffix=suffix)
    able = able_among(result, only)
    for finding in able:
        if not finding.models:
            # Protocols tell functions apart by their names alone, so that isinstance would say yes to either kind.
            measure = cast(Callable[[], dict[str, Tables]], finding.measure)
            try:
                result.measured[finding.id] = measure()
            except VlmProbeError as error:
                result.skipped.append(Skipped(finding.id, "", str(error)))
    able = [finding for finding in able if finding.models]
    for model, name in zip(models, names, strict=True) if able else ():
        opened = load(model) if isinstance(model, str) else model
        own = [finding for finding in able if name in asked_of(finding, names, only)]
        result.provenance[name] = opened.provenance()
        measure_model(opened, name, own, result, untrained=untrained, parts=parts, progress=progress)
        del opened
        if isinstance(model, str):  # one at a time: two real ones rarely fit together, and what has a cycle stays
            gc.collect()
            torch.cuda.empty_cache()
    for finding in able:  # models were opened in one order, and a finding compares in its own
        for of in (result.measured, result.untrained):
            if tables := of.get(finding.id):
                of[finding.id] = {name: tables[name] for name in asked_of(finding, names, only) if name in tables}
    if not any(result.measured.values()):
        why = "; ".join(map(str, result.skipped)) or "no finding is named"
        raise VlmProbeError(f"nothing could be measured; {why}")
    result.seconds = time.monotonic() - began
    return result
