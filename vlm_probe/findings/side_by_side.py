"""Several models measured at once, each in a process or an actor of its own, into the parts that a run then reads."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from contextlib import suppress
from functools import partial
from multiprocessing import get_context, parent_process
from multiprocessing.queues import Queue
from pathlib import Path
from queue import Empty
from threading import Thread
from typing import Any

import torch

from vlm_probe.errors import VlmProbeError
from vlm_probe.findings.engine import Only, Run, able_among, asked_of, find, measure_model
from vlm_probe.hooked import HookedVLM
from vlm_probe.items import Item
from vlm_probe.items.item import with_others
from vlm_probe.running.scheduling import LOCAL, Engine, run_shards

_HEARD = 0.5
"""Seconds between two looks at how far the processes are."""


def jobs_for(names: Sequence[str], device: str | None) -> int:
    """How many processes are worth their memory: two, for shipped miniatures on a processor with two cores or more."""
    small = len(names) > 1 and all(name.startswith("replica/") for name in names)
    on_cpu = device == "cpu" or (device is None and not torch.cuda.is_available())
    return 2 if small and on_cpu and (os.cpu_count() or 1) > 1 else 1


def measure_ahead(
    ids: Sequence[str],
    names: Sequence[str],
    items: Sequence[Item],
    *,
    parts: Path,
    load: Callable[[str], HookedVLM],
    seed: int = 0,
    suffix: str = "",
    untrained: bool | None = None,
    only: Only | None = None,
    jobs: int = 2,
    engine: Engine = LOCAL,
    progress: Callable[[int], None] = lambda n: None,
) -> dict[str, float]:
    """Fill the parts from which `run`, given the same, goes on; a process a model, `jobs` of them at a time.

    names, load: of models that are opened in those processes, so that `load` and `only` can be pickled: a function of a
    module, or `functools.partial` of one. engine: Ray takes an actor a model instead, as many as `Engine.actors` says.
    progress: called with how many of `steps` were just done; on Ray a model at a time.

    Returns the seconds that each finding took, of all models. What goes wrong there is left to `run`, which meets it
    again and says it; but for what is wrong with Ray itself, a VlmProbeError.
    """
    given: dict[str, Any] = {
        "seed": seed,
        "suffix": suffix,
        "untrained": untrained,
        "only": only,
        "parts": parts,
        "load": load,
    }
    took = defaultdict[str, float](float)
    if engine.name != "local":

        def done(number: int, ended: tuple[dict[str, float], int]) -> None:
            progress(ended[1])
            for finding, seconds in ended[0].items():
                took[finding] += seconds

        make = partial(_worker, list(ids), list(names), list(items), given)
        run_shards(range(len(names)), make, engine=engine, done=done)
        return dict(took)
    context = get_context("spawn")  # torch does not survive a fork
    heard = context.Queue()
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_begin, initargs=(heard,)) as pool:
        at_work: set[Future[dict[str, float]]] = {
            pool.submit(_measure_one, name, list(ids), list(names), list(items), _say, **given) for name in names
        }
        try:
            while at_work:
                ended, at_work = wait(at_work, timeout=_HEARD)
                _tell(heard, progress)
                for one in ended:
                    for finding, seconds in ({} if one.exception() else one.result()).items():
                        took[finding] += seconds
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    _tell(heard, progress)
    return dict(took)


def _tell(heard: Queue[int], progress: Callable[[int], None]) -> None:
    while True:
        try:
            progress(heard.get_nowait())
        except Empty:
            return


_heard: Queue[int] | None = None
"""In a process that measures: where it says how far it is."""


def _begin(heard: Queue[int]) -> None:
    """In a process that measures, before anything else."""
    global _heard
    _heard = heard
    torch.set_num_threads(1)
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Whoever kills the command is rid of all of it; else this would go on for minutes, and hold its model's parts."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _say(n: int) -> None:
    if _heard is not None:
        _heard.put(n)


def _worker(
    ids: list[str], names: list[str], items: list[Item], given: dict[str, Any]
) -> Callable[[int], tuple[dict[str, float], int]]:
    """What an actor does: a model, by its number; returns the seconds that findings took, and the steps it did."""

    def work(number: int) -> tuple[dict[str, float], int]:
        told: list[int] = []
        try:
            took = _measure_one(names[number], ids, names, items, told.append, **given)
        except Exception:  # as in a process: `run` will meet it again
            took = {}
        return took, sum(told)

    return work


def _measure_one(
    name: str,
    ids: list[str],
    names: list[str],
    items: list[Item],
    progress: Callable[[int], None],
    *,
    seed: int,
    suffix: str,
    untrained: bool | None,
    only: Only | None,
    parts: Path,
    load: Callable[[str], HookedVLM],
) -> dict[str, float]:
    """In a process of its own: all that is asked of one model."""
    result = Run(find(ids), names, with_others(items), seed, suffix=suffix)
    own = [f for f in able_among(result, only) if f.models and name in asked_of(f, names, only)]
    with suppress(VlmProbeError):
        if not own:  # no model is opened that nothing is asked of
            return {}
        measure_model(load(name), name, own, result, untrained=untrained, parts=parts, progress=progress)
    return result.took
