"""Ask models the same items, and keep every answer: resumable, item by item."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from vlm_probe.errors import VlmProbeError
from vlm_probe.evidence.comparison import compare
from vlm_probe.files import make_folder, remove_stale, replacing, writing
from vlm_probe.items.item import Item, check_ids
from vlm_probe.items.readers import suffix_of
from vlm_probe.items.scores import ANSWER_COLUMNS, answer_row, kind_table, metric_table
from vlm_probe.running.asking import Asked, ask_all
from vlm_probe.running.protocol import Runs
from vlm_probe.running.resuming import resumed, run_settings


@dataclass
class Evaluation:
    """What an evaluation comes to."""

    answers: pd.DataFrame
    """Every model's rows, columns `ANSWER_COLUMNS`."""
    metrics: pd.DataFrame
    """Columns model, family, metric, value, n."""
    kinds: pd.DataFrame
    """Every kind of question, see `kind_table`."""
    comparisons: list[pd.DataFrame]
    """Every other model against the first, see `compare`."""


def write_evaluation(tables: list[pd.DataFrame], out: Path, *, seed: int, skipped: list[str]) -> Evaluation:
    """Write `answers.parquet`, `metrics.csv`, `kinds.csv`, `comparison.csv` (two models or more) and `skipped.txt`.

    All or none: those of an earlier evaluation in the folder, of other models or items too, are replaced once all are
    written, and removed where there is nothing to say; other files stay.

    tables: columns `ANSWER_COLUMNS`; one model's answers may come in several (a benchmark each).

    Raises VlmProbeError for an item that a model answered twice, models without a common item, and a folder that cannot
    be written.
    """
    answers = pd.concat(tables, ignore_index=True)
    names = [str(name) for name in answers["model"].unique()]
    for model, item in answers.loc[answers.duplicated(["model", "id"]), ["model", "id"]].itertuples(index=False):
        raise VlmProbeError(f"there are two answers of {model} to {item!r}; item ids must differ")
    comparisons = [compare(answers, names[0], other, seed=seed) for other in names[1:]]
    make_folder(out)
    found = Evaluation(answers, metric_table(answers), kind_table(answers), comparisons)
    csv = {"metrics.csv": found.metrics, "kinds.csv": found.kinds}
    if comparisons:
        csv["comparison.csv"] = pd.concat(comparisons, ignore_index=True)
    with writing(out), ExitStack() as together:  # no file takes its place before all are written
        answers.to_parquet(together.enter_context(replacing(out / "answers.parquet")), index=False)
        for name, table in csv.items():
            table.to_csv(together.enter_context(replacing(out / name)), index=False)
        if skipped:
            partial = together.enter_context(replacing(out / "skipped.txt"))
            partial.write_text("".join(f"{line}\n" for line in skipped))
    remove_stale(out, ("comparison.csv", "skipped.txt"), (*csv, *["skipped.txt"][: len(skipped)]))
    return found


IMAGES_AT_ONCE = 16
"""Images of one chunk: what a killed run loses at most, and what is encoded together."""


def chunks(items: Sequence[Item]) -> list[list[Item]]:
    """Items by image, `IMAGES_AT_ONCE` images to a chunk, in order of first mention."""
    by_image: dict[str, list[Item]] = {}
    for item in items:
        by_image.setdefault(item.image, []).append(item)
    groups = list(by_image.values())
    starts = range(0, len(groups), IMAGES_AT_ONCE)
    return [[item for group in groups[s : s + IMAGES_AT_ONCE] for item in group] for s in starts]


def _answer_chunk(
    model: Runs, chunk: list[Item], suffix: str, max_new_tokens: int, skip_bad: bool
) -> list[dict[str, Any]]:
    pictures: dict[str, Any] = {}
    for item in chunk:
        if item.image not in pictures:
            try:
                pictures[item.image] = model.picture(item)
            except VlmProbeError:
                if not skip_bad:
                    raise
                pictures[item.image] = None
    index = {name: i for i, name in enumerate(n for n, picture in pictures.items() if picture is not None)}
    kept = [item for item in chunk if item.image in index]
    asked = [Asked(index[item.image], item.question + suffix_of(item, suffix), item.answer) for item in kept]
    images = [pictures[name] for name in index]
    answers = ask_all(model, images, asked, max_new_tokens=max_new_tokens)
    return [
        answer_row(str(model.name), item, a.text, p_answer=a.p_answer, p_yes=a.p_yes, entropy=a.entropy)
        for item, a in zip(kept, answers, strict=True)
    ]


def evaluate(
    model: Runs,
    items: Sequence[Item],
    *,
    parts: Path | None = None,
    suffix: str = "",
    max_new_tokens: int = 16,
    skip_bad: bool = False,
    progress: Callable[[int], None] | None = None,
) -> pd.DataFrame:
    """Answer every item by greedy decoding, and score it.

    Questions about one image share its work (`running.asking`).

    Parameters
    ----------
    parts: a folder for finished chunks; a killed run goes on from there, to the identical table. Of
        two runs at once, one waits for the other.
    suffix: appended to every question after a line break ("Answer the question using a single word or phrase."), or
        "benchmark" for the answer format of each item's family (`items.suffix_of`).
    skip_bad: leave out items whose image is missing or unreadable, instead of raising.
    progress: called with the number of items just done.

    Returns
    -------
    One row an item, columns `items.scores.ANSWER_COLUMNS`, in the order of the items. `attrs["skipped"]`
    names the items left out.

    Raises
    ------
    VlmProbeError: two items of one id; an image that is missing or unreadable (with `skip_bad`: all of
        them); parts that belong to another run (other weights, hooks, items, images or options).
    OSError: a part that cannot be written (a full disk), by its name; the same call then goes on from those that were.
    """
    check_ids(items)
    if not items:
        raise VlmProbeError("there is no item to ask")
    if parts is None:
        return _evaluate(model, items, None, suffix, max_new_tokens, skip_bad, progress)
    settings = run_settings(model, items, suffix=suffix, max_new_tokens=max_new_tokens, skip_bad=skip_bad)
    with resumed(parts, str(model.name), settings) as folder:
        return _evaluate(model, items, folder, suffix, max_new_tokens, skip_bad, progress)


def _evaluate(
    model: Runs,
    items: Sequence[Item],
    parts: Path | None,
    suffix: str,
    max_new_tokens: int,
    skip_bad: bool,
    progress: Callable[[int], None] | None,
) -> pd.DataFrame:
    """As `evaluate`, in a folder of parts that is this run's alone."""
    tables: list[pd.DataFrame] = []
    for number, chunk in enumerate(chunks(items)):
        file = None if parts is None else parts / f"{number:06d}.parquet"
        if file is not None and file.exists():
            table = pd.read_parquet(file)
        else:
            rows = _answer_chunk(model, chunk, suffix, max_new_tokens, skip_bad)
            table = pd.DataFrame(rows, columns=list(ANSWER_COLUMNS))
            if file is not None:
                with replacing(file) as partial:
                    table.to_parquet(partial, index=False)
        tables.append(table)
        if progress is not None:
            progress(len(chunk))
    order = {item.id: n for n, item in enumerate(items)}
    whole = pd.concat([t for t in tables if len(t)] or tables, ignore_index=True)
    whole = whole.sort_values("id", key=lambda column: column.map(order), ignore_index=True)
    answered = set(whole["id"])
    skipped = [f"item {i.id}: the image {i.image} is missing or unreadable" for i in items if i.id not in answered]
    if whole.empty:
        raise VlmProbeError(f"no item could be asked; {skipped[0]}")
    whole.attrs = {"title": "answers", "provenance": model.provenance(), "skipped": skipped}
    return whole
