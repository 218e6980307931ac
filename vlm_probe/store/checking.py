"""Whether a store holds what it says, byte for byte; and a damaged one made such that a capture mends it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlm_probe.errors import VlmProbeError
from vlm_probe.items.datasets import Items
from vlm_probe.store.places import Place, place
from vlm_probe.store.reading import manifest_of, store_of, tables_of, write_manifest
from vlm_probe.store.records import (
    MANIFEST,
    STORE,
    Commit,
    StoreAbout,
    array_file,
    commit_name,
    digest,
    table_name,
)
from vlm_probe.store.shards import check_metadata, metadata, read_item_table


@dataclass
class Verified:
    """What is wrong with a store."""

    url: str
    shards: int
    """That it has when it is whole."""
    there: int
    """That are committed and whole."""
    items: int
    failed: int
    bytes: int
    """Of all files that are committed."""
    stray: list[str] = field(default_factory=list)
    """Files that are not the store's; they are left alone."""
    problems: list[str] = field(default_factory=list)
    """A line each; empty for a store that is as it was written."""
    bad: list[int] = field(default_factory=list)
    """Shards that must be done again."""
    whole: bool = False
    """Whether all shards are there and nothing is wrong."""


def verify_store(path: str | Path | Place, *, storage_options: Mapping[str, Any] | None = None) -> Verified:
    """Read every file of a store and compare it with its checksum; nothing is changed.

    Raises VlmProbeError where there is no store, or its description cannot be read.
    """
    where = place(path, storage_options=storage_options)
    return _verify(where, store_of(where))[0]


def _verify(where: Place, about: StoreAbout) -> tuple[Verified, dict[int, Commit]]:
    """What is wrong with a store, and the commits of the shards with which nothing is."""
    problems, bad, good = list(check_metadata(where, about)), [], {}
    size = 0
    for number in range(about.shards):
        wrong, commit = _check_shard(where, about, number)
        if wrong:
            problems += wrong
            bad.append(number)
        elif commit is not None:
            good[number] = commit
            size += sum(one["bytes"] for one in commit.files.values())
    known = {STORE, MANIFEST, *about.metadata_names} | {name for commit in good.values() for name in commit.files}
    known |= {commit_name(number) for number in good}
    with suppress(FileNotFoundError):
        data = where.read(MANIFEST)
        if bad or len(good) < about.shards or data != manifest_of(where, about, good):
            problems.append(f"{MANIFEST} does not agree with the shards that are there")
    of_bad = {commit_name(number) for number in bad}
    unknown = [name for name in where.names() if name not in known and name not in of_bad]
    uncommitted = {file for number in range(about.shards) if number not in good for file in _files_of(about, number)}
    found = Verified(
        where.url,
        about.shards,
        len(good),
        sum(one.items for one in good.values()),
        sum(one.failed for one in good.values()),
        size,
        [name for name in unknown if name not in uncommitted],
        problems,
        bad,
        len(good) == about.shards and not problems,
    )
    return found, good


def _files_of(about: StoreAbout, number: int) -> list[str]:
    """The names of what a shard writes, its commit aside: what a killed one may have left."""
    return [table_name(number), *(array_file(name, number, len(array.dims)) for name, array in about.arrays.items())]


def _check_shard(where: Place, about: StoreAbout, number: int) -> tuple[list[str], Commit | None]:
    """What is wrong with a shard, and its commit if there is one."""
    name = commit_name(number)
    try:
        data = where.read(name)  # what fails here may pass: it is no damage
    except FileNotFoundError:
        return [], None
    try:
        commit = Commit.read(data, name)
    except VlmProbeError as error:
        return [str(error)], None
    wrong = []
    if not about.owns(commit, number):
        wrong.append(f"{name} is of another shard or store")
    may, must = set(_files_of(about, number)), table_name(number)
    if not set(commit.files) <= may or must not in commit.files:
        return [*wrong, f"{name} names files that are not this shard's"], commit
    for file, expected in commit.files.items():
        try:
            data = where.read(file)
        except FileNotFoundError:
            wrong.append(f"{file} is missing")
            continue
        if len(data) != expected["bytes"] or digest(data) != expected["sha256"]:
            wrong.append(f"{file} is not what was written: its checksum differs")
        elif file == must:
            wrong += _check_table(data, file, commit, about)
    return wrong, commit


def _check_table(data: bytes, file: str, commit: Commit, about: StoreAbout) -> list[str]:
    """What is wrong with a shard's item table."""
    try:
        table = read_item_table(data, file, commit.items)
    except VlmProbeError as error:
        return [str(error)]
    failed = int((table["error"].to_numpy() != "").sum())
    wrong = [] if failed == commit.failed else [f"{file} has {failed} failed items, its commit {commit.failed}"]
    return (
        wrong if table["number"].tolist() == list(about.span(commit.shard)) else [*wrong, f"{file} is of other items"]
    )


def repair_store(
    path: str | Path | Place, *, items: Items | None = None, storage_options: Mapping[str, Any] | None = None
) -> Verified:
    """Drop what is damaged, and what killed writers left, so that the same `capture` does it again.

    items: those that were captured, in their order; shards whose pictures have changed since are dropped too, or can be
    read by now.

    Returns what is there afterwards. Raises VlmProbeError where there is no store, a writer is at work, the items are
    others, or the description itself is damaged, without which nothing can be told.
    """
    where = place(path, storage_options=storage_options)
    about = store_of(where)
    if items is not None:
        from vlm_probe.store.describing import digest_of  # brings torch

        if digest_of(items) != about.fingerprint["items"]:
            raise VlmProbeError(
                f"{where.url} was captured from other items than these {len(items)}; give the same dataset, with the "
                "same options: nothing was changed"
            )
    with where.lock():
        found, good = _verify(where, about)
        bad = set(found.bad)
        if items is not None:
            bad |= {number for number, _ in changed_pictures(where, good, items, about)}
        there = {number: commit for number, commit in good.items() if number not in bad}
        if check_metadata(where, about):
            for name, data in metadata(about).items():
                where.put(name, data)
        if bad or found.problems:
            where.remove(MANIFEST)
        for number in range(about.shards):
            if number not in there:
                where.remove(commit_name(number))  # first: from here on the shard is not there
            named = there[number].files if number in there else {}
            for file in _files_of(about, number):  # a shard may have files that it does not name
                if file not in named:
                    where.remove(file)
        for name in where.partials():
            where.remove(name)
        write_manifest(where, about, there)
    return _verify(where, about)[0]


def changed_pictures(
    where: Place, commits: Mapping[int, Commit], items: Items, about: StoreAbout
) -> list[tuple[int, str]]:
    """Shard and image of every item whose picture is another one than was captured.

    A file is read again only where its size or time has changed, or where it could not be read at first; what is drawn,
    and a file that is gone, is not looked at.
    """
    from vlm_probe.store.preparing import file_stamp, stamp

    found = []
    for number in sorted(commits):
        table = tables_of(where, about, {number: commits[number]})
        for row in table.to_dict("records"):
            try:
                item = items[int(row["number"])]
                held_in = getattr(item.source, "container", None)
                # Where a table or an archive has not changed, nothing in it has; else what it names is asked.
                if held_in is not None and file_stamp(Path(held_in)) == (row["bytes"], row["modified"]):
                    continue
                if stamp(item) == (row["bytes"], row["modified"]):
                    continue
                held: Any = item.picture(1)
                data = held.read_bytes() if isinstance(held, Path) else held
            except (VlmProbeError, OSError):
                continue
            if isinstance(data, bytes) and digest(data) != row["sha256"]:
                found.append((number, str(row["image"])))
    return found
