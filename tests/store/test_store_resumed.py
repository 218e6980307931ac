"""A capture that is killed, at any moment, goes on to the same bytes; what is damaged or changed is noticed."""

import errno
import io
import json
import os
import random
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from storing import POINTS, digest_of, ended, files, in_a_process, killing_at, scenes

from vlm_probe.errors import VlmProbeError, VlmProbeWarning
from vlm_probe.store import capture, open_store, repair_store, store_errors, verify_store
from vlm_probe.store.computing import ShardWorker
from vlm_probe.store.places import LocalPlace, place
from vlm_probe.store.reading import store_of
from vlm_probe.store.records import MANIFEST, STORE, canonical, commit_name, record_of, table_name
from vlm_probe.store.shards import metadata, read_item_table

ITEMS, SHARD = 17, 3
SHARDS = 6


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    """Scenes as picture files, one of which is no picture."""
    folder, found = tmp_path_factory.mktemp("pictures"), []
    for number, item in enumerate(scenes(ITEMS)):
        file = folder / f"{number}.png"
        picture = item.picture(96)
        assert isinstance(picture, Image.Image)
        picture.save(file)
        found.append(replace(item, source=file))
    (folder / "4.png").write_bytes(b"no picture")
    return found


def captured(model, items, out, **more):
    return capture(model, items, POINTS, out, shard_items=SHARD, batch_size=2, **more)


@pytest.fixture(scope="module")
def whole(replica, items, tmp_path_factory):
    """A store that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole") / "store"
    assert captured(replica, items, out).failed == 1
    return out


@pytest.fixture
def store(whole, tmp_path):
    """A copy of it, to be spoilt."""
    return Path(shutil.copytree(whole, tmp_path / "store"))


def test_the_same_capture_makes_the_same_bytes(replica, items, whole, tmp_path):
    captured(replica, items, tmp_path / "again", readers=1)
    assert digest_of(tmp_path / "again") == digest_of(whole)


def test_nothing_is_done_twice(replica, items, store, monkeypatch):
    before = files(store)
    monkeypatch.setattr(ShardWorker, "_run", lambda *given: pytest.fail("it was done again"))
    found = captured(replica, items, store)
    assert (found.done, found.failed, found.items) == (0, 1, ITEMS)
    assert files(store) == before


def test_a_store_that_is_half_done_says_so_and_shows_what_is_there(replica, items, store):
    (store / MANIFEST).unlink()
    (store / commit_name(2)).unlink()
    with pytest.warns(VlmProbeWarning, match="is not finished: 5 of 6 shards are there"):
        data = open_store(store)
    kept = [item.id for number, item in enumerate(items) if number not in (4, 6, 7, 8)]
    assert data["id"].values.tolist() == kept
    assert np.isfinite(data[POINTS[0]].values).all()
    assert not verify_store(store).problems
    assert not verify_store(store).whole
    found = captured(replica, items, store)
    assert found.done == SHARD
    assert verify_store(store).whole


def test_killed_at_twenty_moments_it_goes_on_to_the_same_bytes(replica, items, whole, tmp_path):
    out, draw = tmp_path / "store", random.Random(5)
    began = time.monotonic()
    assert ended(in_a_process(lambda: captured(replica, items, tmp_path / "timed"))) == 0
    takes = time.monotonic() - began
    killed = 0
    for _ in range(20):
        if (out / MANIFEST).exists():
            shutil.rmtree(out)
        child = in_a_process(lambda: captured(replica, items, out))
        time.sleep(draw.uniform(0.02, 0.8) * takes)
        os.kill(child, signal.SIGKILL)
        killed += ended(child) == -signal.SIGKILL
        if out.exists() and (out / STORE).exists():
            assert not verify_store(out).problems
    assert killed >= 10
    captured(replica, items, out)
    assert digest_of(out) == digest_of(whole)
    assert not place(out).partials() or repair_store(out).whole


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_every_step_it_goes_on_to_the_same_bytes(replica, items, whole, tmp_path, when):
    out = tmp_path / "store"

    def work(step):
        dies, steps = killing_at(step), ("put", "create")
        for name in steps:
            usual = getattr(LocalPlace, name)

            def dying(self, *given, usual=usual):
                if when == "before":
                    dies()
                done = usual(self, *given)
                if when == "after":
                    dies()
                return done

            setattr(LocalPlace, name, dying)  # in the fork alone
        captured(replica, items, out)

    step, codes = 0, []
    while not codes or codes[-1] != 0:
        codes.append(ended(in_a_process(lambda step=step: work(step))))
        assert codes[-1] in (0, -signal.SIGKILL)
        if codes[-1] and (out / STORE).exists():
            there = verify_store(out)
            assert not there.problems
            assert not there.whole or when == "after"
        # The first dies at its first step, the next one goes on from there and dies at its third ...
        step = 1 if step == 0 else step
        step += 1 if codes[-1] and len(codes) % 3 == 0 else 0
        assert len(codes) < 60
    assert len(codes) > 5
    assert digest_of(out) == digest_of(whole)


def test_an_interrupt_leaves_what_is_done_and_no_hook(replica, items, whole, tmp_path, monkeypatch):
    out, usual, seen = tmp_path / "store", ShardWorker._run, []

    def interrupted(self, ready):
        seen.append(1)
        if len(seen) == 5:
            raise KeyboardInterrupt
        return usual(self, ready)

    monkeypatch.setattr(ShardWorker, "_run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        captured(replica, items, out)
    monkeypatch.undo()
    assert not any(point.fwd_hooks for point in replica.hook_dict.values())
    assert 0 < verify_store(out).there < SHARDS
    captured(replica, items, out)
    assert digest_of(out) == digest_of(whole)


def test_a_full_disk_is_told_and_leaves_what_is_done(replica, items, whole, tmp_path, monkeypatch):
    out, usual, written = tmp_path / "store", os.write, []

    def write(file, data):
        written.append(len(data))
        if sum(written) > 30_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return usual(file, data)

    monkeypatch.setattr("vlm_probe.store.local_place.os.write", write)
    with pytest.raises(VlmProbeError, match=r"cannot write .*: No space left on device; make room and run it again"):
        captured(replica, items, out)
    monkeypatch.undo()
    assert not verify_store(out).problems
    assert verify_store(out).there < SHARDS
    captured(replica, items, out)
    assert digest_of(out) == digest_of(whole)


def test_what_cannot_be_written_is_told(replica, items, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(VlmProbeError, match="cannot write"):
        captured(replica, items, tmp_path / "file" / "store")


def test_an_error_of_a_reader_reaches_the_caller(replica, items, tmp_path, monkeypatch):
    def broken(*given):
        raise ZeroDivisionError

    monkeypatch.setattr(ShardWorker, "_ready", broken)
    with pytest.raises(ZeroDivisionError):
        captured(replica, items, tmp_path / "store")
    monkeypatch.undo()
    monkeypatch.setattr(ShardWorker, "_plan", broken)
    with pytest.raises(ZeroDivisionError):
        captured(replica, items, tmp_path / "store")


def test_a_second_writer_is_refused(replica, items, store):
    (store / MANIFEST).unlink()
    (store / commit_name(1)).unlink()
    with place(store).lock(), pytest.raises(VlmProbeError, match=str(os.getpid())):
        captured(replica, items, store)
    assert captured(replica, items, store).done == SHARD


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"positions": "mean(box)"}, r"positions \(mean\(image\), now mean\(box\)\)"),
        ({"dtype": "float16"}, r"dtype \(float32, now float16\)"),
        ({"points": POINTS[1:]}, "points"),
        ({"batch_size": 3}, r"batch_size \(2, now 3\)"),
        ({"items": 1}, "items"),
    ],
)
def test_a_store_of_something_else_is_refused(replica, items, store, change, named):
    given = {"points": POINTS, "shard_items": SHARD, "batch_size": 2, **change}
    if given.pop("items", None):
        items = [*items[:-1], replace(items[-1], question="Is it red?")]
    before = files(store)
    with pytest.raises(VlmProbeError, match=f"is a store of another .*{named}"):
        capture(replica, items, given.pop("points"), store, **given)
    assert files(store) == before


def test_another_model_of_the_same_name_is_refused(replica, items, store):
    weight = next(replica.hf.parameters())
    before = weight.detach().clone()
    try:
        weight.data.add_(0.5)
        with pytest.raises(VlmProbeError, match="is a store of another weights"):
            captured(replica, items, store)
    finally:
        weight.data.copy_(before)


def test_a_folder_of_something_else_is_refused(replica, items, tmp_path):
    (tmp_path / "thesis.tex").write_text("\\documentclass{article}")
    with pytest.raises(VlmProbeError, match=r"holds 'thesis.tex' and no store"):
        captured(replica, items, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_changed_picture_is_noticed(replica, items, tmp_path):
    own = []
    for number, item in enumerate(items):
        copy = tmp_path / f"{number}.png"
        assert isinstance(item.source, Path)
        shutil.copy(item.source, copy)
        own.append(replace(item, source=copy))
    out = tmp_path / "store"
    captured(replica, own, out)
    os.utime(tmp_path / "3.png")  # another time, the same picture
    assert captured(replica, own, out).done == 0
    shutil.copy(tmp_path / "9.png", tmp_path / "3.png")
    with pytest.raises(VlmProbeError, match="pictures changed since they were captured into .*: 1, the first"):
        captured(replica, own, out)
    found = repair_store(out, items=own)
    assert (found.there, found.problems) == (SHARDS - 1, [])
    assert captured(replica, own, out).done == SHARD
    capture(replica, own, POINTS, tmp_path / "anew", shard_items=SHARD, batch_size=2)
    assert digest_of(out) == digest_of(tmp_path / "anew")


def spoilt(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize("place_in", [0.0, 0.37, 0.99])
def test_a_spoilt_byte_is_found_in_every_file(whole, store, place_in):
    assert verify_store(store).whole
    kinds = {}
    for name, data in files(store).items():
        kinds.setdefault((Path(name).suffix, name.split("/")[0], name.count("/")), name)
        (store / name).write_bytes(spoilt(data, int(place_in * len(data))))
        if name == STORE:
            with pytest.raises(VlmProbeError, match="is damaged"):
                verify_store(store)
        else:
            assert verify_store(store).problems, name
        (store / name).write_bytes(data)
    assert len(kinds) >= 6  # store.json, commits, items, manifest.json, zarr.json and values
    assert verify_store(store).whole


def test_every_missing_file_is_found_and_mended(replica, items, whole, store):
    for name, data in files(store).items():
        if name in (STORE, MANIFEST):
            continue
        (store / name).unlink()
        found = verify_store(store)
        assert not found.whole, name
        assert found.problems or name.startswith("commits/")
        repair_store(store)
        assert not verify_store(store).problems, name
        (store / name).write_bytes(data)  # the other files of its shard are gone by now
        shutil.rmtree(store)
        shutil.copytree(whole, store)
    (store / table_name(0)).write_bytes(b"PAR1")
    (store / "arrays" / POINTS[0] / "zarr.json").unlink()
    (store / "stray.bin").write_bytes(b"what is this")
    assert len(verify_store(store).problems) >= 3
    after = repair_store(store)
    assert (after.problems, after.stray) == ([], ["stray.bin"])  # not ours: it is left
    assert captured(replica, items, store).done == SHARD
    (store / "stray.bin").unlink()
    assert digest_of(store) == digest_of(whole)


# --- a store from a stranger ------------------------------------------------------------------


def rewritten(store, **changes):
    record = record_of((store / STORE).read_bytes(), "store")
    del record["check"]
    for name, change in changes.items():
        record[name] = change(record[name])
    (store / STORE).write_bytes(canonical(record))


@pytest.mark.parametrize(
    "changes",
    [
        {"items": lambda n: n + 1},
        {"items": lambda n: -1},
        {"items": lambda n: 1 << 62},
        {"shard_items": lambda n: 0},
        {"format": lambda n: 99},
        {"arrays": lambda a: {"../../etc/passwd": next(iter(a.values()))}},
        {"arrays": lambda a: {"x/../y": next(iter(a.values()))}},
        {"arrays": lambda a: {"x": {**next(iter(a.values())), "dtype": "object"}}},
        {"arrays": lambda a: {"x": {**next(iter(a.values())), "dims": ["a", "b"]}}},
        {"arrays": lambda a: {"x": {**next(iter(a.values())), "shape": [ITEMS, 1 << 39]}}},
        {"arrays": lambda a: []},
        {"fingerprint": lambda a: 3},
        {"fingerprint": lambda a: {}},
        {"fingerprint": lambda a: {**a, "positions": 3}},
        {"fingerprint": lambda a: {**a, "points": ["elsewhere"]}},
        {"provenance": lambda a: {**a, "model": "\ud800"}},
        {
            "items": lambda n: 1 << 39,
            "shard_items": lambda n: 1,
            "arrays": lambda a: {k: {**v, "chunk_items": 1, "shape": [1 << 39, *v["shape"][1:]]} for k, v in a.items()},
        },
    ],
)
def test_a_description_that_no_capture_writes_is_refused(store, changes):
    rewritten(store, **changes)
    with pytest.raises(VlmProbeError):
        open_store(store)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300))
def test_no_bytes_crash_the_readers_of_records(data):
    from vlm_probe.store.records import Commit, StoreAbout
    from vlm_probe.store.shards import read_item_table

    for read in (StoreAbout.read, Commit.read, lambda data, name: read_item_table(data, name, 3)):
        with pytest.raises(VlmProbeError):
            read(data, "somewhere")


def test_a_chunk_that_wants_gigabytes_is_refused_before_it_is_unpacked(store):
    file = store / "arrays" / POINTS[0] / "c" / "1" / "0"
    data = bytearray(file.read_bytes())
    data[4:8] = (1 << 31).to_bytes(4, "little")  # Blosc's header: bytes when decompressed
    file.write_bytes(data)
    found = open_store(store)
    with pytest.raises(VlmProbeError, match=r"holds a chunk of 2,147,483,648 bytes where .* are expected"):
        found[POINTS[0]].values  # noqa: B018
    with pytest.raises(VlmProbeError, match="holds a chunk"):
        found[POINTS[0]].isel(item=3).values  # noqa: B018
    assert np.isfinite(found[POINTS[1]].values).all()


def test_a_chunk_that_says_it_is_longer_than_it_is_is_refused(store):
    """Blosc would read on behind it, in this process's memory."""
    file = store / "arrays" / POINTS[0] / "c" / "1" / "0"
    data = bytearray(file.read_bytes())
    data[12:16] = (int.from_bytes(data[12:16], "little") + 16).to_bytes(4, "little")
    file.write_bytes(data)
    with pytest.raises(VlmProbeError, match="or one that is cut off"):
        open_store(store)[POINTS[0]].values  # noqa: B018


@pytest.mark.parametrize(
    "change",
    [
        lambda about: about["codecs"][0]["configuration"]["codecs"].append(
            about["codecs"][0]["configuration"]["codecs"][1]
        ),
        lambda about: about["codecs"][0]["configuration"].update(index_location="start"),
        lambda about: about["attributes"].update(units="days since 2000-01-01"),
        lambda about: about["codecs"][0]["configuration"].update(chunk_shape=[1, 112]),
        lambda about: about.update(fill_value=0.0),
    ],
)
def test_what_zarr_would_do_otherwise_is_refused(store, change):
    file = store / "arrays" / POINTS[0] / "zarr.json"
    about = json.loads(file.read_text())
    change(about)
    file.write_text(json.dumps(about))
    with pytest.raises(VlmProbeError, match="is damaged: arrays/"):
        open_store(store)
    assert verify_store(store).problems


def test_a_text_that_stands_for_all_rows_is_counted_for_each(store):
    """Dictionary encoding: one long text in the file, as many in memory as there are items."""
    table = pq.read_table(store / table_name(0))
    rows = table.to_pylist() * 400
    long = [{**row, "question": "x" * 300_000} for row in rows]
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(long, schema=table.schema), out, compression="zstd")
    assert len(out.getvalue()) < 1_000_000
    with pytest.raises(VlmProbeError, match="its texts have 3.*bytes"):
        read_item_table(out.getvalue(), "table", len(rows))


def test_a_shard_of_another_store_is_none_of_this_one(replica, items, whole, tmp_path):
    others = [replace(item, id=f"other {item.id}") for item in items]
    captured(replica, others, tmp_path / "other")
    both = Path(shutil.copytree(whole, tmp_path / "store"))
    (both / MANIFEST).unlink()
    for name in (commit_name(1), table_name(1), *(f"arrays/{point}/c/1/0" for point in POINTS)):
        shutil.copy(tmp_path / "other" / name, both / name)
    assert verify_store(both).bad == [1]
    with pytest.raises(VlmProbeError, match="is of another shard or store"):
        open_store(both)
    repair_store(both)
    captured(replica, items, both)
    assert digest_of(both) == digest_of(whole)


def test_repair_with_another_dataset_changes_nothing(replica, items, store):
    before = files(store)
    for others in (items[:-1], items[::-1], scenes(ITEMS)):
        with pytest.raises(VlmProbeError, match="was captured from other items than these"):
            repair_store(store, items=others)
    assert files(store) == before


def test_a_read_that_fails_is_no_damage(store, monkeypatch):
    before, usual = files(store), LocalPlace.read

    def read(self, name):
        if name == commit_name(1):
            raise VlmProbeError(f"cannot read {name}: 503")
        return usual(self, name)

    monkeypatch.setattr(LocalPlace, "read", read)
    with pytest.raises(VlmProbeError, match="503"):
        repair_store(store)
    assert files(store) == before


def test_a_picture_that_was_missing_is_done_when_it_is_there(replica, items, tmp_path):
    later = tmp_path / "later.png"
    own = [replace(items[0], source=later), *items[1:3]]
    assert captured(replica, own, tmp_path / "store").failed == 1
    shutil.copy(str(items[0].source), later)
    with pytest.raises(VlmProbeError, match="pictures changed"):
        captured(replica, own, tmp_path / "store")
    repair_store(tmp_path / "store", items=own)
    assert captured(replica, own, tmp_path / "store").failed == 0


def test_another_drawing_of_the_same_item_is_another_item(replica, tmp_path):
    one, two = scenes(2)
    captured(replica, [one], tmp_path / "store")
    with pytest.raises(VlmProbeError, match="is a store of another items"):
        captured(replica, [replace(one, source=two.source)], tmp_path / "store")


def test_a_model_by_another_path_is_the_same(replica, items, whole, store, monkeypatch):
    (store / MANIFEST).unlink()
    (store / commit_name(3)).unlink()
    monkeypatch.setattr(replica, "name", "/elsewhere/default")
    assert captured(replica, items, store).done == SHARD
    assert digest_of(store) == digest_of(whole)


def test_a_foreign_codec_is_refused(store):
    file = store / "arrays" / POINTS[0] / "zarr.json"
    file.write_text(file.read_text().replace('"blosc"', '"numcodecs.pickle"'))
    with pytest.raises(VlmProbeError, match=r"codecs that no capture uses: numcodecs\.pickle"):
        open_store(store)


def test_a_commit_that_names_other_files_is_no_way_out(store):
    name = commit_name(0)
    record = record_of((store / name).read_bytes(), name)
    del record["check"]
    record["files"]["../../outside"] = {"bytes": 1, "sha256": "0" * 64}
    (store / name).write_bytes(canonical(record))
    (store / MANIFEST).unlink()
    outside = store.parent.parent / "outside"
    outside.write_text("mine")
    found = verify_store(store)
    assert any("names files that are not this shard's" in problem for problem in found.problems)
    repair_store(store)
    assert outside.read_text() == "mine"


def test_zarrs_files_are_those_of_the_description(whole):
    about = store_of(place(whole))
    for name, data in metadata(about).items():
        assert (whole / name).read_bytes() == data
    assert store_errors(whole)["number"].tolist() == [4]
