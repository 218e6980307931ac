"""A capture that is killed, at any moment, goes on to the same bytes; what is changed is noticed."""

import errno
import os
import random
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import disturbed
import numpy as np
import pytest
from disturbed import ITEMS, SHARD, SHARDS, captured
from storing import POINTS, digest_of, ended, files, in_a_process, killing_at

from vlm_probe.errors import VlmProbeError, VlmProbeWarning
from vlm_probe.store import capture, open_store, repair_store, verify_store
from vlm_probe.store.computing import ShardWorker
from vlm_probe.store.places import LocalPlace, place
from vlm_probe.store.records import MANIFEST, STORE, commit_name

items, whole, store = disturbed.items, disturbed.whole, disturbed.store


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
