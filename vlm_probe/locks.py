"""A lock between processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # no such thing on Windows: there, one process at a time
    fcntl = None


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold a lock file; the system lets go of it even if this process is killed."""
    with path.open("w") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
