"""What a place is, where a store lies, and what a lock is; how files in it are called."""

from __future__ import annotations

import os
import random
import re
import threading
from typing import Any, Protocol, runtime_checkable

from vlm_probe.errors import VlmProbeError

LOCK = ".lock"
CREATING = f"{LOCK}.create"
PARTIAL = re.compile(r"\.(\d{1,10})-[0-9a-f]{8}\.partial$")
"""How names of files end that are being written: whose process it is, and something random."""
_LOST = "; another process may write there: nothing that was committed is lost, and the same command goes on from there"


class Lock:
    """Held between `__enter__` and `__exit__`, and let go of on return, exception and interrupt alike.

    lost: set as soon as it is known that the lock is held no more, though nobody let go of it.
    """

    where: str
    lost: threading.Event

    def __enter__(self) -> Lock:
        raise NotImplementedError

    def __exit__(self, *_: object) -> None:
        raise NotImplementedError

    def check(self) -> None:
        """To be called before a commit. Raises VlmProbeError where the lock was lost, or is not held."""
        raise NotImplementedError

    def _raise_lost(self) -> None:
        self.lost.set()
        raise VlmProbeError(f"the lock of {self.where} was lost{_LOST}")


@runtime_checkable
class Place(Protocol):
    """Files by name (see `safe_name`). All methods raise VlmProbeError where the file system fails or refuses."""

    url: str

    def read(self, name: str) -> bytes:
        """What is in a file. Raises FileNotFoundError where it is not there."""
        ...

    def size(self, name: str) -> int | None:
        """Bytes of a file; None where it is not there."""
        ...

    def put(self, name: str, data: bytes) -> None:
        """Write a file whole or not at all, in place of what is there. It is durable when this returns."""
        ...

    def create(self, name: str, data: bytes) -> bool:
        """As `put`, but nothing is written where the name is taken. Of several processes one alone writes.

        True if and only if `data` is what is there afterwards. So it is True for who finds there just what it would
        have written, too: whether that came from a first try whose answer was lost cannot be told, and need not be.
        """
        ...

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        ...

    def names(self, under: str = "") -> list[str]:
        """Every file below a folder, sorted, by the names `read` takes; not what is being written, and no locks.

        An object store may show it late: nothing that has to be right may rest on it.
        """
        ...

    def partials(self) -> list[str]:
        """Names, for `remove`, of files that killed writers left half-written. Ask it as the only writer."""
        ...

    def free(self) -> int | None:
        """Bytes that can still be written; None where that cannot be known."""
        ...

    def zarr(self) -> Any:
        """A Zarr store for `zarr.open_group(..., mode="r")`."""
        ...

    def lock(self) -> Lock:
        """To be entered by who writes. Entering raises VlmProbeError where a living process holds it."""
        ...


def safe_name(name: str) -> str:
    """The name of a file in a place, as it is: parts between "/", none of which can lead out of it.

    Raises VlmProbeError for one that is absolute or holds an empty part, one of dots and blanks alone ("..", which
    Windows reads in ".. " too), a backslash, NUL, a drive letter, or what UTF-8 cannot hold.
    """
    wrong = any(not part.strip(". ") or re.match("[A-Za-z]:", part) for part in name.split("/"))
    if wrong or re.search("[\\\\\0\ud800-\udfff]", name):
        raise VlmProbeError(
            f"the name {name!r} cannot be one of a file in a store: expected parts between '/', none of them empty or "
            "of dots alone, without a backslash, NUL or drive letter"
        )
    return name


def partial_of(path: str) -> str:
    return f"{path}.{os.getpid()}-{random.SystemRandom().getrandbits(32):08x}.partial"


def is_hidden(name: str) -> bool:
    return name in {LOCK, CREATING} or PARTIAL.search(name) is not None
