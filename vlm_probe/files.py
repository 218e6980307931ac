"""Folders for results, files written whole, and a lock between processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vlm_probe.errors import VlmProbeError

try:
    import fcntl
except ImportError:  # no such thing on Windows: there, one process at a time
    fcntl = None


def make_folder(folder: Path) -> None:
    """Make a folder for results, and those above it; VlmProbeError where it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise VlmProbeError(f"cannot write to {folder}: {error.strerror}") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to, beside `path`, which takes its place when all is written: a kill leaves the old or the new.

    An error within leaves what was there.
    """
    partial = path.with_suffix(".partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        # Where the folder is none there is nothing to clear either.
        with suppress(OSError):
            partial.unlink(missing_ok=True)


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold a lock file; the system lets go of it even if this process is killed."""
    with path.open("w") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
