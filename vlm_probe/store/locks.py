"""How one alone writes in a place: a lock of the system in a local folder, elsewhere a lease.

Neither makes a store right. What is written into one is a function of what was asked for, and commits are created only
where none is: two writers that got past a lock write the same bytes twice, or one of them is refused. Locks save work,
and tell the second of two people at once what they would else learn in the end.
"""

from __future__ import annotations

import json
import math
import os
import socket
import threading
import time
import uuid
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from vlm_probe.errors import VlmProbeError
from vlm_probe.files import writing
from vlm_probe.store.place import LOCK, Lock, Place

try:
    import fcntl
except ImportError:  # Windows: there a lease does
    fcntl = None

BEAT_S, LEASE_S = 10.0, 45.0
"""Every so many seconds a holder shows that it lives; who has not in so many is taken for dead."""
_LONGEST = 1000
"""Bytes of a lock file that are read, whoever wrote it."""


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
