"""Files in a local folder, whole or not at all: kills at every step, full disks, races, and links that lead out."""

import errno
import itertools
import os
import resource
import shutil
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import filesystems
import numpy as np
import pytest
from filesystems import at_once, in_child, killed_at, memory

from vlm_probe.errors import VlmProbeError
from vlm_probe.store.places import FsspecPlace, LocalPlace

s3, s3_server = filesystems.s3, filesystems.s3_server

SOON = (0.001, 0.001)
"""Waits of three tries."""
OLD, NEW = b"old" * 7, b"newer" * 11


def on(fs: Any, url: str = "s3://bucket/store", **settings: Any) -> FsspecPlace:
    """A place on a file system that says it is an object store with conditional writes."""
    return FsspecPlace(fs, "/bucket/store", url, **{"waits": SOON, **settings})


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
