"""Answers that lmms-eval logged, as the table that `evaluate` makes."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from vlm_probe.errors import VlmProbeError
from vlm_probe.items.entries import BadEntryError, Parse, attempt, json_lines, json_object, listed, need, yes_no
from vlm_probe.items.item import Item
from vlm_probe.items.normalize import choice_letter
from vlm_probe.items.readers import FORMATS
from vlm_probe.items.readers.mmvet import answer_parts
from vlm_probe.items.scores import ANSWER_COLUMNS, answer_row

ANNOTATORS = 10
"""So many texts are what VQA's annotators said; of any other list each text is a right answer."""
_VQAV2_TARGET = "answer"
"""lmms-eval's target of every question of VQAv2: the name of a field that its documents do not have."""
_LETTER = re.compile(r"\(?[A-Za-z]\)?\.?")


def read_lmms_samples(
    path: Path | str, *, model: str | None = None, skip_bad: bool = False
) -> tuple[pd.DataFrame, list[str]]:
    """Answers logged by lmms-eval (`--log_samples`): `<date>_samples_<task>.jsonl`, or the older JSON
    with a "logs" list.

    What a question is about (its id, category, pair) is read from `doc` where it was logged, and else
    from the fields that the task's metrics keep, the prompt (`input`) and the images (`input_media`). Scores
    are computed here, from the logged text; only where VQAv2's annotators were not logged, its
    `exact_match` (the soft accuracy) is taken over. VQAv2's target is a text of its configuration
    ("answer"), no answer: the truth is what most annotators said, "" where they are not told.

    model: the name in the table; taken from the folder's name if None (lmms-eval names it after the model).

    Returns the table of answers as `evaluate` makes it (no probabilities: they are not logged; image is
    "" where the log does not tell it), and what was skipped.

    Raises VlmProbeError for a line without answer or target, or without what its benchmark's metric
    needs, with file and line.
    """
    path = Path(path)
    task = path.stem.split("samples_")[-1]
    rows: list[dict[str, Any]] = []
    skipped: list[str] = []
    for number, parse in _samples(path):
        try:
            rows.append(attempt(lambda p=parse, n=number: _answer(p(), model or path.parent.name, task, n)))
        except BadEntryError as error:
            if not skip_bad:
                raise VlmProbeError(f"{path}, line {number}: {error} (--skip-bad leaves such lines out)") from None
            skipped.append(f"{path}, line {number}: {error}")
    if not rows:
        raise VlmProbeError(f"{path} holds no usable sample")
    return pd.DataFrame(rows, columns=list(ANSWER_COLUMNS)), skipped


def _samples(path: Path) -> Iterator[tuple[int, Parse]]:
    if path.suffix == ".jsonl":
        return json_lines(path)
    logs = listed(json_object(path), "logs", path)  # as --log_samples writes it
    return ((number, lambda row=row: row) for number, row in enumerate(logs, start=1))


def _answer(row: Any, model: str, task: str, number: int) -> dict[str, Any]:
    """One row of the table."""
    need(row, "target")
    said = row["filtered_resps"] if row.get("filtered_resps") is not None else row.get("resps")
    if _likelihoods(said):
        raise BadEntryError("likelihoods of given answers were logged, not an answer: the task does not generate one")
    while isinstance(said, list) and said:
        said = said[0]
    if not isinstance(said, str):
        raise BadEntryError("no logged answer (filtered_resps or resps)")
    item = _item(row, task, number)
    score = None
    if item.family == "vqav2" and not item.answers:
        score = row.get("exact_match")
        if not isinstance(score, int | float):
            raise BadEntryError("neither the annotators' answers nor exact_match was logged")
    return answer_row(model, item, said, score=score)


def _likelihoods(said: Any) -> bool:
    """Whether some of what was logged is a log-likelihood and whether greedy decoding would give the answer."""
    if not isinstance(said, list):
        return False
    if len(said) == 2 and str(said[1]) in ("True", "False") and not isinstance(said[0], list):
        return True
    return any(_likelihoods(one) for one in said)


def _about(row: dict[str, Any]) -> dict[str, Any]:
    """What the log tells of the question: `doc`, which newer versions drop, over what the metrics keep, over the prompt
    and, where there is one, the image's name."""
    doc = row["doc"] if isinstance(row.get("doc"), dict) else {}
    kept: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, dict) and name != "doc":
            kept = {**value, **kept}
    given: dict[str, Any] = {"question": row["input"]} if isinstance(row.get("input"), str) else {}
    media = row.get("input_media")
    if isinstance(media, list) and len(media) == 1 and not str(media[0]).startswith("data:"):  # the picture, unnamed
        given["input_media"] = media[0]
    return {**given, **kept, **doc}


def _targets(target: Any) -> list[str]:
    """The target's alternatives; newer versions log a list as its text."""
    if isinstance(target, str) and target.startswith("["):
        try:
            target = ast.literal_eval(target)
        except (ValueError, SyntaxError):
            return [target]
    return [str(one) for one in target] if isinstance(target, list) else [str(target)]


def _item(row: dict[str, Any], task: str, number: int) -> Item:
    """The item behind one logged sample."""
    about = _about(row)
    family = next((f for f in FORMATS if re.match(rf"{f}(_|$)", task.lower())), task)
    targets = _targets(row["target"])
    if not targets:
        raise BadEntryError("no target")
    own = str(about.get("question_id", row.get("doc_id", number)))
    named = (about.get(name) for name in ("image_source", "image_id", "imageId", "input_media"))
    image = str(next((name for name in named if name), ""))
    kind = str(about.get("category") or about.get("answer_type") or "question")
    name = group = f"{task}-{own}-{row.get('doc_id', number)}"
    answers = about["answers"] if isinstance(about.get("answers"), list) else []  # one text is no list of its letters
    said = tuple(str(a.get("answer", a)) if isinstance(a, dict) else str(a) for a in answers)
    parts: tuple[str, ...] = ()
    if family in ("pope", "mme"):
        targets = [yes_no(one) for one in targets]
    if family == "vqav2" and targets == [_VQAV2_TARGET]:
        most = max(dict.fromkeys(said), key=said.count, default="")
        targets = [str(about.get("multiple_choice_answer") or most)]
    if family == "mme":
        need(about, "category", "question_id")
        image, group = own, f"{task}-{kind}-{own}"
    elif family == "mmvp":
        pair = about.get("pair_index")
        if pair is None and isinstance(about.get("Index"), int):
            pair = (about["Index"] + 1) // 2
        if pair is None or pair == -1:  # lmms-eval's of an entry without a number
            raise BadEntryError("no pair_index, so that pairs cannot be told")
        group = f"{task}-pair-{pair}"
    elif family == "mmvet":
        answer, parts = answer_parts(targets[0])
        targets = [answer]
    elif family == task:
        # Of another number, a task's own "answers" may be anything, choices too: then the target alone is heard.
        said = next((texts for texts in (said, tuple(targets)) if len(texts) == ANNOTATORS), ())
    if family == "mmvp" or (family == task and _LETTER.fullmatch(targets[0].strip())):
        kind = "choice"
        for one in targets:
            if not choice_letter(one):
                raise BadEntryError(f"the target must be a letter, got {one!r}")
    answer, *others = dict.fromkeys(targets)
    return Item(
        name,
        family,
        kind,
        group,
        image,
        str(about.get("question", "")),
        answer,
        answers=said,
        also=() if said else tuple(others),
        parts=parts,
    )
