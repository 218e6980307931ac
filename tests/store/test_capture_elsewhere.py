"""Captures beyond a local disk: an S3 store through a real server, Ray's actors, and file systems that fail."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import filesystems
import fsspec
import numpy as np
import pytest
import storing
from malformed_pictures import CASES
from storing import POINTS, digest_of, files, scenes

from vlm_probe.errors import VlmProbeError
from vlm_probe.inputs.images import open_image
from vlm_probe.opening import load
from vlm_probe.running.scheduling import Engine, cluster
from vlm_probe.store import capture, open_store, repair_store, store_errors, verify_store
from vlm_probe.store.places import FsspecPlace, LocalPlace

NAME = "replica/default"
on_cpu = partial(load, device="cpu")

s3, s3_server = filesystems.s3, filesystems.s3_server


@pytest.fixture(scope="module")
def items():
    return scenes(11)


def captured(model, items, out, **more):
    return capture(model, items, POINTS, out, shard_items=3, batch_size=2, **more)


@pytest.fixture(scope="module")
def whole(replica, items, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "store"
    captured(replica, items, out)
    return out


# --- object stores ----------------------------------------------------------------------------


def test_a_store_on_s3_is_the_one_on_the_disk(replica, items, whole, s3):
    found = captured(replica, items, s3.url, storage_options=s3.options)
    assert found.failed == 0
    fs, root = fsspec.core.url_to_fs(s3.url, **s3.options)
    there = {name.removeprefix(f"{root}/"): fs.cat_file(name) for name in fs.find(root)}
    assert {name: data for name, data in there.items() if name != ".lock"} == files(whole)
    data, same = open_store(s3.url, storage_options=s3.options), open_store(whole)
    for name in POINTS:
        np.testing.assert_array_equal(data[name].values, same[name].values)
    assert verify_store(s3.url, storage_options=s3.options).whole
    fs.rm_file(f"{root}/commits/000001.json")
    assert captured(replica, items, s3.url, storage_options=s3.options).done == 3


def test_a_spoilt_object_is_found_and_mended(replica, items, s3):
    captured(replica, items, s3.url, storage_options=s3.options)
    fs, root = fsspec.core.url_to_fs(s3.url, **s3.options)
    name = f"{root}/items/000002.parquet"
    fs.pipe_file(name, fs.cat_file(name)[:-1] + b"?")
    assert verify_store(s3.url, storage_options=s3.options).bad == [2]
    assert repair_store(s3.url, storage_options=s3.options).there == 3
    assert captured(replica, items, s3.url, storage_options=s3.options).done == 3
    assert verify_store(s3.url, storage_options=s3.options).whole


@pytest.mark.parametrize("at", [3, 9, 14, 20])
@pytest.mark.parametrize("arrived", [False, True])
def test_a_file_system_that_fails_for_a_moment_is_asked_again(replica, items, whole, at, arrived):
    kept = filesystems.memory()
    fs = filesystems.Failing(kept, at, TimeoutError("too slow"), times=2, arrived=arrived)
    captured(replica, items, FsspecPlace(fs, "/s", "memory://s", waits=(0.0, 0.0, 0.0)))
    assert same_files(kept, whole)


@pytest.mark.parametrize("at", [2, 8, 17, 30])
def test_a_file_system_that_fails_for_good_leaves_what_is_done(replica, items, whole, at):
    kept = filesystems.memory()
    fs = filesystems.Failing(kept, at, OSError("the server is on fire"), times=10_000)
    with pytest.raises(VlmProbeError, match="on fire"):
        captured(replica, items, FsspecPlace(fs, "/s", "memory://s", waits=(0.0,)))
    captured(replica, items, FsspecPlace(kept, "/s", "memory://s", lease_s=0.2, beat_s=0.05))
    assert same_files(kept, whole)


@pytest.mark.parametrize("kind", [partial(filesystems.Slow, seconds=0.003), filesystems.Stale])
def test_slow_and_stale_file_systems_are_no_matter(replica, items, whole, kind):
    kept = filesystems.memory()
    where = FsspecPlace(kind(kept), "/s", "memory://s")
    captured(replica, items, where)
    assert same_files(kept, whole)
    assert captured(replica, items, where).done == 0
    np.testing.assert_array_equal(open_store(where)[POINTS[0]].values, open_store(whole)[POINTS[0]].values)


def same_files(fs, whole):
    found = {name.removeprefix("/s/"): fs.cat_file(name) for name in fs.find("/s")}
    return {name: data for name, data in found.items() if name != ".lock"} == files(whole)


# --- Ray --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ray_here():
    """One cluster for all tests of this file: starting one takes seconds."""
    with cluster(Engine("ray", actors=2)):
        yield


def test_actors_of_ray_make_the_same_bytes(items, whole, tmp_path, ray_here):
    found = captured(NAME, items, tmp_path / "s", engine=Engine("ray", actors=2), load=on_cpu)
    assert (found.failed, found.done) == (0, len(items))
    assert digest_of(tmp_path / "s") == digest_of(whole)
    assert captured(NAME, items, tmp_path / "s", engine=Engine("ray", actors=1), load=on_cpu).done == 0


def test_an_actor_that_is_killed_is_replaced(items, whole, tmp_path, ray_here, monkeypatch):
    """It dies once, with all of a shard's files written but its commit."""
    monkeypatch.setattr(LocalPlace, "put", LocalPlace.put)  # opening the model changes it here, too
    load = partial(storing.dying_once, str(tmp_path / "died"))
    found = captured(NAME, items, tmp_path / "s", engine=Engine("ray", actors=2), load=load)
    assert (tmp_path / "died").exists()
    assert found.done == len(items)
    assert digest_of(tmp_path / "s") == digest_of(whole)


def test_a_driver_that_is_killed_leaves_a_store_that_goes_on(items, whole, tmp_path):
    out = tmp_path / "s"
    command = [sys.executable, "-m", "vlm_probe", "capture", "64", "--out", str(out), "-m", NAME, "--engine", "ray"]
    command += ["--actors", "2", "--shard-items", "2", "--batch-size", "1", "--device", "cpu"]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(Path(__file__).parent),
    }
    with (tmp_path / "log").open("wb") as log:
        driver = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    until = time.monotonic() + 300
    while time.monotonic() < until and driver.poll() is None and not list(out.glob("commits/*.json")):
        time.sleep(0.02)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    before = {path.name for path in out.glob("commits/*.json")}
    assert before, (tmp_path / "log").read_text()
    assert not verify_store(out).problems
    local = [*command[: command.index("--engine")], *command[command.index("--shard-items") :]]
    done = subprocess.run(local, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert verify_store(out).whole
    local[local.index(str(out))] = str(tmp_path / "t")
    again = subprocess.run(local, env=environment, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stderr
    assert digest_of(out) == digest_of(tmp_path / "t")


def test_ray_takes_a_name(replica, items, tmp_path):
    with pytest.raises(VlmProbeError, match="with the engine ray a model is given by its name"):
        captured(replica, items, tmp_path / "s", engine=Engine("ray"))


# --- pictures of all sorts --------------------------------------------------------------------


def test_every_malformed_picture_is_read_or_recorded(replica, tmp_path):
    """None stops the others, and those that are read are read as `open_image` reads them."""
    (template,) = scenes(1)
    made, expected = [], {}
    for number, case in enumerate(CASES):
        file = tmp_path / f"{number}.{case.ending}"
        file.write_bytes(case.content)
        made.append(replace(template, id=str(number), image=file.name, source=file))
        try:
            open_image(file)
            expected[str(number)] = ""
        except VlmProbeError as error:
            expected[str(number)] = str(error)
    assert len(made) >= 200
    found = capture(replica, made, POINTS, tmp_path / "s")
    failed = set(store_errors(tmp_path / "s")["id"])
    assert failed == {name for name, error in expected.items() if error}
    assert 0 < found.failed < len(made)
    assert np.isfinite(open_store(tmp_path / "s")[POINTS[0]].values).all()
