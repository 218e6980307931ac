"""Folders for results, files written whole, what files can hold of `attrs`, and a lock between processes.

A folder holds the results of one run of one command. What an earlier run of that command wrote there is replaced, and
what this one does not write anew is removed; files that none of them wrote are never touched.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from vlm_probe.errors import VlmProbeError

try:
    import fcntl
except ImportError:  # no such thing on Windows: there, one process at a time
    fcntl = None

_PARTIAL = ".partial"
"""Behind the name of a file that is being written."""
_UMASK = os.umask(0)
os.umask(_UMASK)  # it is read by setting it
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
DISK_ERRORS = {
    *_FULL,
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ENAMETOOLONG),
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY),
}
"""Numbers of errors that are the disk's or its folders', and no fault of this package."""


def disk_trouble(error: OSError, path: Path | None = None) -> str:
    """What went wrong with a file, on one line, and what would work. path: what was written, where that is known."""
    wrote = path is not None or error.errno in {*_FULL, errno.EROFS}
    what = "cannot write" if wrote else "cannot read or write"
    told = error.filename if error.filename is not None else path
    name = "" if told is None else f" {told}"
    more = "; make room and run it again" if error.errno in _FULL else ""
    return f"{what}{name}: {os.strerror(error.errno) if error.errno else error}{more}"


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """What goes wrong while a file is written is an OSError that names it, whatever library wrote."""
    try:
        yield
    except VlmProbeError:
        raise
    except Exception as error:
        number = told = None
        if isinstance(error, OSError):
            number, told = error.errno, error.filename
            if number is None and not path.parent.is_dir():  # pandas looks for itself
                number = errno.ENOENT
        elif said := re.search(r"\(os error (\d+)\)", str(error)):  # as safetensors and tokenizers tell it
            number = int(said[1])
        if number is None:
            raise
        own = told is None or str(told).endswith(_PARTIAL)
        raise OSError(number, os.strerror(number), str(path) if own else told) from error


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """What goes wrong while results are written is a VlmProbeError that names the file, `path` if none is told."""
    try:
        with naming(path):
            yield
    except OSError as error:
        raise VlmProbeError(disk_trouble(error, path)) from error


def make_folder(folder: Path) -> None:
    """Make a folder for results, and those above it; VlmProbeError where it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise VlmProbeError(f"cannot write to {folder}: {error.strerror}") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to, beside `path`, which takes its place when all is written: a kill leaves the old or the new.

    An error within leaves what was there. Raises OSError, which names `path`, where it cannot be written.
    """
    partial = path.with_name(f"{path.name}{_PARTIAL}")
    try:
        with naming(path):
            yield partial
            if partial.is_file():
                partial.chmod(0o666 & ~_UMASK)  # safetensors makes its files the owner's alone
            os.replace(partial, path)
    finally:
        # Where the folder is none there is nothing to clear either.
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def remove_stale(folder: Path, before: Iterable[str], now: Iterable[str]) -> None:
    """Remove from a folder the files that an earlier run wrote there and this one did not.

    before: their names as that run noted them; what is no plain name is passed over.
    """
    for name in set(before) - set(now):
        if name == Path(name).name and (folder / name).is_file():
            (folder / name).unlink()


def writable(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """`attrs` as netCDF, Zarr and Parquet hold them: texts and numbers alone, by flat names.

    What is nested has a name a value (`versions.torch`, `images.0`), what is None is left out, truth is 1 or 0.

    >>> writable({"revision": None, "versions": {"torch": "2.13"}, "images": ["3f0c"], "tied": True})
    {'versions.torch': '2.13', 'images.0': '3f0c', 'tied': 1}
    """
    flat: dict[str, Any] = {}
    for name, value in attrs.items():
        if isinstance(value, list | tuple):
            value = {str(number): one for number, one in enumerate(value)}
        if isinstance(value, Mapping):
            flat |= writable({f"{name}.{key}": one for key, one in value.items()})
        elif value is not None:
            flat[name] = int(value) if isinstance(value, bool) else value
    return flat


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold a lock file; the system lets go of it even if this process is killed."""
    with path.open("w") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
