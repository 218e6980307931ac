"""Long trainings side by side, each in a process of its own, which leaves its log in a file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from vlm_probe.errors import VlmProbeError
from vlm_probe.files import make_folder

T = TypeVar("T")


@dataclass
class Job:
    """A training under way."""

    about: str
    process: subprocess.Popen[bytes]
    log: Path


def start(arguments: Sequence[str], about: str, log: Path, threads: int) -> Job:
    """Start `vlm-probe <arguments>` with so many threads; what it writes goes to the end of a log."""
    make_folder(log.parent)
    command = [sys.executable, "-m", "vlm_probe", *arguments]
    with log.open("ab") as out:
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment)
    return Job(about, process, log)


def begin_arm(study: str, arm: str, seed: int, runs: Path, device: str, log: Path, threads: int) -> Job:
    """Begin an arm of a study, from one seed, in a process of its own."""
    arguments = ["study", study, "--arm", arm, "--first-seed", str(seed), "--runs", str(runs), "--device", device]
    return start(arguments, f"{arm} (seed {seed})", log, threads)


def run_all(
    waiting: Sequence[T],
    begin: Callable[[T, int], Job],
    *,
    jobs: int,
    finished: Callable[[T], None] | None = None,
) -> None:
    """Begin everything that waits, in order, `jobs` at a time, each with its share of the processor's cores.

    begin: takes what is next, and the number of its threads.

    Raises VlmProbeError where one fails: it names its log, and the others are stopped.
    """
    left, running = list(waiting), list[tuple[T, Job]]()
    threads = max(1, (os.cpu_count() or 1) // jobs)
    with _sigterm_noted() as told:
        try:
            while left or running:
                while left and len(running) < jobs:
                    following = left.pop(0)
                    running.append((following, begin(following, threads)))
                time.sleep(0.5)
                if told:
                    sys.exit(128 + signal.SIGTERM)
                for one, job in [pair for pair in running if pair[1].process.poll() is not None]:
                    running.remove((one, job))
                    if job.process.returncode != 0:
                        last = job.log.read_text(errors="replace").strip().splitlines()[-1:] or ["it wrote nothing"]
                        raise VlmProbeError(f"training {job.about} failed; {job.log}: {last[0]}")
                    if finished is not None:
                        finished(one)
        finally:
            for _, job in running:
                job.process.terminate()
            for _, job in running:
                job.process.wait()


@contextmanager
def _sigterm_noted() -> Iterator[list[int]]:
    """A list that a `kill` of this process adds to, so that it can end its children before itself."""
    told: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # no other may set handlers
        yield told
        return
    before = signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    try:
        yield told
    finally:
        signal.signal(signal.SIGTERM, before)
