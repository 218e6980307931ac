"""A store on an object store, or any other file system that fsspec knows."""

from __future__ import annotations

import errno
import os
import random
import re
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from vlm_probe.errors import VlmProbeError, first_line
from vlm_probe.store.locks import Lease
from vlm_probe.store.place import PARTIAL, Lock, is_hidden, partial_of, safe_name

T = TypeVar("T")
WAITS = (0.5, 2.0, 8.0)
"""Seconds to wait, about, before what failed is tried again."""
CONDITIONAL = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss"}
"""Object stores whose file systems write a file only where none is, in one request."""
_RENAMING = {"sftp", "ssh", "smb", "ftp", "hdfs", "arrow_hdfs", "webhdfs", "dir"}
"""File systems that show a file while it is being written, so that it is written under another name."""
_THERE = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError)
_TURNS = threading.Lock()


_LASTING = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENAMETOOLONG, errno.EMSGSIZE, errno.ENOSYS, errno.EPERM}
_PASSING = {"HTTPClientError", "ClientConnectionError", "ClientPayloadError", "ServiceRequestError", "SSHException"}


def _may_pass(error: Exception) -> bool:
    """Whether it may be gone at the next try."""
    if isinstance(error, OSError):  # s3fs makes one of what S3 answers; timeouts and lost connections are some too
        return not isinstance(error, PermissionError) and error.errno not in _LASTING
    answers = [getattr(error, name, None) for name in ("status_code", "status", "code")]
    statuses = [int(one) for one in answers if isinstance(one, int | str) and str(one).isdecimal()]
    named = bool(_PASSING & {kind.__name__ for kind in type(error).__mro__})
    return named or any(one >= 500 or one in {408, 425, 429} for one in statuses)


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
                if wait is None or not _may_pass(error):
                    said = f"cannot {doing} {self.url}/{name}".rstrip("/") + f": {first_line(error)}"
                    more = f"; tried {number} times; the same command goes on from there"
                    raise VlmProbeError(said + more * _may_pass(error)) from error
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
            partial = partial_of(path)
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
        if self.protocol not in CONDITIONAL:
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
        return [name for name in self._all(under) if not is_hidden(name)]

    def partials(self) -> list[str]:
        return [name for name in self._all("") if self.protocol in _RENAMING and PARTIAL.search(name)]

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
