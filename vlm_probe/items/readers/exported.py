"""Items that `vlm-probe scenes export` wrote."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vlm_probe.items.entries import Parse, json_lines, need_texts, parquet_of
from vlm_probe.items.item import Item, item_from_row
from vlm_probe.items.readers.reader import Entry, Reader
from vlm_probe.items.rules import plain


def _plain(value: Any) -> Any:
    """Parquet's arrays, and arrays in arrays, as lists."""
    return [_plain(one) for one in value] if isinstance(value, np.ndarray) else value


def read(path: Path, images: Path | None) -> Iterator[Entry]:
    """What `vlm-probe scenes export` wrote: items.jsonl or items.parquet, images in images/ beside it."""
    folder = images if images is not None else path.parent / "images"

    def item(parse: Parse) -> Item:
        row = parse()
        need_texts(row, "id", "family", "kind", "group", "image", "question", "answer")
        return item_from_row(row, folder)

    if path.suffix == ".parquet":
        table = parquet_of(path)
        for number, row in enumerate(table.to_dict("records"), start=1):
            named = {str(key): _plain(value) for key, value in row.items()}
            yield number, lambda named=named: item(lambda: named)
    else:
        for number, parse in json_lines(path):
            yield number, lambda parse=parse: item(parse)


READER = Reader(
    "items",
    read,
    lambda path, head: path.suffix == ".parquet" or (path.suffix == ".jsonl" and '"family"' in head),
    family="scenes",
    # Questions of no benchmark ask for the very word, yes and no included.
    score=plain,
)
