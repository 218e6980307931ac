"""What several formats share: reading a piece of a file, keeping the latest pieces, and naming what is wrong."""

from __future__ import annotations

import os
import struct
import tarfile
import threading
import weakref
import zlib
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Generic, TypeVar

import pyarrow as pa

from vlm_probe.errors import VlmProbeError, first_line
from vlm_probe.items.entries import BadEntryError

MAX_BYTES = 200_000_000
"""Of one picture, as `inputs.images` has it of one behind a URL (importing that brings torch)."""
MAX_TEXT = 16_000_000
"""Bytes of one row's text."""
_TROUBLE = (
    *(OSError, EOFError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError, MemoryError),
    *(RuntimeError, pa.ArrowException, tarfile.TarError, struct.error, zlib.error),
)
"""What parsers raise over files that are not what they should be; RuntimeError has RecursionError among it."""

T = TypeVar("T")


@contextmanager
def reading(where: object) -> Iterator[None]:
    """What is wrong with a file or an entry is a BadEntryError that begins with where it is."""
    try:
        yield
    except VlmProbeError as error:
        raise BadEntryError(f"{where}: {error}") from error
    except _TROUBLE as error:
        said = error.strerror if isinstance(error, OSError) and error.strerror else first_line(error)
        raise BadEntryError(f"{where}: {said}") from error


def check_plain(path: Path) -> None:
    """BadEntryError for what is no file: opening a pipe would wait for ever."""
    if not os.path.isfile(path):  # which raises nothing, as for a name that is too long
        raise BadEntryError("there is no such file")


def opened(path: Path) -> BinaryIO:
    """A file to read; BadEntryError for what is none, and OSError."""
    check_plain(path)
    return path.open("rb")


def piece(path: Path, offset: int, size: int) -> bytes:
    """A part of a file; BadEntryError where the file ends before.

    It is opened anew each time: threads and processes share no position, and nothing is left open.
    """
    with path.open("rb", buffering=0) as file:
        file.seek(offset)
        parts: list[bytes] = []
        left = size
        while left and (part := file.read(left)):
            parts.append(part)
            left -= len(part)
    if left:
        raise BadEntryError(f"the file ends {left} bytes before it should")
    return b"".join(parts)


def picture_file(path: Path) -> bytes:
    """A file of its own; BadEntryError where it is none, or too large."""
    if not os.path.isfile(path):
        raise BadEntryError(f"the image {path} does not exist")
    if path.stat().st_size > MAX_BYTES:
        raise BadEntryError(f"the image {path} is too large; at most {MAX_BYTES // 10**6} megabytes are read")
    return path.read_bytes()


@dataclass(frozen=True)
class Span:
    """A picture that is a piece of a file, such as a member of a tar archive."""

    container: Path
    name: str
    offset: int
    size: int

    @property
    def file(self) -> Path:
        """The file that holds it."""
        return self.container

    def __str__(self) -> str:
        return f"{self.container}/{self.name}"

    def read(self) -> bytes:
        """The picture's file; BadEntryError where the container is gone, or shorter than it was."""
        with reading(self):
            return piece(self.container, self.offset, self.size)


_ALL: weakref.WeakSet[Recent] = weakref.WeakSet()


class Recent(Generic[T]):
    """The things that were asked for last, a few of them; a thread that asks for what another is making waits."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._kept: OrderedDict[Hashable, T] = OrderedDict()
        self._lock = threading.Lock()
        _ALL.add(self)

    def get(self, path: Path, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` makes of a file, unless it was made before and the file is as it was then."""
        about = path.stat()
        whole = (path, about.st_mtime_ns, about.st_size, key)
        with self._lock:
            if whole not in self._kept:
                while len(self._kept) >= self._size:  # before, so that there is never one more
                    self._kept.popitem(last=False)
                self._kept[whole] = make()
            self._kept.move_to_end(whole)
            return self._kept[whole]

    def renew(self) -> None:
        """Forget what is kept, and who holds the lock."""
        self._kept, self._lock = OrderedDict(), threading.Lock()


def _after_fork() -> None:
    for one in _ALL:
        one.renew()  # a thread that held the lock is not in the child


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
