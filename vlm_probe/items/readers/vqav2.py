"""VQAv2: short open answers, ten annotators each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vlm_probe.errors import VlmProbeError
from vlm_probe.items.entries import BadEntryError, json_object, listed, need, need_texts
from vlm_probe.items.item import Item
from vlm_probe.items.readers.reader import SHORT, Entry, Reader, image_in
from vlm_probe.items.rules import annotated


def read(path: Path, images: Path | None) -> Iterator[Entry]:
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
        return Item(name, "vqav2", kind, name, file, question, answer, said or (answer,), source=image_in(images, file))

    for number, row in enumerate(listed(data, "questions", path), start=1):
        yield number, lambda row=row: item(row)


READER = Reader("vqav2", read, lambda path, head: '"questions"' in head, entry="entry", score=annotated, suffix=SHORT)
