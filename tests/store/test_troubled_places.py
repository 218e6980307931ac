"""Files whole or not at all where file systems fail, lie and dawdle, and on S3."""

import errno
import itertools
import threading
from functools import partial
from typing import Any

import filesystems
import pytest
from filesystems import Failing, Slow, Stale, killed_at, memory

from vlm_probe.errors import VlmProbeError
from vlm_probe.store.places import FsspecPlace, place

s3, s3_server = filesystems.s3, filesystems.s3_server

SOON = (0.001, 0.001)
"""Waits of three tries."""
OLD, NEW = b"old" * 7, b"newer" * 11


def on(fs: Any, url: str = "s3://bucket/store", **settings: Any) -> FsspecPlace:
    """A place on a file system that says it is an object store with conditional writes."""
    return FsspecPlace(fs, "/bucket/store", url, **{"waits": SOON, **settings})


@pytest.mark.parametrize("arrived", [False, True])
def test_what_fails_in_passing_is_tried_again(arrived):
    for error in (TimeoutError("slow"), OSError(errno.EIO, "500"), ConnectionResetError()):
        here = on(fs := Failing(memory(), 1, error, times=2, arrived=arrived))
        here.put("a", NEW)
        assert fs.done == ["pipe_file"] * 3
        assert here.read("a") == NEW
        fs.at = len(fs.done) + 1
        assert here.read("a") == NEW
        fs.at = len(fs.done) + 1
        assert here.size("a") == len(NEW)
        fs.at = len(fs.done) + 1
        assert here.names() == ["a"]
        fs.at = len(fs.done) + 1
        here.remove("a")
        assert here.names() == []


def test_what_goes_on_failing():
    here = on(fs := Failing(memory(), 1, OSError(errno.EIO, "the server is down"), times=99))
    for act, doing in ((partial(here.put, data=NEW), "write"), (here.read, "read"), (here.size, "read")):
        fs.done.clear()
        with pytest.raises(VlmProbeError) as caught:
            act("a")
        assert str(caught.value) == (
            f"cannot {doing} s3://bucket/store/a: [Errno 5] the server is down; tried 3 times; the same command "
            "goes on from there"
        )
        assert len(fs.done) == 3
    with pytest.raises(VlmProbeError, match="tried 3 times"):
        here.create("a", NEW)


@pytest.mark.parametrize("error", [PermissionError("no"), OSError(errno.ENOSPC, "full"), NotImplementedError("no")])
def test_what_will_not_pass_is_told_at_once(error):
    here = on(fs := Failing(memory(), 1, error, times=99))
    with pytest.raises(VlmProbeError) as caught:
        here.put("a", NEW)
    assert str(caught.value) == f"cannot write s3://bucket/store/a: {error}"
    assert fs.done == ["pipe_file"]


@pytest.mark.parametrize(("status", "tries"), [(503, 3), (429, 3), ("500", 3), (400, 1), ("AccessDenied", 1)])
def test_answers_of_other_libraries(status, tries):
    class HttpError(Exception):
        code = status

    here = on(fs := Failing(memory(), 1, HttpError("said so"), times=99))
    with pytest.raises(VlmProbeError, match="cannot write s3://bucket/store/a: said so"):
        here.put("a", NEW)
    assert len(fs.done) == tries


def test_a_fault_of_ours_is_no_trouble_of_the_store():
    with pytest.raises(TypeError, match="ours"):
        on(Failing(memory(), 1, TypeError("ours"))).put("a", NEW)


def test_a_create_whose_answer_was_lost():
    store = memory()
    fs = Failing(store, 1, TimeoutError(), arrived=True)
    assert on(fs).create("a", NEW) is True
    assert fs.done == ["pipe_file", "cat_file"]
    # Another's, found when the first try had not arrived.
    fs = Failing(store, 1, TimeoutError())
    assert on(fs).create("a", OLD) is False
    fs = Failing(store, 1, TimeoutError())
    assert on(fs).create("b", OLD) is True
    assert (on(store).read("a"), on(store).read("b")) == (NEW, OLD)
    # Some stores have an error of their own for a name that is taken.
    fs = Failing(store, 1, OSError(errno.EINVAL, "412"), times=1)
    assert on(fs).create("a", OLD) is False
    # Nothing is known of it where it cannot be looked at.
    with pytest.raises(VlmProbeError, match="tried 3 times"):
        on(Failing(store, 1, TimeoutError(), arrived=True, times=99)).create("c", OLD)


@pytest.mark.parametrize("arrived", [False, True])
def test_a_file_system_that_shows_what_is_being_written(arrived, tmp_path):
    """At whatever operation it fails there is the old or the new file, and nothing else."""
    from fsspec.implementations.dirfs import DirFileSystem

    seen = set()
    for at in itertools.count(1):
        store = DirFileSystem(path=str(tmp_path / str(at)), target_protocol="file")
        FsspecPlace(store, "", "sftp://host").put("a/b", OLD)
        fs = Failing(store, at, OSError(errno.EIO, "gone"), arrived=arrived)
        here = FsspecPlace(fs, "", "sftp://me:password@host/x", waits=())
        said = ""
        try:
            here.put("a/b", NEW)
        except VlmProbeError as error:
            said = str(error)
        now = (tmp_path / str(at) / "a" / "b").read_bytes()
        seen.add(now)
        assert now in {OLD, NEW}
        assert [p.name for p in (tmp_path / str(at)).rglob("*") if p.is_file()] == ["b"]
        if not said:
            break
        assert said == (
            "cannot write sftp://me@host/x/a/b: [Errno 5] gone; tried 1 times; the same command goes on from there"
        )
    assert fs.done == ["makedirs", "pipe_file", "mv"]
    assert seen == {OLD, NEW}


def test_left_over_files_on_such_a_file_system(tmp_path):
    from fsspec.implementations.dirfs import DirFileSystem

    here = FsspecPlace(DirFileSystem(path=str(tmp_path), target_protocol="file"), "", "sftp://host")
    assert any(killed_at(step, partial(here.put, "a/b", NEW)) and here.partials() for step in range(1, 9))
    assert here.names() == []
    assert len(here.partials()) == 1
    here.remove(here.partials()[0])
    assert here.partials() == []


def test_listings_that_are_late():
    here = on(Stale(memory()))
    assert here.names() == []
    here.put("a", OLD)
    assert here.names() == [], "the listing is not stale, and this tests nothing"
    assert (here.read("a"), here.size("a")) == (OLD, len(OLD))
    assert here.create("a", NEW) is False
    here.remove("a")
    assert here.create("a", NEW) is True


def test_a_slow_file_system():
    here = on(fs := Slow(memory(), 0.01))
    here.put("a", NEW)
    assert here.create("a", OLD) is False
    assert fs.done == ["pipe_file", "pipe_file", "cat_file"]


def test_threads_that_create_in_memory():
    here = FsspecPlace(Slow(memory(), 0.001), "/store", "memory://store")
    made: list[int] = []
    threads = [threading.Thread(target=lambda n=n: here.create("a", b"%d" % n) and made.append(n)) for n in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [here.read("a")] == [b"%d" % n for n in made]


# --- S3


def test_large_files_are_created_in_parts_and_once(s3, monkeypatch):
    here = place(s3.url, storage_options=s3.options)
    assert isinstance(here, FsspecPlace)
    in_parts = partial(here.fs.pipe_file, chunksize=5 * 2**20)
    monkeypatch.setattr(here.fs, "pipe_file", in_parts)
    ones, twos = b"1" * (11 * 2**20), b"2" * (11 * 2**20)
    assert here.create("a", ones) is True
    assert here.fs.info(here.fs._strip_protocol(f"{s3.url}/a"))["ETag"].endswith('-3"'), "it was not sent in parts"
    assert here.create("a", twos) is False
    assert here.create("a", ones) is True
    assert here.read("a") == ones


def test_of_threads_that_create_on_s3_one_does(s3):
    made: list[int] = []

    def create(number: int) -> None:
        if place(s3.url, storage_options=s3.options).create("a", b"%d" % number):
            made.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [place(s3.url, storage_options=s3.options).read("a")] == [b"%d" % number for number in made]


def test_a_bucket_that_is_not_there(s3):
    here = place("s3://no-such-bucket/x", storage_options=s3.options)
    with pytest.raises(FileNotFoundError):
        here.read("a")
    assert (here.size("a"), here.names()) == (None, [])
    for act in (here.put, here.create):
        with pytest.raises(VlmProbeError) as caught:
            act("a", NEW)
        assert str(caught.value) == "cannot write s3://no-such-bucket/x/a: The specified bucket does not exist"


def test_what_another_wrote_is_seen_at_once(s3):
    one, two = (place(s3.url, storage_options=s3.options) for _ in range(2))
    assert (one.names(), two.size("a")) == ([], None)
    two.put("a", OLD)
    assert (one.names(), one.size("a")) == (["a"], len(OLD))
    two.remove("a")
    assert (one.names(), one.size("a")) == ([], None)
