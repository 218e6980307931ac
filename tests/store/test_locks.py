"""One writer at a time, whoever dies and however: the system's lock in a folder, leases everywhere else."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import filesystems
import pytest
from filesystems import Failing, Slow, in_child, memory

from vlm_probe.errors import VlmProbeError
from vlm_probe.store.locks import LOCK, FolderLock, Lease
from vlm_probe.store.places import FsspecPlace, LocalPlace, place

s3, s3_server = filesystems.s3, filesystems.s3_server

HERE = socket.gethostname()
BEATS = {"beat_s": 0.02, "lease_s": 1.0}
LONG = 60.0
"""A lease that does not run out because the machine is busy."""


def held_by(where: object, pid: int, host: str = HERE) -> str:
    return f"{where} is being written by process {pid} on {host!r}; one can write at a time: wait for it, or end it"


def was_lost(where: object) -> str:
    return (
        f"the lock of {where} was lost; another process may write there: nothing that was committed is lost, and the "
        "same command goes on from there"
    )


def refused(act: Callable[[], Any]) -> str:
    with pytest.raises(VlmProbeError) as caught:
        act()
    return str(caught.value)


def wait_for(what: Callable[[], object], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.002)


# --- a local folder


def test_a_folder_has_one_writer(tmp_path):
    here = LocalPlace(tmp_path / "new" / "store")
    with here.lock() as lock:
        assert isinstance(lock, FolderLock)
        lock.check()
        assert refused(here.lock().__enter__) == held_by(here.url, os.getpid())
        assert json.loads(here.read(LOCK)) == {"host": HERE, "pid": os.getpid()}

        def other() -> None:
            assert refused(LocalPlace(here.folder).lock().__enter__) == held_by(here.url, os.getppid())

        assert in_child(other) == 0
        lock.check()
    with here.lock() as again:
        again.check()
    assert refused(lock.check) == was_lost(here.url)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("kind", ["folder", "lease"])
def test_it_is_let_go_of_however_the_writer_ends(kind, error, tmp_path):
    here = LocalPlace(tmp_path) if kind == "folder" else on(memory(), lease_s=LONG)
    with pytest.raises(error), here.lock():
        raise error
    assert here.size(LOCK) is None or kind == "folder"
    with here.lock() as lock:
        lock.check()


def held_in_child(folder: Any, before_waiting: Callable[[], object] = lambda: None) -> int:
    """A process that holds a folder's lock until it is killed; it holds it when this returns."""
    ready, tell = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            signal.alarm(30)
            with LocalPlace(folder).lock():
                before_waiting()
                os.write(tell, b"!")
                signal.pause()
        finally:
            os._exit(1)
    assert os.read(ready, 1) == b"!"
    os.close(ready)
    os.close(tell)
    return pid


def test_the_system_lets_go_of_a_killed_writers(tmp_path):
    pid = held_in_child(tmp_path)
    assert refused(LocalPlace(tmp_path).lock().__enter__) == held_by(tmp_path, pid)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    with LocalPlace(tmp_path).lock() as lock:
        lock.check()


def test_its_workers_do_not_hold_it_on(tmp_path):
    """A forked process shares the lock, and lives on when its parent is killed."""
    numbers, tell = os.pipe()

    def fork() -> None:
        if worker := os.fork():
            os.write(tell, str(worker).encode())
        else:
            signal.alarm(30)
            signal.pause()

    pid = held_in_child(tmp_path, fork)
    worker = int(os.read(numbers, 20))
    try:
        assert refused(LocalPlace(tmp_path).lock().__enter__) == held_by(tmp_path, pid), "a fork let go of it"
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.kill(worker, 0)  # it lives
        with LocalPlace(tmp_path).lock() as lock:
            lock.check()
    finally:
        os.kill(worker, signal.SIGKILL)
        os.close(numbers)
        os.close(tell)


def test_a_lock_file_that_was_removed(tmp_path):
    here = LocalPlace(tmp_path)
    with here.lock() as lock:
        (tmp_path / LOCK).unlink()
        with here.lock() as other:
            assert refused(lock.check) == was_lost(tmp_path)
            assert lock.lost.is_set()
            other.check()


@pytest.mark.parametrize("inside", [b"", b"\xff", b"[1]", b'{"pid": 3}', b"x" * 5000])
def test_lock_files_that_say_nothing(inside, tmp_path):
    with LocalPlace(tmp_path).lock():
        (tmp_path / LOCK).write_bytes(inside)
        assert refused(LocalPlace(tmp_path).lock().__enter__) == (
            f"{tmp_path} is being written by another process; one can write at a time: wait for it, or end it"
        )


def test_lock_files_that_cannot_be_written(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "ftruncate", full)
        with LocalPlace(tmp_path).lock() as lock:  # only the message is poorer
            lock.check()
    (tmp_path / LOCK).unlink()
    (tmp_path / LOCK).symlink_to(tmp_path / "precious")
    assert refused(LocalPlace(tmp_path).lock().__enter__) == (
        f"cannot write {tmp_path}/.lock: Too many levels of symbolic links"
    )
    assert not (tmp_path / "precious").exists()
    (tmp_path / "file").write_text("")
    assert refused(lambda: LocalPlace(tmp_path / "file" / "x").lock()) == (
        f"cannot write {tmp_path}/file/x: Not a directory"
    )


# --- leases


def on(fs: Any, **settings: Any) -> Any:
    return FsspecPlace(fs, "/bucket", "s3://bucket", **{"waits": (0.001,), **BEATS, **settings})


def dead(here: FsspecPlace, pid: int = 7) -> None:
    """What a holder that was killed leaves."""
    here.put(LOCK, json.dumps({"host": "gone", "pid": pid, "token": "t", "beat": 3}).encode())


def test_a_lease_has_one_holder():
    here = on(memory(), lease_s=LONG)
    with here.lock() as lock:
        assert isinstance(lock, Lease)
        before = time.monotonic()
        assert refused(here.lock().__enter__) == held_by("s3://bucket", os.getpid())
        assert time.monotonic() - before < LONG / 2, "it should be told after a beat"
        assert refused(lock.__enter__) == held_by("s3://bucket", os.getpid())
        lock.check()
        first = json.loads(here.read(LOCK))
        wait_for(lambda: json.loads(here.read(LOCK))["beat"] > first["beat"] + 1)
    assert here.size(LOCK) is None
    assert refused(lock.check) == was_lost("s3://bucket")
    with lock:  # it can be taken again
        lock.check()


def test_a_dead_holders_lease_is_taken_over():
    here = on(memory())
    dead(here)
    before = time.monotonic()
    with here.lock():
        assert time.monotonic() - before >= BEATS["lease_s"]
        assert json.loads(here.read(LOCK))["pid"] == os.getpid()


@pytest.mark.parametrize("inside", [b"", b"\xff\x00", b"[]", b'{"token": 3}'])
def test_a_lease_that_says_nothing_is_a_dead_ones(inside):
    here = on(memory())
    here.put(LOCK, inside)
    with here.lock():
        assert json.loads(here.read(LOCK))["pid"] == os.getpid()


def test_two_that_take_over_end_as_one():
    """Several rounds of threads that find a dead holder in the same moment."""
    for _ in range(3):
        here = on(memory())
        dead(here)
        locks = [here.lock() for _ in range(3)]
        entered: list[Any] = []
        told: list[str] = []

        def enter(lock: Any, entered: list[Any] = entered, told: list[str] = told) -> None:
            try:
                entered.append(lock.__enter__())
                lock.lease_s = LONG
            except VlmProbeError as error:
                told.append(str(error))

        threads = [threading.Thread(target=enter, args=(lock,)) for lock in locks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert entered
        assert all("is being written by" in said for said in told)
        wait_for(lambda entered=entered: sum(not lock.lost.is_set() for lock in entered) == 1)
        for lock in entered:
            lock.__exit__()
        assert here.size(LOCK) is None


def test_a_holder_that_slept_notices():
    store = memory()
    fs = Slow(store, 0)
    with on(fs).lock() as sleeper:
        fs.seconds = 1.5 * BEATS["lease_s"]  # its next beat comes too late
        wait_for(lambda: time.monotonic() - sleeper._shown > BEATS["lease_s"])
        assert refused(sleeper.check) == was_lost("s3://bucket")
        with on(store).lock() as other:
            other.lease_s = LONG
            fs.seconds = 0
            assert sleeper.lost.wait(10)
            assert refused(sleeper.check) == was_lost("s3://bucket")
            wait_for(lambda: not sleeper._thread.is_alive())
            other.check()
            assert other._is_own(), "the sleeper wrote over its successor's"
            sleeper.__exit__()
            assert other._is_own(), "the sleeper removed its successor's"


@pytest.mark.parametrize("how", ["removed", "another's"])
def test_a_holder_whose_file_is_gone_notices(how):
    here = on(memory())
    with here.lock() as lock:
        end = time.monotonic() + 10
        # A beat that is on its way puts its own back: as often as the machine is slow in between.
        while not lock.lost.wait(0.1) and time.monotonic() < end:
            if how == "removed":
                here.remove(LOCK)
            else:
                dead(here)
        assert lock.lost.is_set()
        assert refused(lock.check) == was_lost("s3://bucket")
    assert (here.size(LOCK) is None) == (how == "removed")


def test_a_store_that_cannot_be_reached_for_a_while():
    fs = Failing(memory(), 10**9, TimeoutError(), times=10**9)
    with on(fs, lease_s=LONG).lock() as lock:
        assert isinstance(lock, Lease)
        fs.at, fs.times = len(fs.done) + 1, 5  # some tries
        wait_for(lambda: len(fs.done) > fs.at + fs.times)
        shown = lock._shown
        wait_for(lambda: lock._shown > shown)
        lock.check()
        lock.lease_s = BEATS["lease_s"]
        fs.at, fs.times = len(fs.done) + 1, 10**9
        assert lock.lost.wait(10)
        assert refused(lock.check) == was_lost("s3://bucket")


def test_a_store_that_cannot_be_reached_at_all():
    fs = Failing(memory(), 1, TimeoutError("down"), times=10**9)
    said = "cannot read s3://bucket/.lock: down; tried 2 times; the same command goes on from there"
    assert refused(on(fs).lock().__enter__) == said
    assert not any(thread.name == "lock of s3://bucket" for thread in threading.enumerate())


def test_an_error_within_is_what_is_told_when_the_store_is_down():
    fs = Failing(memory(), 10**9, TimeoutError(), times=10**9)

    def fail() -> None:
        fs.at = len(fs.done) + 1
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"), on(fs).lock():
        fail()


def test_beats_that_cannot_keep_a_lease():
    with pytest.raises(ValueError, match="a lease of 1.0 s cannot be kept by a beat every 2.0 s"):
        on(memory(), beat_s=2.0, lease_s=1.0).lock()


HOLDER = """
import sys, time
from vlm_probe.store.places import place
with place(sys.argv[1], beat_s=0.1, lease_s=60.0).lock():
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_living_and_a_killed_holder_on_s3(s3):
    patient = place(s3.url, storage_options=s3.options, beat_s=0.1, lease_s=LONG)
    command = [sys.executable, "-c", HOLDER, s3.url]
    with subprocess.Popen(command, env=s3.env, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            assert refused(patient.lock().__enter__) == held_by(s3.url, holder.pid)
        finally:
            holder.kill()
    assert patient.size(LOCK)
    with place(s3.url, storage_options=s3.options, beat_s=0.1, lease_s=1.0).lock():
        assert json.loads(patient.read(LOCK))["pid"] == os.getpid()
    assert patient.size(LOCK) is None
    with patient.lock() as lock:
        lock.check()
        assert refused(patient.lock().__enter__) == held_by(s3.url, os.getpid())
    assert patient.size(LOCK) is None
