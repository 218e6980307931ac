"""What every place of files does, the names it takes, and the addresses that it is opened by."""

import os
import pickle
import subprocess
import sys
from importlib import import_module
from pathlib import Path, PureWindowsPath
from typing import Any

import filesystems
import numpy as np
import pytest
from filesystems import Behind, memory
from hypothesis import given
from hypothesis import strategies as st

from vlm_probe.errors import VlmProbeError
from vlm_probe.store.places import FsspecPlace, Place, place, safe_name

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
