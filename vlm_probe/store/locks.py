"""What a place is, and how one alone writes there: a lock of the system in a local folder, elsewhere a lease.

Neither makes a store right. What is written into one is a function of what was asked for, and commits are created only
where none is: two writers that got past a lock write the same bytes twice, or one of them is refused. Locks save work,
and tell the second of two people at once what they would else learn in the end.
"""

from __future__ import annotations

import errno
import json
import math
import os
import random
import re
import socket
import stat
import threading
import time
import uuid
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from vlm_probe.errors import VlmProbeError
from vlm_probe.files import writing

try:
    import fcntl
except ImportError:  # Windows: there a lease does
    fcntl = None

LOCK = ".lock"
CREATING = f"{LOCK}.create"
PARTIAL = re.compile(r"\.(\d{1,10})-[0-9a-f]{8}\.partial$")
"""How names of files end that are being written: whose process it is, and something random."""
BEAT_S, LEASE_S = 10.0, 45.0
"""Every so many seconds a holder shows that it lives; who has not in so many is taken for dead."""
_LONGEST = 1000
"""Bytes of a lock file that are read, whoever wrote it."""
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


_LASTING = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENAMETOOLONG, errno.EMSGSIZE, errno.ENOSYS, errno.EPERM}
_PASSING = {"HTTPClientError", "ClientConnectionError", "ClientPayloadError", "ServiceRequestError", "SSHException"}


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


def partial_of(path: str) -> str:
    return f"{path}.{os.getpid()}-{random.SystemRandom().getrandbits(32):08x}.partial"


def is_hidden(name: str) -> bool:
    return name in {LOCK, CREATING} or PARTIAL.search(name) is not None


def may_pass(error: Exception) -> bool:
    """Whether it may be gone at the next try."""
    if isinstance(error, OSError):  # s3fs makes one of what S3 answers; timeouts and lost connections are some too
        return not isinstance(error, PermissionError) and error.errno not in _LASTING
    answers = [getattr(error, name, None) for name in ("status_code", "status", "code")]
    statuses = [int(one) for one in answers if isinstance(one, int | str) and str(one).isdecimal()]
    named = bool(_PASSING & {kind.__name__ for kind in type(error).__mro__})
    return named or any(one >= 500 or one in {408, 425, 429} for one in statuses)


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


def _own(**more: Any) -> dict[str, Any]:
    return {"host": socket.gethostname(), "pid": os.getpid(), **more}


def _told(data: bytes) -> dict[str, Any]:
    """What a lock file says, and nothing where it is none: it may be half-written, or a stranger's."""
    try:
        told = json.loads(data[:_LONGEST])
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def _held(where: str, told: dict[str, Any]) -> VlmProbeError:
    who = f"process {told['pid']!r} on {told['host']!r}" if {"pid", "host"} <= set(told) else "another process"
    return VlmProbeError(f"{where} is being written by {who}; one can write at a time: wait for it, or end it")


_open: weakref.WeakSet[FolderLock] = weakref.WeakSet()


def _forget() -> None:
    # A forked child shares the lock. If it kept the file open it would hold it on when its parent is killed.
    for lock in list(_open):
        lock._close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


class FolderLock(Lock):
    """`flock` on a file: the kernel lets go of it when its holder ends, by kill -9 as well.

    The file stays; who holds it stands in it for the message to others. Raises VlmProbeError at once where another
    holds it, in this process or any, and where the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.where, self.lost = path, str(path.parent), threading.Event()
        self._file: int | None = None

    def __enter__(self) -> FolderLock:
        assert fcntl is not None
        with writing(self.path):
            self._take(fcntl.flock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return self

    def _take(self, flock: Callable[[int, int], None], how: int) -> None:
        self.lost.clear()
        while self._file is None:
            # No link is followed: it could lead out of a stranger's store, and what is there is overwritten.
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
            try:
                flock(file, how)
                if self._is_there(file):  # else it was removed meanwhile, and another may hold its successor
                    with suppress(OSError):  # a full disk: the lock holds all the same
                        os.ftruncate(file, 0)
                        os.write(file, json.dumps(_own()).encode())
                    self._file = file
                    _open.add(self)
            except BlockingIOError as error:
                raise _held(self.where, _told(os.read(file, _LONGEST))) from error
            finally:
                if self._file is None:
                    os.close(file)

    def _is_there(self, file: int) -> bool:
        try:
            now = os.stat(self.path, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(os.fstat(file), now)

    def check(self) -> None:
        with writing(self.path):
            if self._file is None or not self._is_there(self._file):
                self._raise_lost()

    def _close(self) -> None:
        file, self._file = self._file, None
        _open.discard(self)
        if file is not None:
            os.close(file)

    def __exit__(self, *_: object) -> None:
        self._close()


class Lease(Lock):
    """A file that its holder keeps changing. Who finds one that changes no more takes it over.

    place: where it lies. beat_s: it is changed every so many seconds. lease_s: a holder that did not change it for so
    long, by the clock of the one who watches, is dead; several beats, and all writers should say the same. No two
    clocks are compared. Entering takes no time where there is no lock, up to `beat_s` where a living one holds it (then
    VlmProbeError), and `lease_s` where a dead one did.

    A holder that slept for long (or could not reach the store) finds that it lost the lock, and `check` says so. Two
    that take over a dead one's in the same moment may both believe for about `beat_s` that they have it.
    """

    def __init__(self, place: Place, *, beat_s: float = BEAT_S, lease_s: float = LEASE_S) -> None:
        if not 0 < beat_s < lease_s:
            raise ValueError(f"a lease of {lease_s} s cannot be kept by a beat every {beat_s} s")
        self.place, self.where = place, place.url
        self.beat_s, self.lease_s = beat_s, lease_s
        self.lost = threading.Event()
        self._token, self._shown = "", -math.inf
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Lease:
        if self._thread is not None:
            raise _held(self.where, _own())
        self._token = uuid.uuid4().hex
        self._end, self.lost = threading.Event(), threading.Event()
        try:
            self._take()
            self._thread = threading.Thread(target=self._keep, args=(self._end,), name=f"lock of {self.where}")
            self._thread.daemon = True
            self._thread.start()
        except BaseException:  # an interrupt may come when the file is written
            self._release()
            raise
        return self

    def _take(self) -> None:
        told: dict[str, Any] = {}
        for _ in range(5):
            if self._read() is None:  # which opens a connection, too: that takes long, and no time of the lease
                before = time.monotonic()
                if self.place.create(LOCK, self._content(0)) and self._is_own():
                    self._shown = before
                    return
            told = self._watch()
        raise _held(self.where, told)  # others take it, and let go of it, each time before this one

    def _watch(self) -> dict[str, Any]:
        """Wait for a dead holder's time to be up, and remove its lock. VlmProbeError where the holder lives."""
        seen = self._read()
        told = _told(seen or b"")
        end = time.monotonic() + self.lease_s
        while seen is not None:
            if self._end.wait(min(self.beat_s / 4, self.lease_s / 20)):
                break
            # The clock first: what is read late must not count as unchanged for longer than it was.
            over = time.monotonic() >= end
            now = self._read()
            if now is not None and now != seen:
                raise _held(self.where, _told(now))
            if now is None:
                break
            if over:
                self.place.remove(LOCK)
                break
        return told

    def _content(self, beat: int) -> bytes:
        return json.dumps(_own(token=self._token, beat=beat)).encode()

    def _read(self) -> bytes | None:
        try:
            return self.place.read(LOCK)
        except FileNotFoundError:
            return None

    def _is_own(self) -> bool:
        return _told(self._read() or b"").get("token") == self._token

    def _is_over(self) -> bool:
        return time.monotonic() - self._shown > self.lease_s

    def _keep(self, end: threading.Event) -> None:
        beat = 0
        while not end.wait(self.beat_s):
            beat += 1
            if not self._is_kept(beat):
                self.lost.set()
                return

    def _is_kept(self, beat: int) -> bool:
        before = time.monotonic()
        with suppress(VlmProbeError):  # the store cannot be reached: until the lease is over there is time
            if not self._is_own():
                return False
            # One that comes late may have been taken for dead, and must not write over its successor's.
            if not self._is_over():
                self.place.put(LOCK, self._content(beat))
                self._shown = before
        return not self._is_over() and not self.lost.is_set()

    def check(self) -> None:
        if self._thread is None or self._is_over() or self.lost.is_set():
            self._raise_lost()

    def _release(self) -> None:
        self._end.set()
        thread, self._thread = self._thread, None
        if thread is not None and thread.ident is not None:
            thread.join(self.lease_s)
            if thread.is_alive():  # it may still write the file, so that to remove it is no use: it runs out
                return
        # What went wrong within is what should be told, and a file that stays runs out.
        with suppress(VlmProbeError):
            if not self.lost.is_set() and self._is_own():
                self.place.remove(LOCK)

    def __exit__(self, *_: object) -> None:
        self._release()
