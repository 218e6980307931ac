"""A store in a local folder: every file is durable and whole, or not there."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from vlm_probe.errors import VlmProbeError
from vlm_probe.files import alone, writing
from vlm_probe.store.locks import FolderLock, Lease, fcntl
from vlm_probe.store.place import CREATING, LOCK, PARTIAL, Lock, is_hidden, partial_of, safe_name


def inside(root: str, path: Path) -> str:
    """Where a file really is. Raises VlmProbeError where links lead out of `root`, and for a pipe or a device."""
    real, folder = os.path.realpath(path), os.path.realpath(root)
    if real != folder and not real.startswith(folder.rstrip(os.sep) + os.sep):
        raise VlmProbeError(f"{path} leads out of the store through a symbolic link, to {real}: it is left alone")
    with suppress(OSError):
        if not stat.S_ISREG(mode := os.stat(real).st_mode) and not stat.S_ISDIR(mode):
            raise VlmProbeError(f"{path} is neither a file nor a folder")
    return real


def sync(folder: Path) -> None:
    """Make durable what a folder lists."""
    if os.name == "nt":  # folders cannot be opened there
        return
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ENOTSUP}:  # a file system without such a thing
            raise
    finally:
        os.close(number)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from error
    except OSError as error:
        raise VlmProbeError(f"cannot read {path}: {error.strerror or error}") from error


class LocalPlace:
    """A folder, which need not be there yet. What is written is on the disk when a method returns.

    A file is written beside its target and takes its place when it is durable itself. `create` links it there, which
    fails where the name is taken; on file systems without hard links (exFAT, some network drives) it takes turns with
    other processes of this machine instead. `partials` leaves out those of processes that live on this machine.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(os.path.abspath(folder))
        self.url = os.fspath(folder)
        self._durable: set[Path] = set()

    def _path(self, name: str) -> Path:
        return self.folder / safe_name(name)

    def read(self, name: str) -> bytes:
        path = self._path(name)
        with _reading(path):
            return Path(inside(str(self.folder), path)).read_bytes()

    def size(self, name: str) -> int | None:
        path = self._path(name)
        try:
            with _reading(path):
                found = os.stat(inside(str(self.folder), path))
        except FileNotFoundError:
            return None
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    def put(self, name: str, data: bytes) -> None:
        path = self._path(name)
        with writing(path), self._partial(path, data) as partial:
            os.replace(partial, path)
            sync(path.parent)

    def create(self, name: str, data: bytes) -> bool:
        path = self._path(name)
        with writing(path):
            if not os.path.lexists(path):
                with self._partial(path, data) as partial:
                    try:
                        self._link(partial, path)
                        sync(path.parent)
                        return True
                    except FileExistsError:
                        pass
        try:
            return self.read(name) == data
        except FileNotFoundError:  # it was taken, and is removed since
            return False

    def _link(self, partial: Path, path: Path) -> None:
        try:
            os.link(partial, path)
        except OSError as error:
            if error.errno not in {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}:
                raise
            if fcntl is None:
                os.rename(partial, path)  # which replaces nothing on Windows
                return
            with alone(self.folder / CREATING):
                if os.path.lexists(path):
                    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from error
                os.replace(partial, path)

    @contextmanager
    def _partial(self, path: Path, data: bytes) -> Iterator[Path]:
        """A durable file beside `path` that holds `data`, and is gone afterwards."""
        inside(str(self.folder), path.parent)
        self._make(path.parent)
        partial = Path(partial_of(str(path)))
        try:
            number = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
            try:
                left = memoryview(data)
                while left:
                    left = left[os.write(number, left) :]
                os.fsync(number)
            finally:
                os.close(number)
            yield partial
        finally:
            with suppress(OSError):
                partial.unlink(missing_ok=True)

    def _make(self, folder: Path) -> None:
        """Make a folder and those above it, each listed durably by its parent."""
        if folder in self._durable and folder.is_dir():
            return
        # Who made one that is there may have been killed before it was durable: within the store it is made sure of.
        if not folder.is_dir() or (folder != self.folder and folder.is_relative_to(self.folder)):
            self._make(folder.parent)
            with suppress(FileExistsError):
                os.mkdir(folder)
            sync(folder.parent)
        self._durable.add(folder)

    def remove(self, name: str) -> None:
        path = self._path(name)
        with writing(path):
            if Path(inside(str(self.folder), path.parent)).is_dir():
                path.unlink(missing_ok=True)
                sync(path.parent)

    def _all(self, under: str = "") -> Iterator[str]:
        top = self._path(under.removesuffix("/")) if under else self.folder
        inside(str(self.folder), top)

        def stop(error: OSError) -> None:
            if not isinstance(error, FileNotFoundError | NotADirectoryError):
                raise error

        with _reading(top):
            for folder, _, files in os.walk(top, onerror=stop):
                yield from ((Path(folder) / file).relative_to(self.folder).as_posix() for file in files)

    def names(self, under: str = "") -> list[str]:
        return sorted(name for name in self._all(under) if not is_hidden(name))

    def partials(self) -> list[str]:
        import psutil

        pids = {name: int(found[1]) for name in self._all() if (found := PARTIAL.search(name))}
        # A process has no partial of its own while it asks: another one had its number.
        return sorted(name for name, pid in pids.items() if pid == os.getpid() or not psutil.pid_exists(pid))

    def free(self) -> int | None:
        there = next(one for one in (self.folder, *self.folder.parents) if one.is_dir())
        with suppress(OSError):
            return shutil.disk_usage(there).free
        return None

    def zarr(self) -> Any:
        return _local_zarr(str(self.folder))

    def lock(self) -> Lock:
        if fcntl is None:
            return Lease(self)
        with writing(self.folder / LOCK):
            self._make(self.folder)
        return FolderLock(self.folder / LOCK)


@cache
def _zarr_class() -> Any:
    from zarr.storage import LocalStore

    class InsideStore(LocalStore):
        """A local store that follows no link out of its folder."""

        def __reduce__(self) -> Any:  # a class within a function cannot be pickled by its name
            return _local_zarr, (str(self.root),)

        def _check(self, key: str) -> None:
            inside(str(self.root), self.root / key)

        async def get(self, key: str, *rest: Any, **more: Any) -> Any:
            self._check(key)
            return await super().get(key, *rest, **more)

        def get_sync(self, key: str, *rest: Any, **more: Any) -> Any:
            self._check(key)
            return super().get_sync(key, *rest, **more)

        async def get_partial_values(self, prototype: Any, key_ranges: Any) -> Any:
            return [await self.get(key, prototype, one) for key, one in key_ranges]

        async def list_dir(self, prefix: str) -> Any:
            self._check(prefix)
            async for name in super().list_dir(prefix):
                yield name

    return InsideStore


def _local_zarr(root: str) -> Any:
    return _zarr_class()(root, read_only=True)
