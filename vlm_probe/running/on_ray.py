"""Shards on Ray: Ray Data hands their numbers to a pool of actors. Ray is imported here alone, when it is asked for."""

from __future__ import annotations

import logging
import math
import os
import pickle
import socket
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from vlm_probe.errors import VlmProbeError, VlmProbeWarning, first_line

if TYPE_CHECKING:
    import pyarrow

T = TypeVar("T")

RETRIES = 3
"""How often a shard that lost its worker is given to another; it may be the shard that kills them."""
_PROCESSORS = 4
"""Of a cluster that is started here, at most, where no number of actors is asked for: each has a model in memory."""
_STORE = 128 << 20
"""Bytes of that cluster's object store. Numbers and small results are all that is in it."""
_PATIENCE = 10
"""Seconds in which a cluster's address must answer."""
_ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}
"""While we hold a connection: nothing is sent to Ray's makers, and its C++ writes no logs to the terminal."""


def _ray() -> Any:
    import ray
    import ray.data

    return ray


@contextmanager
def connected(address: str | None, *, actors: int | None, cpus: int | float) -> Iterator[None]:
    """Hold a connection to a cluster; the one that this process has already is used, and left as it is.

    actors, cpus: for how many, and of how many processors each, one that is started here has room.

    Raises VlmProbeError where none can be started or reached.
    """
    ray = _ray()
    if ray.is_initialized():
        yield
        return
    before = {name: os.environ.get(name) for name in _ENVIRONMENT}
    os.environ.update({name: value for name, value in _ENVIRONMENT.items() if before[name] is None})
    try:
        _connect(ray, address, actors, cpus)
        yield
    finally:
        ray.shutdown()  # ends the cluster if it was started here, and in any case our actors
        for name in [name for name, value in before.items() if value is None]:
            os.environ.pop(name, None)


def _connect(ray: Any, address: str | None, actors: int | None, cpus: int | float) -> None:
    given: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    if address is not None:
        given["address"] = address
    else:
        own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        # Else RAY_ADDRESS, or a cluster that someone left running here, would be joined.
        given |= {"address": "local", "include_dashboard": False, "object_store_memory": _STORE}
        given["num_cpus"] = min(own, _PROCESSORS) if actors is None else math.ceil(actors * cpus)
    where = "start a Ray cluster here" if address is None else f"reach a Ray cluster at {address}"
    for last in (address is not None, True):  # on a busy machine Ray's own patience ends before it is up
        try:
            _check_listening(address)
            with warnings.catch_warnings(), _no_stderr():
                warnings.simplefilter("ignore")  # about defaults of later versions
                ray.init(**given)
            return
        except Exception as error:  # Ray raises that itself
            ray.shutdown()
            if last:
                raise VlmProbeError(f"cannot {where}: {first_line(error)}") from error


def _check_listening(address: str | None) -> None:
    """OSError where nobody listens at host:port; Ray would wait for minutes, and end the process."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=_PATIENCE).close()


@contextmanager
def _no_stderr() -> Iterator[None]:
    """Ray's C++ says which log level it was given, before it keeps to it."""
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def _actors(ray: Any, actors: int | None, gpus: int | float, cpus: int | float) -> int:
    """How many actors to start. VlmProbeError where no machine of the cluster has what one takes."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    room = 0
    for has in machines:
        by = [has.get("CPU", 0) / cpus, *([has.get("GPU", 0) / gpus] if gpus else [])]
        room += int(min(by) + 1e-9)  # 1 / 0.1 actors of a tenth are ten
    if not room:
        most = [max((has.get(what, 0) for has in machines), default=0) for what in ("CPU", "GPU")]
        raise VlmProbeError(
            f"an actor takes {cpus:g} processors and {gpus:g} GPUs, and no machine of the Ray cluster has both: "
            f"the most is {most[0]:g} and {most[1]:g}"
        )
    return room if actors is None else actors


class _Begun:
    """How often shards were begun: an actor of its own, which outlives workers that are killed."""

    def __init__(self) -> None:
        self.times = Counter[int]()

    def begin(self, number: int) -> int:
        self.times[number] += 1
        return self.times[number]


class _Actor:
    """A worker in an actor. It is made when the first shard comes: a model that cannot be opened is a shard's error."""

    def __init__(self, make: bytes, begun: Any, path: list[str], threads: int) -> None:
        self.make, self.begun, self.path, self.threads = make, begun, path, threads
        self.work: Callable[[int], Any] | None = None

    def __call__(self, batch: pyarrow.Table) -> pyarrow.Table:
        import pyarrow as pa

        number, times = batch["item"][0].as_py(), 0
        try:
            times = self._times(number)
            if self.work is None:
                self.work = self._begin()
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always", VlmProbeWarning)
                result = self.work(number)
            heard = [str(one.message) for one in said if issubclass(one.category, VlmProbeWarning)]
            ended = pickle.dumps((result, None, heard))
        except Exception as error:
            # Returned, not raised: Ray would wrap it in its own, and print it.
            ended = pickle.dumps((None, _sendable(error), []))
        return pa.table({"number": [number], "times": [times], "ended": [ended]})

    def _times(self, number: int) -> int:
        """How often the shard was begun. VlmProbeError where that is enough: Ray would go on for ever."""
        times: int = _ray().get(self.begun.begin.remote(number))
        if times > 1 + RETRIES:
            raise VlmProbeError(
                f"a shard lost its worker {1 + RETRIES} times, as it does where memory is too short for so many models "
                "at once: take fewer actors"
            )
        return times

    def _begin(self) -> Callable[[int], Any]:
        import torch

        torch.set_num_threads(self.threads)
        # Ray tells its workers of the folder of the script and the one it was begun in, and of no other.
        sys.path += [folder for folder in self.path if folder not in sys.path]
        return pickle.loads(self.make)()


def _sendable(error: Exception) -> Exception:
    """The error as another process can read it, with where it was raised unless it is the user's."""
    where = "in an actor:\n" + "".join(traceback.format_exception(error))
    try:
        sent = pickle.loads(pickle.dumps(error))
    except Exception:
        kind, name = (VlmProbeError, "") if isinstance(error, VlmProbeError) else (RuntimeError, type(error).__name__)
        sent = kind(f"{name}: {error}" if name else str(error))
    if not isinstance(error, VlmProbeError):
        sent.add_note(where)
    return sent


def run_on_ray(
    numbers: Sequence[int],
    make: Callable[[], Callable[[int], T]],
    *,
    done: Callable[[int, T], None],
    actors: int | None,
    gpus: int | float | None,
    cpus: int | float,
) -> None:
    """As `run_shards`, on the cluster that this process is connected to; `Engine` says what actors, GPUs, cpus are."""
    ray = _ray()
    if gpus is None:
        gpus = 1 if ray.cluster_resources().get("GPU", 0) >= 1 else 0
    pool = min(len(numbers), _actors(ray, actors, gpus, cpus))
    try:
        pickled = ray.cloudpickle.dumps(make)
    except (TypeError, AttributeError, pickle.PicklingError) as error:
        raise VlmProbeError(f"what makes a worker cannot be sent to an actor: {first_line(error)}") from error
    lost = False
    begun = ray.remote(num_cpus=0)(_Begun).remote()
    worker = (pickled, begun, list(sys.path), max(1, int(cpus)))
    try:
        with _quiet(ray), closing(_results(ray, numbers, worker, cpus, gpus, pool)) as results:
            for row in results:
                result, error, heard = pickle.loads(row["ended"])
                if error is not None:
                    raise error
                if row["times"] > 1 and not lost:
                    lost = True
                    warnings.warn("a worker of Ray was killed; its shard was done again", VlmProbeWarning, stacklevel=3)
                for text in heard:
                    warnings.warn(text, VlmProbeWarning, stacklevel=3)
                done(row["number"], result)
    except ray.exceptions.RayError as error:
        raise VlmProbeError(f"Ray gave up: {first_line(error)}") from error
    finally:
        ray.kill(begun)


def _results(
    ray: Any, numbers: Sequence[int], worker: tuple[Any, ...], cpus: int | float, gpus: int | float, actors: int
) -> Generator[dict[str, Any], None, None]:
    """Shards as they end: their numbers, and what `_Actor` says of them. Closed early, it ends the actors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # A block a shard: what is lost with an actor is one shard, and each is told of when it ends.
        table = ray.data.from_items(list(numbers), override_num_blocks=len(numbers)).map_batches(
            _Actor,
            fn_constructor_args=worker,
            batch_size=1,
            batch_format="pyarrow",  # NumPy's would cut zeros off the end of bytes
            # One at a time: shards that wait in an actor's queue would wait while another actor is idle.
            compute=ray.data.ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=1),
            num_cpus=cpus,
            num_gpus=gpus or None,
        )
    batches = iter(table.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0))
    try:
        for batch in batches:
            yield from batch.to_pylist()
    finally:
        if hasattr(batches, "close"):
            batches.close()


@contextmanager
def _quiet(ray: Any) -> Iterator[None]:
    """Nothing of Ray's on the terminal, which is ours: its logs are in its session's folder."""
    context = ray.data.DataContext.get_current()
    worker = ray._private.worker
    consoles = [one for one in logging.getLogger("ray.data").handlers if one.name == "console"]
    silent = {"enable_progress_bars": False, "print_on_execution_start": False}
    told = {name: getattr(context, name) for name in silent if hasattr(context, name)}
    levels = [one.level for one in consoles]
    enabled = getattr(worker, "_worker_logs_enabled", True)
    for name in told:
        setattr(context, name, silent[name])
    for one in consoles:
        one.setLevel(logging.CRITICAL + 1)
    worker._worker_logs_enabled = False  # of a worker that was killed it says ten lines on stdout
    try:
        yield
    finally:
        worker._worker_logs_enabled = enabled
        for one, level in zip(consoles, levels, strict=True):
            one.setLevel(level)
        for name, value in told.items():
            setattr(context, name, value)
