"""WebDataset: tar files whose members make a sample where their names agree up to the first dot.

Members are read at their offsets, and nothing is unpacked: names are names, and lead nowhere. Pickles are not read, nor
is any member that is no picture, text or JSON.
"""

from __future__ import annotations

import json
import tarfile
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from vlm_probe.errors import VlmProbeError
from vlm_probe.items.datasets.dataset import Dataset, Options
from vlm_probe.items.datasets.fields import item_of, taken
from vlm_probe.items.datasets.reading import MAX_BYTES, MAX_TEXT, Span, opened, piece, reading
from vlm_probe.items.entries import BadEntryError
from vlm_probe.items.item import Item

PICTURES = ("jpg", "jpeg", "png", "webp")
"""Endings of a sample's picture; the first that is there, where there are several."""
TEXTS = ("txt", "json")
_MAX_HEADER = 1 << 16
"""Bytes of a long name, or of other extended headers, which are read at once."""
_BLOCK = 512


class _Headers:
    """A tar file as `tarfile` may read it: a header that declares gigabytes is not read into memory."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.seek, self.tell = file, file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MAX_HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self.file.read(size)


def _members(file: BinaryIO, begin: int = 0, end: int | None = None) -> Iterator[tuple[tarfile.TarInfo, int]]:
    """The headers from `begin` on, and where each member ends; raises what `tarfile` does where they break off."""
    file.seek(begin)
    tar = tarfile.TarFile(fileobj=_Headers(file))  # pyright: ignore[reportArgumentType]
    at = begin
    while (member := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined]  # or it would keep them all
        if member.size < 0 or tar.offset <= at:  # type: ignore[attr-defined]
            raise tarfile.ReadError(f"a member of {member.size} bytes")
        at = tar.offset  # type: ignore[attr-defined]
        yield member, at
        if end is not None and at >= end:
            return
    file.seek(at)
    if file.read(_BLOCK).strip(b"\0"):
        # Silence would lose what follows.
        raise tarfile.ReadError(f"no header at byte {at}; what follows is not read")


def _parts_of(name: str) -> tuple[str, str]:
    """A sample's key and a member's ending, in lower case; the ending is "" where the member is of no sample."""
    folder, slash, file = name.removeprefix("./").rpartition("/")
    stem, _, ending = file.partition(".")
    return f"{folder}{slash}{stem}", ending.lower() if stem else ""


@dataclass(frozen=True)
class _Samples:
    shard: np.ndarray
    begins: np.ndarray
    ends: np.ndarray
    again: np.ndarray
    """Whether the key was there before, in the same shard."""
    bad: Mapping[int, str]

    def __len__(self) -> int:
        return len(self.begins)


class ShardsDataset(Dataset[_Samples]):
    """Samples of tar files, in their order; a shard that cannot be read, or the rest of it, counts as one item.

    A sample's id is its shard and its key, "train-000.tar/0001", unless its JSON has one; its picture is its first of
    jpg, jpeg, png and webp. Its JSON gives the other fields. Its txt is the answer, and the question where `columns`
    says so ({"question": "txt"}).
    """

    def __init__(self, path: Path, options: Options, files: Sequence[Path] = ()) -> None:
        super().__init__(path, options)
        self.files = tuple(files)
        image = options.columns.get("image", "")
        if image and image not in PICTURES:
            raise VlmProbeError(f"the image of a sample is one of {', '.join(PICTURES)}, got {image!r}")

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"files": self.files}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.files = state["files"]

    def _indexed(self) -> _Samples:
        shard, begins, ends, again = array("i"), array("q"), array("q"), array("b")
        bad: dict[int, str] = {}
        for number, path in enumerate(self.files):
            keys, first, cut = array("q"), len(begins), False
            try:
                with reading(path), opened(path) as file:
                    size, key = path.stat().st_size, None
                    for member, end in _members(file):
                        own, ending = _parts_of(member.name)
                        if member.isdir() or ending not in (*PICTURES, *TEXTS):
                            continue
                        if own != key:
                            key = own
                            keys.append(hash(own))
                            shard.append(number)
                            begins.append(member.offset)
                            ends.append(end)
                        ends[-1], cut = end, member.offset_data + member.size > size
            except BadEntryError as error:
                if not cut:  # else the last sample says so itself
                    bad[len(begins)] = str(error)
                    for one, value in ((shard, number), (begins, 0), (ends, 0), (keys, 0)):
                        one.append(value)
            again.extend(_repeated(np.array(keys, dtype=np.int64)).astype(np.int8).tolist())
            assert len(again) == len(begins) >= first
        return _Samples(
            np.array(shard, dtype=np.int32),
            np.array(begins, dtype=np.int64),
            np.array(ends, dtype=np.int64),
            np.array(again, dtype=bool),
            bad,
        )

    def _item(self, index: _Samples, number: int) -> Item:
        path = self.files[index.shard[number]]
        told = path.name if len({file.parent for file in self.files}) == 1 else str(path)
        begin, end = int(index.begins[number]), int(index.ends[number])
        with reading(f"{path}, the sample at byte {begin}"), opened(path) as file:
            members: dict[str, tarfile.TarInfo] = {}
            key = ""
            for member, _ in _members(file, begin, end):
                own, ending = _parts_of(member.name)
                if member.isdir() or ending not in (*PICTURES, *TEXTS):
                    continue
                if ending in members:
                    raise BadEntryError(f"the sample {own!r} has two members .{ending}")
                _check(member, path.stat().st_size)
                members[ending], key = member, own
            if index.again[number]:
                raise BadEntryError(f"the sample {key!r} comes a second time")
            wanted = self.options.columns.get("image")
            found = next((one for one in (wanted and (wanted,)) or PICTURES if one in members), None)
            if found is None:
                raise BadEntryError(f"the sample {key!r} has no {wanted or 'picture'}")
            picture = members[found]
            name = picture.name.removeprefix("./")
            source = Span(path, name, picture.offset_data, picture.size)
            row = self._row(path, members)
            return item_of(row, f"{told}/{name}", source, id=f"{told}/{key}", question=self.options.question)

    def _row(self, path: Path, members: Mapping[str, tarfile.TarInfo]) -> dict[str, Any]:
        """What a sample's text and JSON say of it."""
        columns = self.options.columns
        texts = {ending: _text(path, members[ending]) for ending in TEXTS if ending in members}
        told = json.loads(texts["json"]) if "json" in texts else {}
        if not isinstance(told, dict):
            raise BadEntryError(f"its JSON must be an object, got {str(told)[:60]!r}")
        txt = {"txt": texts["txt"]} if "txt" in texts else {}
        row = taken(told | txt, {name: column for name, column in columns.items() if name != "image"})
        return row if "txt" in columns.values() else {"answer": texts.get("txt")} | row


def _repeated(keys: np.ndarray) -> np.ndarray:
    """Whether each was there before."""
    again = np.ones(len(keys), dtype=bool)
    again[np.unique(keys, return_index=True)[1]] = False
    return again


def _check(member: tarfile.TarInfo, size: int) -> None:
    """BadEntryError for a member that is no plain file, or not all there."""
    name = f"the member {member.name!r:.100}"
    if not member.isreg() or member.issparse():
        raise BadEntryError(f"{name} is no plain file")
    if member.name.startswith("/") or ".." in member.name.split("/"):
        raise BadEntryError(f"{name} leads out of the archive")
    most = MAX_TEXT if _parts_of(member.name)[1] in TEXTS else MAX_BYTES
    if member.size > most:
        raise BadEntryError(f"{name} has {member.size} bytes; at most {most // 10**6} megabytes are read")
    if member.offset_data + member.size > size:
        raise BadEntryError(f"{name} has {member.size} bytes, and the file ends before")


def _text(path: Path, member: tarfile.TarInfo) -> str:
    try:
        return piece(path, member.offset_data, member.size).decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise BadEntryError(f"the member {member.name!r:.100} is no text (UTF-8)") from error
