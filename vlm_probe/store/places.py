"""Where a store lies: a local folder or any file system that fsspec knows. Files are written whole or not at all.

Nothing that is read here is executed or unpickled, and no name leads out of the place it is asked of. What a listing
shows may be late; whether one file is there, and what is in it, is asked by its name.
"""

from __future__ import annotations

import errno
import os
import random
import re
import shutil
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from vlm_probe.errors import VlmProbeError, first_line
from vlm_probe.files import alone, writing
from vlm_probe.store import locks
from vlm_probe.store.locks import LOCK, FolderLock, Lease, Lock, Place, safe_name

T = TypeVar("T")
WAITS = (0.5, 2.0, 8.0)
"""Seconds to wait, about, before what failed is tried again."""


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
            return Path(locks.inside(str(self.folder), path)).read_bytes()

    def size(self, name: str) -> int | None:
        path = self._path(name)
        try:
            with _reading(path):
                found = os.stat(locks.inside(str(self.folder), path))
        except FileNotFoundError:
            return None
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    def put(self, name: str, data: bytes) -> None:
        path = self._path(name)
        with writing(path), self._partial(path, data) as partial:
            os.replace(partial, path)
            locks.sync(path.parent)

    def create(self, name: str, data: bytes) -> bool:
        path = self._path(name)
        with writing(path):
            if not os.path.lexists(path):
                with self._partial(path, data) as partial:
                    try:
                        self._link(partial, path)
                        locks.sync(path.parent)
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
            if locks.fcntl is None:
                os.rename(partial, path)  # which replaces nothing on Windows
                return
            with alone(self.folder / locks.CREATING):
                if os.path.lexists(path):
                    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from error
                os.replace(partial, path)

    @contextmanager
    def _partial(self, path: Path, data: bytes) -> Iterator[Path]:
        """A durable file beside `path` that holds `data`, and is gone afterwards."""
        locks.inside(str(self.folder), path.parent)
        self._make(path.parent)
        partial = Path(locks.partial_of(str(path)))
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
            locks.sync(folder.parent)
        self._durable.add(folder)

    def remove(self, name: str) -> None:
        path = self._path(name)
        with writing(path):
            if Path(locks.inside(str(self.folder), path.parent)).is_dir():
                path.unlink(missing_ok=True)
                locks.sync(path.parent)

    def _all(self, under: str = "") -> Iterator[str]:
        top = self._path(under.removesuffix("/")) if under else self.folder
        locks.inside(str(self.folder), top)

        def stop(error: OSError) -> None:
            if not isinstance(error, FileNotFoundError | NotADirectoryError):
                raise error

        with _reading(top):
            for folder, _, files in os.walk(top, onerror=stop):
                yield from ((Path(folder) / file).relative_to(self.folder).as_posix() for file in files)

    def names(self, under: str = "") -> list[str]:
        return sorted(name for name in self._all(under) if not locks.is_hidden(name))

    def partials(self) -> list[str]:
        import psutil

        pids = {name: int(found[1]) for name in self._all() if (found := locks.PARTIAL.search(name))}
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
        if locks.fcntl is None:
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
            locks.inside(str(self.root), self.root / key)

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


_CONDITIONAL = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss"}
"""Object stores whose file systems write a file only where none is, in one request."""
_RENAMING = {"sftp", "ssh", "smb", "ftp", "hdfs", "arrow_hdfs", "webhdfs", "dir"}
"""File systems that show a file while it is being written, so that it is written under another name."""
_PACKAGES = {"s3": "vlm-probe[s3]", "s3a": "vlm-probe[s3]", "gs": "gcsfs", "gcs": "gcsfs", "ssh": "paramiko"}
_PACKAGES |= {"az": "adlfs", "abfs": "adlfs", "abfss": "adlfs", "sftp": "paramiko", "smb": "smbprotocol"}
_THERE = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError)
_TURNS = threading.Lock()


class FsspecPlace:
    """A folder of a file system of fsspec's, or a prefix of an object store.

    fs, root: as `fsspec.core.url_to_fs` gives them. waits: seconds before each further try of what fails in a way that
    may pass. lease: `beat_s` and `lease_s` of the `Lease` that `lock` gives.

    Object stores show a file when all of it has arrived; elsewhere (`_RENAMING`) it is moved to its name then. `create`
    is one request on S3, Google's and Azure's stores. On others it looks first, and is atomic between the threads of a
    process only: there a writer relies on the lock. `zarr` gives a store that reads without these further tries.
    """

    def __init__(self, fs: Any, root: str, url: str, *, waits: Sequence[float] = WAITS, **lease: float) -> None:
        self.fs, self.root, self.protocol = fs, root.rstrip("/"), url.partition("://")[0].lower()
        self._before = "/" if root == "/" else f"{self.root}/" if self.root else ""
        self.url = re.sub("(://[^/:@]*):[^/@]*@", r"\1@", url.rstrip("/"))  # messages tell no passwords
        self.waits, self._lease = tuple(waits), lease

    def _path(self, name: str) -> str:
        return self._before + safe_name(name)

    def _tried(self, doing: str, name: str, call: Callable[[], T], arrived: Callable[[], T | None] | None = None) -> T:
        """What `call` gives, tried several times. arrived: looks, after a failure, for what it would have given."""
        for number, wait in enumerate((*self.waits, None), 1):
            try:
                self.fs.invalidate_cache()
                return call()
            except _THERE:
                raise
            except Exception as error:
                if type(error).__module__ == "builtins" and not isinstance(error, OSError | NotImplementedError):
                    raise
                if arrived is not None and (given := arrived()) is not None:
                    return given
                if wait is None or not locks.may_pass(error):
                    said = f"cannot {doing} {self.url}/{name}".rstrip("/") + f": {first_line(error)}"
                    more = f"; tried {number} times; the same command goes on from there"
                    raise VlmProbeError(said + more * locks.may_pass(error)) from error
            time.sleep(wait * random.uniform(0.75, 1.25))
        raise AssertionError

    def _write(self, name: str, call: Callable[[], T], arrived: Callable[[], T | None] | None = None) -> T:
        try:
            return self._tried("write", name, call, arrived)
        except _THERE as error:  # no such bucket, or a file where a folder should be
            raise VlmProbeError(f"cannot write {self.url}/{name}: {first_line(error)}") from error

    def read(self, name: str) -> bytes:
        path = self._path(name)
        try:
            return self._tried("read", name, lambda: self.fs.cat_file(path))
        except _THERE as error:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), f"{self.url}/{name}") from error

    def size(self, name: str) -> int | None:
        path = self._path(name)
        try:
            found = self._tried("read", name, lambda: self.fs.info(path))
        except _THERE:
            return None
        return None if found["type"] == "directory" else int(found["size"])

    def put(self, name: str, data: bytes) -> None:
        path = self._path(name)

        def moved() -> None:
            self.fs.makedirs(path.rpartition("/")[0], exist_ok=True)
            partial = locks.partial_of(path)
            try:
                self.fs.pipe_file(partial, data)
                self.fs.mv(partial, path)
            except BaseException:
                with suppress(Exception):
                    self.fs.rm_file(partial)
                raise

        self._write(name, moved if self.protocol in _RENAMING else lambda: self.fs.pipe_file(path, data))

    def create(self, name: str, data: bytes) -> bool:
        path = self._path(name)
        if self.protocol not in _CONDITIONAL:
            with _TURNS:
                if self.size(name) is None:
                    self.put(name, data)
            return self._is(name, data) is True

        def new() -> bool:
            try:
                self.fs.pipe_file(path, data, mode="create")
            except FileExistsError:
                return self._is(name, data) is True
            return True

        # A try whose answer was lost may have arrived, and some stores have errors of their own for a name taken.
        return self._write(name, new, lambda: self._is(name, data))

    def _is(self, name: str, data: bytes) -> bool | None:
        """Whether a file holds `data`; None where it is not there."""
        try:
            return self.read(name) == data
        except FileNotFoundError:
            return None

    def remove(self, name: str) -> None:
        path = self._path(name)
        with suppress(*_THERE):
            self._tried("remove", name, lambda: self.fs.rm_file(path))

    def _all(self, under: str) -> list[str]:
        top = self._path(under.removesuffix("/")) if under else self.root or self._before
        try:
            found = self._tried("list", under, lambda: self.fs.find(top))
        except _THERE:
            return []
        return sorted(one.removeprefix(self._before) for one in found if one.startswith(self._before) and one != top)

    def names(self, under: str = "") -> list[str]:
        return [name for name in self._all(under) if not locks.is_hidden(name)]

    def partials(self) -> list[str]:
        return [name for name in self._all("") if self.protocol in _RENAMING and locks.PARTIAL.search(name)]

    def free(self) -> int | None:
        return None

    def zarr(self) -> Any:
        from zarr.storage import FsspecStore

        top = self.root or self._before
        try:
            return FsspecStore.from_mapper(self.fs.get_mapper(top), read_only=True)
        except ValueError:  # Zarr takes "dir" for one that can wait, whatever it stands on
            from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper

            return FsspecStore(AsyncFileSystemWrapper(self.fs, asynchronous=True), path=top, read_only=True)

    def lock(self) -> Lock:
        return Lease(self, **self._lease)


def place(url: str | Path | Place, *, storage_options: Mapping[str, Any] | None = None, **settings: Any) -> Place:
    """A local folder (a path, or file://), or what fsspec knows by a URL (s3://bucket/prefix, gs://, abfs://, ...).

    A place is given back. storage_options: of the file system (keys, `endpoint_url`, ...); settings: of `FsspecPlace`.
    Raises VlmProbeError where there is no such file system or a package for it is missing.
    """
    if not isinstance(url, str | Path):
        return url
    text = os.fspath(url)
    found = None if isinstance(url, Path) else re.match(r"([A-Za-z][A-Za-z0-9+.:-]*)://", text)
    protocol = found[1].lower() if found else "file"
    if "::" in protocol:
        raise VlmProbeError(f"{text} is a file system within another (or a cache of it): expected one of them alone")
    if protocol in {"file", "local"}:
        return LocalPlace(text[found.end() :] if found else text)
    options = {**(storage_options or {}), **({"use_listings_cache": False} if protocol in _CONDITIONAL else {})}
    try:
        from fsspec.core import url_to_fs

        fs, root = url_to_fs(text, **options)
    except ImportError as error:
        package = _PACKAGES.get(protocol)
        install = f"pip install {package}" if package else first_line(error)
        raise VlmProbeError(f"{protocol}:// needs a package that is not installed: {install}") from error
    except Exception as error:
        raise VlmProbeError(f"cannot open {text}: {first_line(error)}") from error
    if protocol in _CONDITIONAL and not root.strip("/"):
        raise VlmProbeError(f"{text} names no bucket: expected {protocol}://bucket/prefix")
    return FsspecPlace(fs, root, text, **settings)
