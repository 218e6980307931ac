"""Readers of benchmarks' question files, as their authors publish them, into items; one module a benchmark.

Each reads a file, plus a folder of images that the user has. A line that cannot be used is an error
that names file and line, or is skipped and returned with `skip_bad`; so is a missing image.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from vlm_probe.errors import VlmProbeError, nearest
from vlm_probe.items.entries import BadEntryError, attempt, text_of
from vlm_probe.items.item import Item
from vlm_probe.items.readers.item_file import REQUIRED, named_in
from vlm_probe.items.readers.reader import Reader

_found: list[Reader] = [
    import_module(f"{__name__}.{info.name}").READER for info in iter_modules(__path__) if info.name != "reader"
]
FORMATS: dict[str, Reader] = {reader.name: reader for reader in sorted(_found, key=lambda reader: reader.name)}
"""Format -> its reader: every module of this folder but `reader` holds a `READER`."""
BY_FAMILY: dict[str, Reader] = {reader.family or reader.name: reader for reader in FORMATS.values()}
"""Family of items -> the reader that says how its answers are scored and asked for."""

BENCHMARK = "benchmark"
"""The suffix that stands for each benchmark's own answer format."""


def suffix_of(item: Item | None, suffix: str) -> str:
    """What is appended to an item's question: nothing, or a line break and an answer format.

    suffix: "" for none, `BENCHMARK` for that of the item's family ("" where it has none), or the text itself, with a
    line break before it or without.

    Raises VlmProbeError for `BENCHMARK` where there is no item, but a question of one's own (None).

    >>> suffix_of(None, "Be short.")
    '\\nBe short.'
    """
    if suffix == BENCHMARK:
        if item is None:
            raise VlmProbeError("a question of one's own is of no benchmark; give the suffix itself")
        suffix = BY_FAMILY[item.family].suffix if item.family in BY_FAMILY else ""
    text = suffix.lstrip("\n")
    return text and f"\n{text}"


def guess_format(path: Path) -> str:
    """The format of a question file, from its name's ending and its first entry.

    Raises VlmProbeError where it is none of `FORMATS`.
    """
    head = "" if path.suffix == ".parquet" else text_of(path)[:4000]
    for name, reader in FORMATS.items():
        if reader.recognises(path, head):
            return name
    named = named_in(path)
    if named is not None:
        raise VlmProbeError(
            f"{path} is no item file, which has {', '.join(REQUIRED)} (it has {', '.join(named) or 'none'}), and no "
            f"benchmark's: {', '.join(FORMATS)}"
        )
    raise VlmProbeError(
        f"{path} is no question file known here: an item file of your own has image, question and answer (.jsonl, .csv "
        f"or .parquet), of a benchmark's name the format: {', '.join(FORMATS)}"
    )


def _files_of(folder: Path) -> list[Path]:
    """The files in a folder, of a benchmark that comes as one or of one's own; VlmProbeError where it holds none."""
    found = [reader.files(folder) for reader in FORMATS.values() if reader.files is not None]
    files = next(filter(None, found), None)
    if files is None:
        raise VlmProbeError(
            f"{folder} is a folder without an item table (items.jsonl, items.csv or items.parquet) and without a file "
            "of MME (existence.txt, count.txt, ...)"
        )
    return files


def read_items(
    path: Path | str, images: Path | str | None = None, *, format: str | None = None, skip_bad: bool = False
) -> tuple[list[Item], list[str]]:
    """Items of a benchmark's own question file.

    Parameters
    ----------
    path: the file as published (see the readers of this folder for each format), an item file of one's own
        (`readers.item_file`), a folder of pictures with such a file in it, or MME's folder of categories, all of which
        that are there are read.
    images: the folder its images are in. None reads a benchmark's questions alone, which cannot be asked; an item file
        then has its images beside it.
    format: one of `FORMATS`; guessed if None.
    skip_bad: leave out malformed entries and missing images, and return one message for each.

    Raises
    ------
    VlmProbeError: an unreadable file, an unknown format, a malformed entry (with file and line, or
        the entry's number in a JSON object), a missing image, no item at all.
    """
    path, images = Path(path), None if images is None else Path(images)
    files = _files_of(path) if path.is_dir() else [path]
    chosen = format or guess_format(files[0])
    if chosen not in FORMATS:
        raise VlmProbeError(f"no format {chosen!r}; nearest are {nearest(chosen, FORMATS)}")
    if images is not None and not images.is_dir():
        raise VlmProbeError(f"the image folder {images} does not exist")
    skipped: list[str] = []
    items: list[Item] = []
    known: dict[Path, bool] = {}
    entries = ((file, *entry) for file in files for entry in FORMATS[chosen].read(file, images))
    for source, number, make in entries:
        where = f"{source}, {FORMATS[chosen].entry} {number}"
        try:
            item = attempt(make)
        except BadEntryError as error:
            problem = f"{where}: {error}"
        else:
            picture = item.source
            if not isinstance(picture, Path) or known.setdefault(picture, picture.is_file()):
                items.append(item)
                continue
            problem = f"{where}: the image {picture} does not exist"
        if not skip_bad:
            raise VlmProbeError(f"{problem} (--skip-bad leaves such items out)")
        skipped.append(problem)
    if not items:
        why = f"; the first problem: {skipped[0]}" if skipped else ""
        raise VlmProbeError(f"{path} holds no usable item{why}")
    return items, skipped
