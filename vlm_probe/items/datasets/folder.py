"""A folder of pictures."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vlm_probe.errors import VlmProbeError
from vlm_probe.items.datasets.dataset import Dataset
from vlm_probe.items.datasets.fields import item_of
from vlm_probe.items.item import Item

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
"""Of pictures, in any case."""


@dataclass(frozen=True)
class _Names:
    """Names of files, one after another."""

    text: bytes
    ends: np.ndarray
    bad: Mapping[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ends)

    def name(self, number: int) -> bytes:
        return self.text[self.ends[number - 1] if number else 0 : self.ends[number]]


class FolderDataset(Dataset[_Names]):
    """A folder's pictures, those of folders in it too, in the order of their relative paths, which are their ids.

    What begins with a dot is passed over. Links are followed, and a folder that is reached twice is read once, by the
    name without a link.
    """

    def _indexed(self) -> _Names:
        names = sorted(_files(self.path, every=self.options.every))
        encoded = [os.fsencode(name) for name in names]
        return _Names(b"".join(encoded), np.cumsum([len(name) for name in encoded], dtype=np.int64))

    def _item(self, index: _Names, number: int) -> Item:
        name = index.name(number)
        # A name that is no UTF-8 still opens its file.
        told = name.decode("utf-8", "backslashreplace")
        return item_of({}, told, self.path / os.fsdecode(name), id=told, question=self.options.question)


def _files(top: Path, *, every: bool) -> Iterator[str]:
    """Pictures by their relative paths, unsorted; VlmProbeError for a folder that cannot be read."""
    # Folders come before links to folders, so that a loop ends where it began.
    folders, links, seen = [""], [], set()
    while folders or links:
        below = (folders or links).pop(0 if not folders else -1)
        try:
            about = os.stat(top / below)
            if (about.st_dev, about.st_ino) in seen:
                continue
            seen.add((about.st_dev, about.st_ino))
            entries = sorted(os.scandir(top / below), key=lambda entry: entry.name)
        except OSError as error:
            raise VlmProbeError(f"cannot read {top / below}: {error.strerror}") from error
        for entry in entries:
            name = f"{below}/{entry.name}" if below else entry.name
            if entry.name.startswith("."):
                continue
            try:
                folder, file = entry.is_dir(), entry.is_file()
            except OSError:  # a link to itself
                continue
            if folder:
                (links if entry.is_symlink() else folders).append(name)
            elif file and (every or os.path.splitext(entry.name)[1].lower() in ENDINGS):
                yield name
