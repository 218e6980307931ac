"""Files whole or not at all: kills at every step, full disks, races, file systems that fail, lie and dawdle, and S3."""

import errno
import itertools
import os
import pickle
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from functools import partial
from importlib import import_module
from pathlib import Path, PureWindowsPath
from typing import Any

import filesystems
import numpy as np
import pytest
from filesystems import Behind, Failing, Slow, Stale, at_once, in_child, killed_at, memory
from hypothesis import given
from hypothesis import strategies as st

from vlm_probe.errors import VlmProbeError
from vlm_probe.store.places import FsspecPlace, LocalPlace, Place, place, safe_name

s3, s3_server = filesystems.s3, filesystems.s3_server

SOON = (0.001, 0.001)
"""Waits of three tries."""
OLD, NEW = b"old" * 7, b"newer" * 11


def on(fs: Any, url: str = "s3://bucket/store", **settings: Any) -> FsspecPlace:
    """A place on a file system that says it is an object store with conditional writes."""
    return FsspecPlace(fs, "/bucket/store", url, **{"waits": SOON, **settings})


@pytest.fixture(params=["local", "file", "memory", "dir", "s3"])
def any_place(request, tmp_path) -> Place:
    if request.param == "local":
        return place(tmp_path / "a" / "store")
    if request.param == "file":
        return place(f"file://{tmp_path}/store")
    if request.param == "memory":
        return place(f"memory://{tmp_path}")
    if request.param == "dir":
        options = {"path": str(tmp_path), "target_protocol": "file"}
        return place("dir://", storage_options=options)
    bucket = request.getfixturevalue("s3")
    return place(bucket.url, storage_options=bucket.options)


def test_what_a_place_does(any_place):
    assert isinstance(any_place, Place)
    assert any_place.names() == []
    assert any_place.size("a/b") is None
    with pytest.raises(FileNotFoundError):
        any_place.read("a/b")
    any_place.remove("a/b")

    any_place.put("a/b", OLD)
    assert (any_place.read("a/b"), any_place.size("a/b")) == (OLD, len(OLD))
    any_place.put("a/b", NEW)
    assert any_place.read("a/b") == NEW
    # A folder is no file.
    assert any_place.size("a") is None
    with pytest.raises(FileNotFoundError):
        any_place.read("a")

    assert any_place.create("c", OLD) is True
    assert any_place.create("c", NEW) is False
    assert any_place.create("c", OLD) is True, "what is there is what it would have written"
    assert any_place.read("c") == OLD
    any_place.put("empty", b"")
    assert (any_place.read("empty"), any_place.size("empty")) == (b"", 0)

    any_place.put("ab/b", OLD)
    with any_place.lock() as lock:
        lock.check()
        assert any_place.names() == ["a/b", "ab/b", "c", "empty"]
    assert any_place.names("a") == any_place.names("a/") == ["a/b"]
    assert any_place.names("none") == []
    assert any_place.partials() == []
    any_place.remove("a/b")
    any_place.remove("a/b")
    assert any_place.size("a/b") is None
    assert any_place.names() == ["ab/b", "c", "empty"]
    for act in (any_place.read, any_place.size, any_place.remove, any_place.names):
        with pytest.raises(VlmProbeError, match="cannot be one of a file in a store"):
            act("../c")
    for act in (any_place.put, any_place.create):
        with pytest.raises(VlmProbeError, match="cannot be one of a file in a store"):
            act("/c", NEW)


def test_zarr_reads_what_was_put(any_place):
    import zarr
    from zarr.storage import MemoryStore

    store = MemoryStore()
    values = np.arange(35, dtype="float32").reshape(5, 7)
    zarr.open_group(store, mode="w").create_array("x", data=values, chunks=(2, 3))
    for name, data in store._store_dict.items():
        any_place.put(f"z/{name}", data.to_bytes())
    opened = zarr.open_group(any_place.zarr(), path="z", mode="r")
    assert np.array_equal(np.asarray(opened["x"]), values)
    assert [name for name, _ in opened.members()] == ["x"]
    with pytest.raises(ValueError, match="read-only"):
        opened.create_group("y")


@pytest.mark.parametrize("kind", ["local", "s3"])
def test_workers_get_a_place_by_pickling(kind, tmp_path, request):
    made = place(tmp_path)
    if kind == "s3":
        bucket = request.getfixturevalue("s3")
        made = place(bucket.url, storage_options=bucket.options)
    made.put("a", OLD)
    assert pickle.loads(pickle.dumps(made)).read("a") == OLD
    assert pickle.loads(pickle.dumps(made.zarr())) == made.zarr()


# --- names


BAD = [
    "",
    "/a",
    "a/",
    "a//b",
    "..",
    "../a",
    "a/../../b",
    ".",
    "a/./b",
    "a\\b",
    "a\0b",
    "C:",
    "c:/a",
    "a/c:b",
    ".. ",
    "\ud800",
]


@pytest.mark.parametrize("name", BAD)
def test_names_that_could_lead_out(name):
    with pytest.raises(VlmProbeError) as caught:
        safe_name(name)
    assert str(caught.value) == (
        f"the name {name!r} cannot be one of a file in a store: expected parts between '/', none of them empty or "
        "of dots alone, without a backslash, NUL or drive letter"
    )


@pytest.mark.parametrize(
    "name", ["a", "a/b.c", "..a", "a..", "ab:c", "~/a", "a b", "ü/\u3042", "zarr.json", "c/0/0", "*", "%2e"]
)
def test_names_that_cannot(name):
    assert safe_name(name) == name


@given(st.lists(st.sampled_from([*"./\\:\0 ~aC", "..", "\ud800", "ü"]), max_size=8).map("".join) | st.text(max_size=20))
def test_no_name_that_passes_leaves_the_folder(name):
    try:
        safe_name(name)
    except VlmProbeError:
        return
    folder = "/some/folder"
    assert os.path.normpath(os.path.join(folder, name)).startswith(folder + "/")
    assert len(Path(folder, name).parts) == 3 + len(name.split("/"))
    windows = PureWindowsPath("D:\\some\\folder")
    assert (windows / name).is_relative_to(windows)
    assert not any(part.rstrip(". ") == "" for part in (windows / name).parts[3:])
    name.encode()


# --- a local folder


def no_links(*_: object) -> None:
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


@pytest.mark.parametrize("act", ["put new", "put", "create new", "create", "create new, no links"])
def test_killed_at_every_step(act, tmp_path, monkeypatch):
    if act.endswith("links"):
        monkeypatch.setattr(os, "link", no_links)
    seen = set()
    for step in itertools.count(1):
        here = LocalPlace(tmp_path / str(step) / "store")
        before = None if "new" in act else OLD
        if before is not None:
            here.put("a/b", before)
        # As a process that comes anew, which does not know what is durable.
        fresh = LocalPlace(here.folder)
        do = fresh.put if act.startswith("put") else fresh.create
        killed = killed_at(step, partial(do, "a/b", NEW))
        now = here.read("a/b") if here.size("a/b") is not None else None
        seen.add(now)
        assert now in {before, NEW} if act != "create" else now == OLD
        assert set(here.names()) == ({"a/b"} if now else set()), "what is half-written shows"
        # The next process goes on from there.
        if act.startswith("put"):
            here.put("a/b", NEW)
        else:
            assert here.create("a/b", NEW) is (before is None)
        for name in here.partials():
            here.remove(name)
        there = {p.relative_to(here.folder).as_posix() for p in here.folder.rglob("*") if p.is_file()}
        assert there - {".lock.create"} == {"a/b"}
        if not killed:
            break
    if act == "create":  # it looks first, and writes nothing
        assert (step, seen) == (1, {OLD})
    else:
        assert step > 6
        assert seen == {before, NEW}


def test_a_killed_writers_file_is_known_and_a_living_ones_is_not(tmp_path):
    here = LocalPlace(tmp_path)
    assert killed_at(4, partial(here.put, "a", NEW))
    left = here.partials()
    assert len(left) == 1
    assert here.names() == []
    assert (tmp_path / left[0]).read_bytes() == NEW[: len(NEW) // 2] or (tmp_path / left[0]).read_bytes() == NEW
    (tmp_path / f"a.{os.getppid()}-0123abcd.partial").write_bytes(b"")
    assert here.partials() == left


@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
def test_of_two_processes_that_create_one_does(links, tmp_path, monkeypatch):
    if not links:
        replace = os.replace

        def slowly(*args: Any) -> None:  # between the look and the move others would have time
            time.sleep(0.01)
            replace(*args)

        monkeypatch.setattr(os, "link", no_links)
        monkeypatch.setattr(os, "replace", slowly)
    here = LocalPlace(tmp_path)
    winners = set()

    def create(name: str, number: int) -> None:
        os._exit(10 + here.create(name, f"by {number}".encode() * 999))

    for turn in range(8):
        with at_once([partial(create, f"a{turn}", number) for number in range(3)]) as go:
            codes = [os.waitstatus_to_exitcode(status) for status in go()]
        assert sorted(codes) == [10, 10, 11]
        winner = codes.index(11)
        assert here.read(f"a{turn}") == f"by {winner}".encode() * 999
        winners.add(winner)
    assert here.partials() == []


def test_what_is_written_is_durable(tmp_path, monkeypatch):
    happened: list[tuple[str, str]] = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(number: int) -> None:
        happened.append(("fsync", os.readlink(f"/proc/self/fd/{number}")))
        fsync(number)

    def noted_replace(source: Any, target: Any) -> None:
        happened.append(("replace", str(source)))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    LocalPlace(tmp_path / "x" / "store").put("a/b", NEW)
    folders = [str(tmp_path / part) for part in ("", "x", "x/store", "x/store/a")]
    *made, (_, temporary), replaced, last = happened
    assert made == [("fsync", folder) for folder in folders[:3]]
    assert temporary.startswith(f"{folders[3]}/b.{os.getpid()}-")
    assert replaced == ("replace", temporary)
    assert last == ("fsync", folders[3])


def test_a_full_disk(tmp_path):
    here = LocalPlace(tmp_path)
    here.put("a", OLD)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        for act, name in ((here.put, "a"), (here.put, "b"), (here.create, "c")):
            with pytest.raises(VlmProbeError) as caught:
                act(name, bytes(1001))
            assert str(caught.value) == f"cannot write {tmp_path}/{name}: File too large; make room and run it again"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"a": OLD}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
@pytest.mark.parametrize("function", ["open", "write", "fsync", "replace", "link"])
def test_a_disk_that_fails_at_a_step(function, number, tmp_path, monkeypatch):
    here = LocalPlace(tmp_path)
    here.put("a", OLD)

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, function, fail)
        do, name = (here.create, "b") if function == "link" else (here.put, "a")
        with pytest.raises(VlmProbeError) as caught:
            do(name, NEW)
    more = "; make room and run it again" if number == errno.ENOSPC else ""
    assert str(caught.value) == f"cannot write {tmp_path}/{name}: {os.strerror(number)}{more}"
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"a": OLD}


def test_a_folder_that_may_not_be_written():
    folder = Path(tempfile.mkdtemp(prefix="readonly"))
    try:
        LocalPlace(folder).put("a", OLD)
        folder.chmod(0o555)

        def write() -> None:
            if os.geteuid() == 0:  # who may write anywhere
                os.setgid(65534)
                os.setuid(65534)
            for do, name in ((LocalPlace(folder).put, "a"), (LocalPlace(folder).create, "b")):
                with pytest.raises(VlmProbeError) as caught:
                    do(name, NEW)
                assert str(caught.value) == f"cannot write {folder}/{name}: Permission denied"
            assert LocalPlace(folder).read("a") == OLD

        assert in_child(write) == 0
        assert [p.name for p in folder.iterdir()] == ["a"]
    finally:
        shutil.rmtree(folder)


def test_a_file_where_a_folder_should_be(tmp_path):
    here = LocalPlace(tmp_path)
    here.put("a", OLD)
    assert here.size("a/b") is None
    with pytest.raises(FileNotFoundError):
        here.read("a/b")
    with pytest.raises(VlmProbeError) as caught:
        here.put("a/b", NEW)
    assert str(caught.value) == f"cannot write {tmp_path}/a/b: Not a directory"


def test_links_that_lead_out_are_not_followed(tmp_path):
    import zarr

    inside, outside = tmp_path / "store", tmp_path / "store-of-others"
    here = LocalPlace(inside)
    for folder in (inside, outside):
        zarr.open_group(folder, mode="w").create_array("x", data=np.ones(3))
    here.put("real/file", OLD)
    (outside / "file").write_bytes(b"secret")
    (inside / "file").symlink_to(outside / "file")
    (inside / "folder").symlink_to(outside)
    (inside / "near").symlink_to("real")
    os.mkfifo(inside / "pipe")

    assert here.read("near/file") == OLD
    said = "leads out of the store through a symbolic link"
    for act in (here.read, here.size):
        for name in ("file", "folder/file", "folder/none"):
            with pytest.raises(VlmProbeError, match=said):
                act(name)
    for name in ("folder/file", "folder/new", "folder/new/new"):
        for act in (partial(here.put, data=NEW), partial(here.create, data=NEW), here.remove):
            with pytest.raises(VlmProbeError, match=said):
                act(name)
    with pytest.raises(VlmProbeError, match=said):
        here.names("folder")
    with pytest.raises(VlmProbeError, match="is neither a file nor a folder"):
        here.read("pipe")
    assert sorted(p.name for p in outside.iterdir()) == ["file", "x", "zarr.json"]
    assert not any(name.startswith("folder") for name in here.names())
    # To write one replaces the link.
    here.put("file", NEW)
    assert (here.read("file"), (outside / "file").read_bytes()) == (NEW, b"secret")

    group = zarr.open_group(here.zarr(), mode="r")
    assert np.asarray(group["x"]).tolist() == [1, 1, 1]
    with pytest.raises(VlmProbeError, match=said):
        group["folder"]
    (inside / "x" / "c" / "0").unlink()
    (inside / "x" / "c" / "0").symlink_to(outside / "x" / "c" / "0")
    with pytest.raises(VlmProbeError, match=said):
        np.asarray(group["x"])


def test_room_on_a_disk(tmp_path):
    assert (LocalPlace(tmp_path / "not" / "yet").free() or 0) > 0
    assert on(memory()).free() is None


# --- file systems that misbehave


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


# --- opening


def test_addresses_that_name_no_place(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(import_module("fsspec.registry")._registry, "s3", raising=False)
    for url, said in {
        "s3://bucket/x": "s3:// needs a package that is not installed: pip install vlm-probe[s3]",
        "gs://bucket/x": "gs:// needs a package that is not installed: pip install gcsfs",
        "nowhere://x": "cannot open nowhere://x: Protocol not known: nowhere",
        "simplecache::s3://bucket/x": "simplecache::s3://bucket/x is a file system within another (or a cache of it): "
        "expected one of them alone",
    }.items():
        with pytest.raises(VlmProbeError) as caught:
            place(url)
        assert str(caught.value) == said


def test_s3_without_a_bucket(s3_server):
    with pytest.raises(VlmProbeError) as caught:
        place("s3://")
    assert str(caught.value) == "s3:// names no bucket: expected s3://bucket/prefix"


def test_opening_a_folder_loads_no_file_systems():
    script = (
        "import sys; from vlm_probe.store.places import place; place('x').names()\n"
        "print({'s3fs', 'ray', 'fsspec', 'zarr', 'torch', 'pandas'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_the_wrapper_itself_changes_nothing():
    here = on(Behind(memory()))
    here.put("a", NEW)
    assert (here.read("a"), here.names()) == (NEW, ["a"])
