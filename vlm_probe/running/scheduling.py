"""Work in numbered shards, done here one after the other, or by the actors of a Ray cluster.

A shard must be idempotent: what a killed worker began, another does again from the start. Only numbers travel to the
workers, and what they return travels back; tensors are theirs to write.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TypeVar

from vlm_probe.errors import VlmProbeError
from vlm_probe.running.on_ray import connected, run_on_ray

T = TypeVar("T")

ENGINES = ("local", "ray")


@dataclass(frozen=True)
class Engine:
    """Where shards are done.

    Raises VlmProbeError for a name that is none of `ENGINES`, numbers that are too small, and an address, actors or
    GPUs without Ray.
    """

    name: str = "local"
    """"local": in this process, in order. "ray": by actors, in any order."""
    address: str | None = None
    """Of a running Ray cluster ("auto", "host:port", "ray://..."), which is left running; None: one is started on this
    machine, and ended. Where this process is connected to a cluster already, that one serves."""
    actors: int | None = None
    """How many workers, each with a model of its own. None: as many as the cluster's GPUs serve; without a GPU as many
    as its processors, of which a cluster that is started here has four at most."""
    gpus: int | float | None = None
    """GPUs an actor, which may be a fraction; None: 1 where the cluster has any, else 0."""
    cpus: int | float = 1
    """Processors an actor, and threads of torch in it (one at least): answers are those of a process with as many
    threads, to the bit."""

    def __post_init__(self) -> None:
        if self.name not in ENGINES:
            raise VlmProbeError(f"no engine {self.name!r}; there are {' and '.join(ENGINES)}")
        if self.name != "ray" and (self.address, self.actors, self.gpus) != (None, None, None):
            raise VlmProbeError(f"an address, actors and GPUs are for engine ray; the engine is {self.name}")
        if self.actors is not None and self.actors < 1:
            raise VlmProbeError(f"actors must be 1 or more, got {self.actors}")
        if self.gpus is not None and self.gpus < 0:
            raise VlmProbeError(f"GPUs an actor must be 0 or more, got {self.gpus:g}")
        if self.cpus <= 0:
            raise VlmProbeError(f"processors an actor must be more than 0, got {self.cpus:g}")


LOCAL = Engine()


def check_engine(engine: Engine) -> None:
    """VlmProbeError where the engine is Ray, and Ray is not installed: said before the work, not after it."""
    if engine.name == "ray" and find_spec("ray") is None:
        raise VlmProbeError("engine ray needs Ray: pip install 'vlm-probe[ray]'")


@contextmanager
def cluster(engine: Engine) -> Iterator[None]:
    """Hold the engine's cluster, so that several `run_shards` share it; nothing where the engine is local.

    Raises VlmProbeError where Ray is not installed, or the cluster cannot be reached.
    """
    check_engine(engine)
    if engine.name == "local":
        yield
        return
    with connected(engine.address, actors=engine.actors, cpus=engine.cpus):
        yield


def _nothing(number: int, result: object) -> None:
    pass


def run_shards(
    numbers: Sequence[int],
    make: Callable[[], Callable[[int], T]],
    *,
    engine: Engine = LOCAL,
    done: Callable[[int, T], None] = _nothing,
) -> None:
    """Do every shard; one whose worker is killed is done again.

    Parameters
    ----------
    make: makes a worker, which does a shard by its number; called once here, or once in every actor, where it and what
        the worker returns are pickled. What it warns of there is not heard; what shards warn of is.
    done: called in this process with each shard's number and what its worker returned, as it ends.

    Raises
    ------
    VlmProbeError: from a worker, as it is and never tried again; Ray that is not installed, cannot be reached, or has
        no machine with what an actor takes; a shard that lost its worker again and again.
    Whatever else a worker or `done` raises. In any case no actor goes on.
    """
    check_engine(engine)
    if not numbers:
        return
    if engine.name == "local":
        work = make()
        for number in numbers:
            done(number, work(number))
        return
    with cluster(engine):
        run_on_ray(numbers, make, done=done, actors=engine.actors, gpus=engine.gpus, cpus=engine.cpus)
