"""Ask models the same items, and keep every answer: resumable, item by item."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
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
from vlm_probe.running.scheduling import LOCAL, Engine, run_shards


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


Opens = Callable[[str], Runs]


@dataclass(frozen=True)
class _Asking:
    """What a worker needs besides its model; it travels to workers on other machines."""

    chunks: list[list[Item]]
    suffix: str
    max_new_tokens: int
    skip_bad: bool

    def worker(self, model: Runs) -> Callable[[int], pd.DataFrame]:
        return partial(_answer_chunk, model, self)

    def open_worker(self, load: Opens, name: str, expected: dict[str, Any]) -> Callable[[int], pd.DataFrame]:
        """A worker with a model of its own. VlmProbeError where that is another than the one it stands in for."""
        model = load(name)
        found = run_settings(model, [])
        if other := [what for what in expected if found[what] != expected[what]]:
            told = ", ".join(f"{what} {found[what]!r} for {expected[what]!r}" for what in other)
            raise VlmProbeError(
                f"load opens {name} in an actor as another model than the one given ({told}); an engine of actors "
                "takes a model as load opens it, without hooks or edits"
            )
        return self.worker(model)


def _answer_chunk(model: Runs, asking: _Asking, number: int) -> pd.DataFrame:
    chunk, pictures = asking.chunks[number], dict[str, Any]()
    for item in chunk:
        if item.image not in pictures:
            try:
                pictures[item.image] = model.picture(item)
            except VlmProbeError:
                if not asking.skip_bad:
                    raise
                pictures[item.image] = None
    index = {name: i for i, name in enumerate(n for n, picture in pictures.items() if picture is not None)}
    kept = [item for item in chunk if item.image in index]
    asked = [Asked(index[item.image], item.question + suffix_of(item, asking.suffix), item.answer) for item in kept]
    images = [pictures[name] for name in index]
    answers = ask_all(model, images, asked, max_new_tokens=asking.max_new_tokens)
    rows = [
        answer_row(str(model.name), item, a.text, p_answer=a.p_answer, p_yes=a.p_yes, entropy=a.entropy)
        for item, a in zip(kept, answers, strict=True)
    ]
    return pd.DataFrame(rows, columns=list(ANSWER_COLUMNS))


def evaluate(
    model: Runs,
    items: Sequence[Item],
    *,
    parts: Path | None = None,
    suffix: str = "",
    max_new_tokens: int = 16,
    skip_bad: bool = False,
    engine: Engine = LOCAL,
    load: Opens | None = None,
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
    engine: where chunks are answered (`running.scheduling`). On Ray by actors that open the model by its name; this
        process alone writes the parts, so that they need no disk in common, but for images and checkpoints.
    load: what opens it there, a function that can be pickled (`vlm_probe.load`).
    progress: called with the number of items just done.

    Returns
    -------
    One row an item, columns `items.scores.ANSWER_COLUMNS`, in the order of the items, whatever the engine.
    `attrs["skipped"]` names the items left out.

    Raises
    ------
    VlmProbeError: two items of one id; an image that is missing or unreadable (with `skip_bad`: all of
        them); parts that belong to another run (other weights, hooks, items, images or options); Ray without `load`,
        with one that opens another model than this, or that cannot be used (`running.scheduling.run_shards`).
    OSError: a part that cannot be written (a full disk), by its name; the same call then goes on from those that were.
    """
    check_ids(items)
    if not items:
        raise VlmProbeError("there is no item to ask")
    asking = _Asking(chunks(items), suffix, max_new_tokens, skip_bad)
    make = partial(asking.worker, model)
    if engine.name != "local":
        if load is None:
            raise VlmProbeError(f"engine {engine.name} opens the model in other processes; give load= (vlm_probe.load)")
        make = partial(asking.open_worker, load, str(model.name), run_settings(model, []))
    if parts is None:
        return _evaluate(model, items, asking, None, make, engine, progress)
    settings = run_settings(model, items, suffix=suffix, max_new_tokens=max_new_tokens, skip_bad=skip_bad)
    with resumed(parts, str(model.name), settings) as folder:
        return _evaluate(model, items, asking, folder, make, engine, progress)


def _evaluate(
    model: Runs,
    items: Sequence[Item],
    asking: _Asking,
    parts: Path | None,
    make: Callable[[], Callable[[int], pd.DataFrame]],
    engine: Engine,
    progress: Callable[[int], None] | None,
) -> pd.DataFrame:
    """As `evaluate`, in a folder of parts that is this run's alone."""
    tables: dict[int, pd.DataFrame] = {}

    def keep(number: int, table: pd.DataFrame) -> None:
        file = None if parts is None else parts / f"{number:06d}.parquet"
        if file is not None and not file.exists():
            with replacing(file) as draft:
                table.to_parquet(draft, index=False)
        tables[number] = table
        if progress is not None:
            progress(len(asking.chunks[number]))

    for number in range(len(asking.chunks)):
        if parts is not None and (file := parts / f"{number:06d}.parquet").exists():
            keep(number, pd.read_parquet(file))
    run_shards([n for n in range(len(asking.chunks)) if n not in tables], make, engine=engine, done=keep)
    order = {item.id: n for n, item in enumerate(items)}
    found = [tables[number] for number in sorted(tables)]
    whole = pd.concat([t for t in found if len(t)] or found, ignore_index=True)
    whole = whole.sort_values("id", key=lambda column: column.map(order), ignore_index=True)
    answered = set(whole["id"])
    skipped = [f"item {i.id}: the image {i.image} is missing or unreadable" for i in items if i.id not in answered]
    if whole.empty:
        raise VlmProbeError(f"no item could be asked; {skipped[0]}")
    whole.attrs = {"title": "answers", "provenance": model.provenance(), "skipped": skipped}
    return whole
