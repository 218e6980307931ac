"""Workers for the tests of scheduling, in a module that actors import by its name."""

import os
import signal
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

from vlm_probe.errors import VlmProbeError, VlmProbeWarning


def noted(folder: Path, number: int) -> int:
    """How often a shard was begun, this time too."""
    file = folder / str(number)
    with file.open("a") as lines:
        lines.write(f"{os.getpid()}\n")
    return len(file.read_text().splitlines())


def squares(folder: Path) -> Callable[[int], tuple[int, int, int]]:
    (folder / f"made-{os.getpid()}").touch()

    def work(number: int) -> tuple[int, int, int]:
        noted(folder, number)
        time.sleep(0.05)
        return number**2, os.getpid(), torch.get_num_threads()

    return work


def killed(folder: Path, at: int, times: int) -> Callable[[int], int]:
    def work(number: int) -> int:
        if noted(folder, number) <= times and number == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return number

    return work


class UnreadableError(Exception):
    """Cannot be made again from what pickle keeps of it."""

    def __init__(self, one: str, other: str) -> None:
        super().__init__(f"{one} {other}")


def failing(folder: Path, kind: str) -> Callable[[int], int]:
    if kind == "make":
        raise VlmProbeError("no such model")

    def work(number: int) -> int:
        noted(folder, number)
        warnings.warn(f"shard {number} is odd", VlmProbeWarning, stacklevel=1)
        if number == 3:
            if kind == "user":
                raise VlmProbeError("shard 3 has no picture")
            raise UnreadableError("shard", "3") if kind == "unreadable" else ZeroDivisionError("shard 3")
        return number

    return work
