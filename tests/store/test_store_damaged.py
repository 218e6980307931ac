"""What is damaged in a store is noticed, and mended where it can be; what no capture writes is refused."""

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import disturbed
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from disturbed import ITEMS, SHARD, captured
from hypothesis import given, settings
from hypothesis import strategies as st
from storing import POINTS, digest_of, files, scenes

from vlm_probe.errors import VlmProbeError
from vlm_probe.store import open_store, repair_store, store_errors, verify_store
from vlm_probe.store.places import LocalPlace, place
from vlm_probe.store.reading import store_of
from vlm_probe.store.records import MANIFEST, STORE, canonical, commit_name, record_of, table_name
from vlm_probe.store.shards import metadata, read_item_table

items, whole, store = disturbed.items, disturbed.whole, disturbed.store


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
