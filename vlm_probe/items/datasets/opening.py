"""What is at a path, and how it is read."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

from vlm_probe.errors import VlmProbeError, nearest
from vlm_probe.items.datasets.arrow import SPLITS, STATE, stream_files
from vlm_probe.items.datasets.dataset import DEFAULT_QUESTION, Dataset, Items, Options
from vlm_probe.items.datasets.fields import PATHS, check_columns
from vlm_probe.items.datasets.folder import FolderDataset
from vlm_probe.items.datasets.lines import LinesDataset
from vlm_probe.items.datasets.shards import ShardsDataset
from vlm_probe.items.datasets.tables import TableDataset
from vlm_probe.items.entries import BadEntryError, attempt
from vlm_probe.items.item import Item
from vlm_probe.items.readers import FORMATS as BENCHMARKS
from vlm_probe.items.readers import read_items

FORMATS = ("folder", "jsonl", "parquet", "webdataset", "arrow")
"""Formats that are read as they are asked for; `open_dataset` takes those of `items.readers`, too."""
_MAX_FILES = 100_000


def open_dataset(
    path: Path | str,
    *,
    images: Path | str | None = None,
    question: str = DEFAULT_QUESTION,
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
) -> Items:
    """A dataset's items, each read when it is asked for; a benchmark's file is read at once, as `read_items` does.

    Parameters
    ----------
    path: a folder of pictures; a `.jsonl` or `.parquet` file of their paths (in columns image, path, file_name or
        filepath) or bytes (image, jpg or bytes; struct<bytes, path> as Hugging Face writes it), a folder of `.parquet`
        files, or "train-{00..09}.parquet"; WebDataset's `.tar`, a folder of such, or "shard-{000..009}.tar"; a folder
        that Hugging Face's `save_to_disk` wrote; or what `read_items` knows. In a folder, an item table (items.parquet,
        items.jsonl, metadata.jsonl) comes first, then a saved dataset, a benchmark, Parquet, tar, and pictures.
    images: the folder that a table's paths start from; `images/` beside it, or beside it, if None. Paths in tables are
        the user's own: they may be absolute or lead upwards. Names in archives and in state.json may not.
    question: asked where the dataset has none.
    format: one of `FORMATS`, or of `readers.FORMATS`; guessed if None. "folder" tries files of every ending.
    columns: field of an item -> the column that it is read from, {"question": "caption"}; "" leaves a field out.

    Returns a sequence as `Dataset` describes it: `len`, indices and slices; malformed rows do not stop it. To go
    on after one, catch VlmProbeError around each `data[i]` (BadEntryError is one), and around opening its picture.

    Raises VlmProbeError for a path that is not there, a folder of several splits, a format or a field that is none, a
    dataset without a single item; and, for a benchmark, what `read_items` raises.
    """
    told, asked = str(path), Path(path).expanduser().absolute()
    folder = None if images is None else Path(images).expanduser().absolute()
    options = Options(folder, question, dict(columns or {}), every=format == "folder")
    check_columns(options.columns)
    if folder is not None and not folder.is_dir():
        raise VlmProbeError(f"the image folder {folder} does not exist")
    if format is not None and format not in (*FORMATS, *BENCHMARKS):
        raise VlmProbeError(f"no format {format!r}; nearest are {nearest(format, (*FORMATS, *BENCHMARKS))}")
    if not os.path.exists(asked) and "{" not in told:
        raise VlmProbeError(f"there is no {told}")
    asked = _table_in(asked) if format is None else asked
    chosen = format or _guessed(asked)
    if chosen not in FORMATS:
        return _benchmark(asked, chosen or None, options)
    dataset = _dataset(asked, chosen, options)
    len(dataset)  # what is wrong with the whole is said here
    return dataset


def _dataset(path: Path, chosen: str, options: Options) -> Dataset:
    if options.columns and chosen == "folder":
        raise VlmProbeError("a folder of pictures has no columns")
    if options.images and chosen in ("folder", "webdataset"):
        raise VlmProbeError(f"the pictures are in {path} itself: it takes no folder of images")
    if chosen == "folder":
        return FolderDataset(path, options)
    if chosen == "jsonl":
        return LinesDataset(path, options)
    if chosen == "webdataset":
        return ShardsDataset(path, options, _files(path, ".tar"))
    if chosen == "parquet":
        return TableDataset(path, options, "parquet", _files(path, ".parquet"))
    return TableDataset(path, options, "arrow", stream_files(path) if path.is_dir() else [path])


def _table_in(path: Path) -> Path:
    """The item table in a folder, where it has one of a known name; else the path itself."""
    names = ("items.parquet", "items.jsonl", "metadata.jsonl")
    there = (path / name for name in names) if path.is_dir() else ()
    return next((table for table in there if table.is_file()), path)


def _guessed(path: Path) -> str:
    """A format's name, "" for what only `read_items` can tell."""
    ending = path.suffix.lower()
    if path.is_dir():
        return _guessed_folder(path)
    if re.search(r"\.(tar\.\w+|tgz|tbz2?|txz)$", path.name.lower()):
        raise VlmProbeError(f"{path} is compressed, and cannot be read from the middle; unpack it to a .tar")
    known = {".tar": "webdataset", ".parquet": "parquet", ".arrow": "arrow"}
    if ending in known or not path.exists():
        return known.get(ending, "")
    return _told_by(path) or ("jsonl" if ending in (".jsonl", ".ndjson") else "")


def _guessed_folder(path: Path) -> str:
    if (path / STATE).is_file() or (path / SPLITS).is_file():
        return "arrow"
    for name, reader in BENCHMARKS.items():
        if name != "items" and reader.files is not None and reader.files(path):
            return name
    if any(path.glob("*.parquet")):
        return "parquet"
    if any(path.glob("*.tar")):
        return "webdataset"
    return "" if (path / "items.csv").is_file() else "folder"


def _told_by(path: Path) -> str:
    """The benchmark that a file is of, or ""; from its beginning, for the file may be larger than memory."""
    try:
        with path.open("rb") as file:
            head = file.read(16_000).decode("utf-8-sig", "ignore")[:4000]
    except OSError as error:
        raise VlmProbeError(f"cannot read {path}: {error.strerror}") from error
    for name, reader in BENCHMARKS.items():
        if name != "items" and reader.recognises(path, head) and not _is_own(path, head, name):
            return name
    return ""


def _is_own(path: Path, head: str, name: str) -> bool:
    """Whether a file of rows has something of a benchmark's (a "label"), but rows that name images and are not its."""
    try:
        row = json.loads(head.split("\n", 1)[0])
    except (ValueError, RecursionError):
        return False
    if path.suffix.lower() != ".jsonl" or not isinstance(row, dict) or not set(row) & set(PATHS):
        return False
    try:
        for _, make in islice(BENCHMARKS[name].read(path, None), 1):
            attempt(make)
    except BadEntryError:
        return True
    return False


def _benchmark(path: Path, format: str | None, options: Options) -> list[Item]:
    if options.columns:
        raise VlmProbeError(f"{path} is a benchmark's file, whose columns are its own")
    items, _ = read_items(path, options.images, format=format)
    if items[0].source is None:
        raise VlmProbeError(f"{path} names images; say in which folder they are")
    return items


def _files(path: Path, ending: str) -> list[Path]:
    """The files of a folder with an ending, sorted; or what a pattern names; or the file itself."""
    if path.is_dir():
        return sorted(file for file in path.glob(f"*{ending}") if not file.name.startswith("."))
    if path.exists():
        return [path]
    names = [Path(name) for name in islice(_expanded(str(path)), _MAX_FILES + 1)]
    if len(names) > _MAX_FILES:
        raise VlmProbeError(f"{path} names more than {_MAX_FILES} files")
    for name in names:
        if not name.is_file():
            raise VlmProbeError(f"{path} names {name}, which does not exist")
    return names


def _expanded(pattern: str) -> Iterator[str]:
    """What a pattern of braces names, as a shell has it.

    >>> list(_expanded("a-{08..10}.tar")), list(_expanded("{a,b}{0..1}"))
    (['a-08.tar', 'a-09.tar', 'a-10.tar'], ['a0', 'a1', 'b0', 'b1'])
    """
    found = re.search(r"\{(?:(\d{1,9})\.\.(\d{1,9})|([^{}]*,[^{}]*))\}", pattern)
    if found is None:
        yield pattern
        return
    first, last, names = found.groups()
    middles = names.split(",") if names else (str(n).zfill(len(first)) for n in range(int(first), int(last) + 1))
    for middle in middles:
        for rest in _expanded(pattern[found.end() :]):
            yield f"{pattern[: found.start()]}{middle}{rest}"
