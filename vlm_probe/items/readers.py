"""Readers of benchmarks' question files, as their authors publish them, into items.

Each reads a file, plus a folder of images that the user has. A line that cannot be used is an error
that names file and line, or is skipped and returned with `skip_bad`; so is a missing image.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vlm_probe.errors import VlmProbeError, nearest
from vlm_probe.items.entries import (
    BadEntryError,
    Parse,
    attempt,
    json_lines,
    json_object,
    lines_of,
    listed,
    need,
    need_texts,
    parquet_of,
    text_of,
    yes_no,
)
from vlm_probe.items.item import Item, item_from_row
from vlm_probe.items.metrics import MME_CATEGORIES
from vlm_probe.items.normalize import choice_letter

_Reader = Callable[[Path, Path | None], Iterator[tuple[int, Callable[[], Item]]]]


def _source(images: Path | None, name: str) -> Path | None:
    return None if images is None else images / name


def _pope(path: Path, images: Path | None) -> Iterator[tuple[int, Callable[[], Item]]]:
    """POPE (Li et al. 2023): JSON lines with question_id, image, text, label."""
    kind = next((k for k in ("random", "popular", "adversarial") if k in path.stem.lower()), "existence")

    def item(parse: Parse) -> Item:
        row = parse()
        number, image, text, label = need(row, "question_id", "image", "text", "label")
        need_texts(row, "image", "text")
        name = f"pope-{kind}-{number}"
        return Item(name, "pope", kind, name, image, text, yes_no(label), source=_source(images, image))

    for number, parse in json_lines(path):
        yield number, lambda parse=parse: item(parse)


def _mmvp(path: Path, images: Path | None) -> Iterator[tuple[int, Callable[[], Item]]]:
    """MMVP (Tong et al. 2024): Questions.csv with Index (published as "lndex"), Question, Options,
    Correct Answer; images are <Index>.jpg, questions 1 and 2 a pair, 3 and 4, and so on."""

    def item(row: dict[str, Any]) -> Item:
        row.setdefault("Index", row.get("lndex"))
        index, question, options, answer = need(row, "Index", "Question", "Options", "Correct Answer")
        try:
            number = int(index)
        except ValueError:
            raise BadEntryError(f"Index must be a number, got {index!r}") from None
        if not choice_letter(answer):
            raise BadEntryError(f"the correct answer must be a letter, (a) or (b), got {answer!r}")
        image = f"{number}.jpg"
        return Item(
            f"mmvp-{number}", "mmvp", "choice", f"mmvp-pair-{(number + 1) // 2}", image, f"{question} {options}",
            answer.strip(), source=_source(images, image),
        )  # fmt: skip

    reader = csv.DictReader(io.StringIO(text_of(path), newline=""))
    try:
        for row in reader:
            yield reader.line_num, lambda row=row: item(row)
    except csv.Error as error:
        raise VlmProbeError(f"{path}, line {reader.line_num}: no CSV ({error})") from error


def _gqa(path: Path, images: Path | None) -> Iterator[tuple[int, Callable[[], Item]]]:
    """GQA (Hudson and Manning 2019): one JSON object, question id -> imageId, question, answer, types."""

    def item(key: str, row: Any) -> Item:
        image, question, answer = need(row, "imageId", "question", "answer")
        need_texts(row, "question", "answer")
        kind = str((row.get("types") or {}).get("semantic") or "question")
        name = f"gqa-{key}"
        return Item(name, "gqa", kind, name, f"{image}.jpg", question, answer, source=_source(images, f"{image}.jpg"))

    for number, (key, row) in enumerate(json_object(path).items(), start=1):
        yield number, lambda key=key, row=row: item(key, row)


def _vqav2(path: Path, images: Path | None) -> Iterator[tuple[int, Callable[[], Item]]]:
    """VQAv2 (Goyal et al. 2017): v2_OpenEnded_mscoco_<subset>_questions.json; the annotations are
    read from v2_mscoco_<subset>_annotations.json beside it."""
    data = json_object(path)
    subset = data.get("data_subtype") or path.stem.removeprefix("v2_OpenEnded_mscoco_").removesuffix("_questions")
    beside = path.with_name(f"v2_mscoco_{subset}_annotations.json")
    if not beside.exists():
        raise VlmProbeError(f"{path} needs its annotations beside it: {beside.name} is not there")
    annotations = listed(json_object(beside), "annotations", beside)
    notes = {note.get("question_id"): note for note in annotations if isinstance(note, dict)}

    def item(row: Any) -> Item:
        number, image, question = need(row, "question_id", "image_id", "question")
        need_texts(row, "question")
        if number not in notes:
            raise BadEntryError(f"no annotation of question {number} in {beside.name}")
        (answer,) = need_texts(notes[number], "multiple_choice_answer")
        said = tuple(str(a.get("answer", "")) for a in notes[number].get("answers", []))
        file = f"COCO_{subset}_{int(image):012d}.jpg"
        kind = str(notes[number].get("answer_type") or "other")
        name = f"vqav2-{number}"
        return Item(name, "vqav2", kind, name, file, question, answer, said or (answer,), source=_source(images, file))

    for number, row in enumerate(listed(data, "questions", path), start=1):
        yield number, lambda row=row: item(row)


def _mme(path: Path, images: Path | None) -> Iterator[tuple[int, Callable[[], Item]]]:
    """MME (Fu et al. 2023): a category's <category>.txt of its evaluation tool, lines of image,
    question and answer between tabs; images in the folder, in its subfolder <category>, or in the
    subfolder images of either."""
    category = path.stem
    folder = images
    for below in (category, "images"):
        folder = folder / below if folder is not None and (folder / below).is_dir() else folder
    seen: dict[str, int] = {}

    def item(line: str) -> Item:
        parts = line.split("\t")
        if len(parts) < 3:
            raise BadEntryError(f"expected image, question and answer between tabs, got {len(parts)} fields")
        image, question, answer = (part.strip() for part in parts[:3])
        seen[image] = seen.get(image, 0) + 1
        key = f"mme-{category}-{image}"
        return Item(
            # Other categories have images of the same name.
            f"{key}-{seen[image]}", "mme", category, key, f"{category}/{image}", question, yes_no(answer),
            source=_source(folder, image),
        )  # fmt: skip

    for number, line in lines_of(path):
        yield number, lambda line=line: item(line)


def answer_parts(answer: str) -> tuple[str, tuple[str, ...]]:
    """MM-Vet's answer (parts joined by <AND>, alternatives by <OR>) in plain words, and its parts."""
    parts = tuple(part.strip() for part in answer.split("<AND>"))
    return " ".join(part.split("<OR>")[0].strip() for part in parts), parts


def _mmvet(path: Path, images: Path | None) -> Iterator[tuple[int, Callable[[], Item]]]:
    """MM-Vet (Yu et al. 2023): mm-vet.json, id -> imagename, question, answer (parts joined by <AND>,
    alternatives by <OR>), capability."""

    def item(key: str, row: Any) -> Item:
        image, question, answer = need(row, "imagename", "question", "answer")
        need_texts(row, "imagename", "question")
        kind = "+".join(sorted(map(str, row.get("capability") or []))) or "question"
        name = f"mmvet-{key}"
        plain, parts = answer_parts(str(answer))
        return Item(name, "mmvet", kind, name, image, question, plain, parts=parts, source=_source(images, image))

    for number, (key, row) in enumerate(json_object(path).items(), start=1):
        yield number, lambda key=key, row=row: item(key, row)


def _exported(path: Path, images: Path | None) -> Iterator[tuple[int, Callable[[], Item]]]:
    """What `vlm-probe scenes export` wrote: items.jsonl or items.parquet, images in images/ beside it."""
    folder = images if images is not None else path.parent / "images"

    def item(parse: Parse) -> Item:
        row = parse()
        need_texts(row, "id", "family", "kind", "group", "image", "question", "answer")
        return item_from_row(row, folder)

    if path.suffix == ".parquet":
        table = parquet_of(path)
        for number, row in enumerate(table.to_dict("records"), start=1):
            plain = {str(k): v.tolist() if hasattr(v, "tolist") else v for k, v in row.items()}
            yield number, lambda plain=plain: item(lambda: plain)
    else:
        for number, parse in json_lines(path):
            yield number, lambda parse=parse: item(parse)


FORMATS: dict[str, _Reader] = {
    "pope": _pope,
    "mmvp": _mmvp,
    "gqa": _gqa,
    "vqav2": _vqav2,
    "mme": _mme,
    "mmvet": _mmvet,
    "items": _exported,
}
"""Format -> its reader."""


def _mme_files(folder: Path) -> list[Path]:
    """The categories' files in a folder, as MME's evaluation tool has them in Your_Results."""
    there = [folder / f"{category}.txt" for part in MME_CATEGORIES.values() for category in part]
    files = [file for file in there if file.is_file()]
    if not files:
        raise VlmProbeError(f"{folder} is a folder without a file of MME (existence.txt, count.txt, ...)")
    return files


def guess_format(path: Path) -> str:
    """The format of a question file, from its name's ending and its first entry.

    Raises VlmProbeError where it is none of `FORMATS`.
    """
    head = "" if path.suffix == ".parquet" else text_of(path)[:4000]
    if path.suffix == ".parquet" or (path.suffix == ".jsonl" and '"family"' in head):
        return "items"
    if path.suffix == ".csv" and "Options" in head:
        return "mmvp"
    if path.suffix == ".txt" and "\t" in head:
        return "mme"
    for mark, name in (('"imagename"', "mmvet"), ('"imageId"', "gqa"), ('"questions"', "vqav2"), ('"label"', "pope")):
        if mark in head:
            return name
    raise VlmProbeError(f"{path} is no question file known here; name its format: {', '.join(FORMATS)}")


def read_items(
    path: Path | str, images: Path | str | None = None, *, format: str | None = None, skip_bad: bool = False
) -> tuple[list[Item], list[str]]:
    """Items of a benchmark's own question file.

    Parameters
    ----------
    path: the file as published (see the readers above for each format), or MME's folder of such files,
        of which all categories that are there are read.
    images: the folder its images are in. None reads questions alone; such items cannot be asked.
    format: one of `FORMATS`; guessed if None.
    skip_bad: leave out malformed entries and missing images, and return one message for each.

    Raises
    ------
    VlmProbeError: an unreadable file, an unknown format, a malformed entry (with file and line, or
        the entry's number in a JSON object), a missing image, no item at all.
    """
    path, images = Path(path), None if images is None else Path(images)
    files = _mme_files(path) if path.is_dir() else [path]
    chosen = format or guess_format(files[0])
    if chosen not in FORMATS:
        raise VlmProbeError(f"no format {chosen!r}; nearest are {nearest(chosen, FORMATS)}")
    if images is not None and not images.is_dir():
        raise VlmProbeError(f"the image folder {images} does not exist")
    skipped: list[str] = []
    items: list[Item] = []
    known: dict[Path, bool] = {}
    entries = ((file, *entry) for file in files for entry in FORMATS[chosen](file, images))
    for source, number, make in entries:
        where = f"{source}, {'entry' if chosen in ('gqa', 'vqav2', 'mmvet') else 'line'} {number}"
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
