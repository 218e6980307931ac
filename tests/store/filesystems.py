"""File systems that misbehave as told, an S3 server of one's own, and processes that are killed at a step.

A test module that wants the fixtures says `s3, s3_server = filesystems.s3, filesystems.s3_server`.
"""

from __future__ import annotations

import os
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from fsspec import AbstractFileSystem
from fsspec.implementations.memory import MemoryFileSystem


def memory() -> MemoryFileSystem:
    """A file system in memory that shares nothing with others."""
    fs = MemoryFileSystem(skip_instance_cache=True)
    fs.store, fs.pseudo_dirs = {}, [""]
    return fs


class Behind(AbstractFileSystem):
    """Hands everything on to another file system, and notes it in `done`. `before` and `after` are for others to be."""

    cachable = False
    protocol = "behind"

    def __init__(self, fs: Any) -> None:
        super().__init__()
        self.fs = fs
        self.done: list[str] = []

    def before(self, number: int) -> None:
        pass

    def after(self, number: int) -> None:
        pass

    def _hand(self, operation: str, *args: Any, **more: Any) -> Any:
        self.done.append(operation)
        number = len(self.done)
        self.before(number)
        given = getattr(self.fs, operation)(*args, **more)
        self.after(number)
        return given

    def pipe_file(self, path, value, mode="overwrite", **more):
        return self._hand("pipe_file", path, value, mode=mode)

    def cat_file(self, path, start=None, end=None, **more):
        return self._hand("cat_file", path, start=start, end=end)

    def info(self, path, **more):
        return self._hand("info", path)

    def rm_file(self, path):
        return self._hand("rm_file", path)

    def find(self, path, *rest, **more):
        return self._hand("find", path)

    def mv(self, path1, path2, *rest, **more):
        return self._hand("mv", path1, path2)

    def makedirs(self, path, exist_ok=False):
        return self._hand("makedirs", path, exist_ok=exist_ok)

    def ls(self, path, detail=True, **more):
        return self.fs.ls(path, detail=detail)


class Failing(Behind):
    """Raises at the `at`-th operation, and the `times` - 1 after it: before they are done, or after (`arrived`)."""

    def __init__(self, fs: Any, at: int, error: Exception, *, times: int = 1, arrived: bool = False) -> None:
        super().__init__(fs)
        self.at, self.error, self.times, self.arrived = at, error, times, arrived

    def _fail(self, number: int) -> None:
        if self.at <= number < self.at + self.times:
            raise self.error

    def before(self, number: int) -> None:
        if not self.arrived:
            self._fail(number)

    def after(self, number: int) -> None:
        if self.arrived:
            self._fail(number)


class Slow(Behind):
    """Every operation takes so many seconds."""

    def __init__(self, fs: Any, seconds: float) -> None:
        super().__init__(fs)
        self.seconds = seconds

    def before(self, number: int) -> None:
        time.sleep(self.seconds)


class Stale(Behind):
    """Goes on listing what was there when it was first asked; what it is asked by name it says as it is."""

    def __init__(self, fs: Any) -> None:
        super().__init__(fs)
        self.first: list[str] | None = None

    def find(self, path, *rest, **more):
        if self.first is None:
            self.first = super().find(path)
        return self.first


@dataclass
class Bucket:
    """A bucket of an S3 server. env: what another process needs to reach it by its URL alone."""

    url: str
    options: dict[str, Any]
    env: dict[str, str] = field(repr=False)


CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "nobody",
    "AWS_SECRET_ACCESS_KEY": "nothing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of an S3 server in a thread, on a free port; its credentials are in the environment."""
    from moto.s3.responses import S3Response
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    put, turns = S3Response.put_object, threading.Lock()

    def one_by_one(self: Any) -> Any:
        # S3 decides about "only where none is" in one step; moto looks first, and would let two through.
        with turns:
            return put(self)

    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        patch.setattr(S3Response, "put_object", one_by_one)
        server.start()
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
        server.stop()


@pytest.fixture
def s3(s3_server: str) -> Bucket:
    """A new, empty bucket."""
    import s3fs

    options: dict[str, Any] = {"endpoint_url": s3_server}
    name = f"b{uuid.uuid4().hex}"
    s3fs.S3FileSystem(**options).mkdir(name)
    return Bucket(f"s3://{name}/a/store", options, {**os.environ, "AWS_ENDPOINT_URL": s3_server})


STEPS = ("mkdir", "open", "write", "fsync", "close", "rename", "replace", "link", "unlink")
"""What the package does to a disk, by the functions of `os` that do it."""


def in_child(act: Callable[[], object]) -> int:
    """Run something in a forked process, and give its `os.wait` status: 0, or 1 << 8 where it raised."""
    pid = os.fork()
    if pid:
        return os.waitpid(pid, 0)[1]
    code = 1
    try:
        signal.alarm(30)  # a child that hangs ends, and the test with it
        act()
        code = 0
    finally:
        os._exit(code)


def killed_at(step: int, act: Callable[[], object]) -> bool:
    """Whether a process that does something was killed by SIGKILL just before its so-manieth step of `STEPS`.

    Of what it writes at that step half is written. It must end well where it has fewer steps.
    """

    def armed() -> None:
        left = [step]

        def arm(name: str) -> None:
            real = getattr(os, name)

            def one(*args: Any, **more: Any) -> Any:
                left[0] -= 1
                if left[0] == 0:
                    if name == "write":
                        real(args[0], args[1][: len(args[1]) // 2])
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*args, **more)

            setattr(os, name, one)

        for name in STEPS:
            arm(name)
        act()

    status = in_child(armed)
    assert status in {0, signal.SIGKILL}, f"the child ended with {status}"
    return status == signal.SIGKILL


@contextmanager
def at_once(acts: list[Callable[[], object]]) -> Iterator[Callable[[], list[int]]]:
    """Processes that wait for each other and then do something; gives a function that lets them, and their statuses."""
    gate, start = os.pipe()
    pids = []
    for act in acts:
        pid = os.fork()
        if not pid:
            code = 1
            try:
                signal.alarm(30)
                os.close(start)
                os.read(gate, 1)  # ends when the parent closes it
                act()
                code = 0
            finally:
                os._exit(code)
        pids.append(pid)

    def go() -> list[int]:
        os.close(start)
        return [os.waitpid(pid, 0)[1] for pid in pids]

    yield go
    os.close(gate)
