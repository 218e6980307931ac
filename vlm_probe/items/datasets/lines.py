"""JSON Lines: an object a line, with the name of its image file."""

from __future__ import annotations

import json
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vlm_probe.items.datasets.dataset import Dataset
from vlm_probe.items.datasets.fields import PATHS, item_of, taken
from vlm_probe.items.datasets.reading import MAX_TEXT, opened, reading
from vlm_probe.items.entries import BadEntryError, need_texts
from vlm_probe.items.item import Item

_PIECE = 1 << 20


@dataclass(frozen=True)
class _Lines:
    begins: np.ndarray
    """Where each line begins that is not blank."""
    numbers: np.ndarray
    """Which line it is, from 1."""
    bad: Mapping[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.begins)


class LinesDataset(Dataset[_Lines]):
    """A row a line: an image's path ("image", "path", "file_name" or "filepath"), and what else an item has.

    A path is taken as it is, absolute or with "..", from the folder of images, from `images/` beside the file, or from
    beside it: such a file is the user's own list, and what it names is opened as a picture and as nothing else. No path
    is a URL here. Whether the image is there shows when it is opened.
    """

    def _indexed(self) -> _Lines:
        begins, numbers = array("q"), array("q")
        with reading(self.path), opened(self.path) as file:
            begin, number, blank = 0, 1, True
            while part := file.readline(_PIECE):  # a line may be longer than memory
                blank = blank and not part.strip()
                ended = part.endswith(b"\n")
                if ended and not blank:
                    begins.append(begin)
                    numbers.append(number)
                if ended:
                    begin, number, blank = file.tell(), number + 1, True
            if not blank:
                begins.append(begin)
                numbers.append(number)
        return _Lines(np.array(begins, dtype=np.int64), np.array(numbers, dtype=np.int64))

    def _item(self, index: _Lines, number: int) -> Item:
        line = int(index.numbers[number])
        with reading(f"{self.path}, line {line}"):
            with opened(self.path) as file:
                file.seek(int(index.begins[number]))
                text = file.readline(MAX_TEXT + 1)
            if len(text) > MAX_TEXT:
                raise BadEntryError(f"it is longer than {MAX_TEXT // 10**6} megabytes")
            return self._of_line(text, line)

    def _of_line(self, text: bytes, line: int) -> Item:
        try:
            found = json.loads(text.decode("utf-8-sig"))
        except json.JSONDecodeError as error:
            raise BadEntryError(f"no JSON ({error.msg})") from error
        except UnicodeDecodeError as error:
            raise BadEntryError("it is no text (UTF-8)") from error
        if not isinstance(found, dict):
            raise BadEntryError(f"expected an object with an image, got {str(found)[:60]!r}")
        columns = self.options.columns
        column = columns.get("image") or next((name for name in PATHS if name in found), PATHS[0])
        (image,) = need_texts(found, column)
        row = taken(found, columns)
        folder = image_folder(self.path, self.options.images)
        return item_of(row, image, folder / image, id=str(line), question=self.options.question)


def image_folder(table: Path, images: Path | None) -> Path:
    """Where a table's images are, as `readers.item_file` has it."""
    beside = table.parent / "images"
    return images or (beside if beside.is_dir() else table.parent)
