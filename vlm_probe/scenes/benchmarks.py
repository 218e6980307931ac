"""Readers of real benchmark files: question files into items, lmms-eval's logs into answers.

Each reads the file as its authors publish it, plus a folder of images that the user has. A line
that cannot be used is an error that names file and line, or is skipped and returned with
`skip_bad`; so is a missing image.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from vlm_probe.errors import VlmProbeError, nearest
from vlm_probe.scenes.items import Item, item_from_row
from vlm_probe.scenes.score import ANSWER_COLUMNS, answer_row

Entry = tuple[int, Any]
"""A line or entry number, counted from 1, and what stands there."""
_Reader = Callable[[Path, Path | None], Iterator[tuple[int, Callable[[], Item]]]]


class _BadLineError(Exception):
    """An entry that is not what the format promises."""


def _need(row: Any, *names: str) -> list[Any]:
    """The values of these fields; names what is missing."""
    if not isinstance(row, dict):
        raise _BadLineError(f"expected an object with {', '.join(names)}, got {str(row)[:60]!r}")
    missing = [name for name in names if row.get(name) in (None, "")]
    if missing:
        raise _BadLineError(f"no {' and no '.join(missing)}")
    return [row[name] for name in names]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise VlmProbeError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise VlmProbeError(f"{path} is not a text file (UTF-8)") from error


def _lines(path: Path) -> Iterator[Entry]:
    for number, line in enumerate(_text(path).splitlines(), start=1):
        if line.strip():
            yield number, line


def _json_lines(path: Path) -> Iterator[tuple[int, Callable[[], Any]]]:
    """Every line with what parses it, so that a malformed line spoils no other."""

    def parse(line: str) -> Any:
        try:
            return json.loads(line)
        except json.JSONDecodeError as error:
            raise _BadLineError(f"no JSON ({error.msg})") from error

    for number, line in _lines(path):
        yield number, lambda line=line: parse(line)


def _json(path: Path) -> Any:
    try:
        return json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise VlmProbeError(f"{path}, line {error.lineno}: no JSON ({error.msg})") from error


def _source(images: Path | None, name: str) -> Path | None:
    return None if images is None else images / name


def _yes_no(text: Any) -> str:
    said = str(text).strip().lower()
    if said not in ("yes", "no"):
        raise _BadLineError(f"the answer must be yes or no, got {str(text)!r}")
    return said


def _pope(path: Path, images: Path | None) -> Iterator[tuple[int, Callable[[], Item]]]:
    """POPE (Li et al. 2023): JSON lines with question_id, image, text, label."""
    kind = next((k for k in ("random", "popular", "adversarial") if k in path.stem.lower()), "existence")

    def item(parse: Callable[[], Any]) -> Item:
        number, image, text, label = _need(parse(), "question_id", "image", "text", "label")
        name = f"pope-{kind}-{number}"
        return Item(name, "pope", kind, name, image, text, _yes_no(label), source=_source(images, image))

    for number, parse in _json_lines(path):
        yield number, lambda parse=parse: item(parse)


def _mmvp(path: Path, images: Path | None) -> Iterator[tuple[int, Callable[[], Item]]]:
    """MMVP (Tong et al. 2024): Questions.csv with Index, Question, Options, Correct Answer; images
    are <Index>.jpg, questions 1 and 2 a pair, 3 and 4, and so on."""

    def item(row: dict[str, Any]) -> Item:
        index, question, options, answer = _need(row, "Index", "Question", "Options", "Correct Answer")
        try:
            number = int(index)
        except ValueError:
            raise _BadLineError(f"Index must be a number, got {index!r}") from None
        image = f"{number}.jpg"
        return Item(
            f"mmvp-{number}", "mmvp", "choice", f"mmvp-pair-{(number + 1) // 2}", image, f"{question} {options}",
            answer.strip(), source=_source(images, image),
        )  # fmt: skip

    reader = csv.DictReader(_text(path).splitlines())
    for row in reader:
        yield reader.line_num, lambda row=row: item(row)


def _gqa(path: Path, images: Path | None) -> Iterator[tuple[int, Callable[[], Item]]]:
    """GQA (Hudson and Manning 2019): one JSON object, question id -> imageId, question, answer, types."""

    def item(key: str, row: Any) -> Item:
        image, question, answer = _need(row, "imageId", "question", "answer")
        kind = str((row.get("types") or {}).get("semantic") or "question")
        name = f"gqa-{key}"
        return Item(name, "gqa", kind, name, f"{image}.jpg", question, answer, source=_source(images, f"{image}.jpg"))

    for number, (key, row) in enumerate(_json(path).items(), start=1):
        yield number, lambda key=key, row=row: item(key, row)


def _vqav2(path: Path, images: Path | None) -> Iterator[tuple[int, Callable[[], Item]]]:
    """VQAv2 (Goyal et al. 2017): v2_OpenEnded_mscoco_<subset>_questions.json; the annotations are
    read from v2_mscoco_<subset>_annotations.json beside it."""
    data = _json(path)
    subset = data.get("data_subtype") or path.stem.removeprefix("v2_OpenEnded_mscoco_").removesuffix("_questions")
    beside = path.with_name(f"v2_mscoco_{subset}_annotations.json")
    if not beside.exists():
        raise VlmProbeError(f"{path} needs its annotations beside it: {beside.name} is not there")
    notes = {note.get("question_id"): note for note in _json(beside).get("annotations", [])}

    def item(row: Any) -> Item:
        number, image, question = _need(row, "question_id", "image_id", "question")
        if number not in notes:
            raise _BadLineError(f"no annotation of question {number} in {beside.name}")
        (answer,) = _need(notes[number], "multiple_choice_answer")
        said = tuple(str(a.get("answer", "")) for a in notes[number].get("answers", []))
        file = f"COCO_{subset}_{int(image):012d}.jpg"
        kind = str(notes[number].get("answer_type") or "other")
        name = f"vqav2-{number}"
        return Item(name, "vqav2", kind, name, file, question, answer, said or (answer,), source=_source(images, file))

    for number, row in enumerate(data.get("questions", []), start=1):
        yield number, lambda row=row: item(row)


def _mme(path: Path, images: Path | None) -> Iterator[tuple[int, Callable[[], Item]]]:
    """MME (Fu et al. 2023): a category's <category>.txt of its evaluation tool, lines of image,
    question and answer between tabs; images in the folder or in its subfolder <category>."""
    category = path.stem
    folder = images / category if images is not None and (images / category).is_dir() else images
    seen: dict[str, int] = {}

    def item(line: str) -> Item:
        parts = line.split("\t")
        if len(parts) < 3:
            raise _BadLineError(f"expected image, question and answer between tabs, got {len(parts)} fields")
        image, question, answer = (part.strip() for part in parts[:3])
        seen[image] = seen.get(image, 0) + 1
        key = f"mme-{category}-{image}"
        return Item(
            f"{key}-{seen[image]}", "mme", category, key, image, question, _yes_no(answer),
            source=_source(folder, image),
        )  # fmt: skip

    for number, line in _lines(path):
        yield number, lambda line=line: item(line)


def _mmvet(path: Path, images: Path | None) -> Iterator[tuple[int, Callable[[], Item]]]:
    """MM-Vet (Yu et al. 2023): mm-vet.json, id -> imagename, question, answer (parts joined by <AND>,
    alternatives by <OR>), capability."""

    def item(key: str, row: Any) -> Item:
        image, question, answer = _need(row, "imagename", "question", "answer")
        kind = "+".join(sorted(map(str, row.get("capability") or []))) or "question"
        name = f"mmvet-{key}"
        parts = tuple(part.strip() for part in str(answer).split("<AND>"))
        plain = " ".join(part.split("<OR>")[0].strip() for part in parts)
        return Item(name, "mmvet", kind, name, image, question, plain, parts=parts, source=_source(images, image))

    for number, (key, row) in enumerate(_json(path).items(), start=1):
        yield number, lambda key=key, row=row: item(key, row)


def _exported(path: Path, images: Path | None) -> Iterator[tuple[int, Callable[[], Item]]]:
    """What `vlm-probe scenes export` wrote: items.jsonl or items.parquet, images in images/ beside it."""
    folder = images if images is not None else path.parent / "images"

    def item(parse: Callable[[], Any]) -> Item:
        row = parse()
        _need(row, "id", "family", "kind", "group", "image", "question", "answer")
        return item_from_row(row, folder)

    if path.suffix == ".parquet":
        table = pd.read_parquet(path)
        for number, row in enumerate(table.to_dict("records"), start=1):
            plain = {str(k): v.tolist() if hasattr(v, "tolist") else v for k, v in row.items()}
            yield number, lambda plain=plain: item(lambda: plain)
    else:
        for number, parse in _json_lines(path):
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


def guess_format(path: Path) -> str:
    """The format of a question file, from its name's ending and its first entry.

    Raises VlmProbeError where it is none of `FORMATS`.
    """
    head = "" if path.suffix == ".parquet" else _text(path)[:4000]
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
    path: the file as published (see the readers above for each format).
    images: the folder its images are in. None reads questions alone; such items cannot be asked.
    format: one of `FORMATS`; guessed if None.
    skip_bad: leave out malformed entries and missing images, and return one message for each.

    Raises
    ------
    VlmProbeError: an unreadable file, an unknown format, a malformed entry (with file and line, or
        the entry's number in a JSON object), a missing image, no item at all.
    """
    path, images = Path(path), None if images is None else Path(images)
    chosen = format or guess_format(path)
    if chosen not in FORMATS:
        raise VlmProbeError(f"no format {chosen!r}; nearest are {nearest(chosen, FORMATS)}")
    if images is not None and not images.is_dir():
        raise VlmProbeError(f"the image folder {images} does not exist")
    skipped: list[str] = []
    items: list[Item] = []
    known: dict[Path, bool] = {}
    for number, make in FORMATS[chosen](path, images):
        where = f"{path}, {'entry' if chosen in ('gqa', 'vqav2', 'mmvet') else 'line'} {number}"
        try:
            item = make()
        except _BadLineError as error:
            problem = f"{where}: {error}"
        else:
            file = item.source
            if not isinstance(file, Path) or known.setdefault(file, file.is_file()):
                items.append(item)
                continue
            problem = f"{where}: the image {file} does not exist"
        if not skip_bad:
            raise VlmProbeError(f"{problem} (--skip-bad leaves such items out)")
        skipped.append(problem)
    if not items:
        why = f"; the first problem: {skipped[0]}" if skipped else ""
        raise VlmProbeError(f"{path} holds no usable item{why}")
    return items, skipped


_LMMS_FAMILIES = {"pope": "pope", "mmvp": "mmvp", "gqa": "gqa", "vqav2": "vqav2", "mme": "mme", "mmvet": "mmvet"}


def _logged_item(row: dict[str, Any], task: str, number: int) -> Item:
    """The item behind one logged sample of lmms-eval, from its `doc` and `target`."""
    doc: dict[str, Any] = row["doc"] if isinstance(row.get("doc"), dict) else {}
    family = next((f for key, f in _LMMS_FAMILIES.items() if task.lower().startswith(key)), task)
    target = row.get("target")
    target = target[0] if isinstance(target, list) and target else target
    if target in (None, ""):
        raise _BadLineError("no target")
    own = doc.get("question_id", row.get("doc_id", number))
    image = str(doc.get("image_source") or doc.get("image_id") or doc.get("imageId") or own)
    kind = str(doc.get("category") or doc.get("answer_type") or "question")
    name = f"{task}-{own}-{row.get('doc_id', number)}"
    said = tuple(str(a.get("answer", a)) if isinstance(a, dict) else str(a) for a in doc.get("answers") or ())
    answer = str(target)
    if family in ("pope", "mme"):
        answer = _yes_no(answer)
    group = f"{task}-{kind}-{own}" if family == "mme" else name
    return Item(name, family, kind, group, image, str(doc.get("question", "")), answer, said)


def read_lmms_samples(
    path: Path | str, *, model: str | None = None, skip_bad: bool = False
) -> tuple[pd.DataFrame, list[str]]:
    """Answers logged by lmms-eval (`--log_samples`): `<date>_samples_<task>.jsonl`, or the older JSON
    with a "logs" list.

    model: the name in the table; taken from the folder's name if None (lmms-eval names it after the model).

    Returns the table of answers as `evaluate` makes it (no probabilities: they are not logged), and
    what was skipped. Scores are computed here, from the logged text, not taken from the log.

    Raises VlmProbeError for a line without answer or target, with file and line.
    """
    path = Path(path)
    task = path.stem.split("samples_")[-1]
    entries: Iterator[tuple[int, Callable[[], Any]]]
    if path.suffix == ".jsonl":
        entries = _json_lines(path)
    else:
        logs = _json(path).get("logs")
        if not isinstance(logs, list):
            raise VlmProbeError(f"{path} has no list of logs; lmms-eval writes one with --log_samples")
        entries = ((number, lambda row=row: row) for number, row in enumerate(logs, start=1))
    rows: list[dict[str, Any]] = []
    skipped: list[str] = []
    for number, parse in entries:
        try:
            row = parse()
            said = row.get("filtered_resps") or row.get("resps") if isinstance(row, dict) else None
            while isinstance(said, list) and said:
                said = said[0]
            if not isinstance(said, str):
                raise _BadLineError("no logged answer (filtered_resps or resps)")
            rows.append(answer_row(model or path.parent.name, _logged_item(row, task, number), said))
        except _BadLineError as error:
            if not skip_bad:
                raise VlmProbeError(f"{path}, line {number}: {error} (--skip-bad leaves such lines out)") from None
            skipped.append(f"{path}, line {number}: {error}")
    if not rows:
        raise VlmProbeError(f"{path} holds no usable sample")
    return pd.DataFrame(rows, columns=list(ANSWER_COLUMNS)), skipped
