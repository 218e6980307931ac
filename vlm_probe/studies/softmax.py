"""The study `softmax`, on real models: does a large vocabulary hurt a connector's training, by its softmax alone?

The connector of LLaVA between frozen models is trained with the softmax over some of the ids, all else alike: the words
of the task alone, those and others up to `IDS_KEPT`, or the whole vocabulary. Ids that no target ever has can only take
probability from those that are right, and pull at the image rows while they have any.

What was expected, written down before the table was made, though behind a pilot (300 steps of gemma3-270m at the usual
rate, from seed 0, yes/no questions among them: 0.497 right on held-out scenes over the task's ids, 0.480 over all):
what ids that are never right add to the gradient at the image rows is some third of it with a random connector, and a
tenth with one that was trained over all ids, and the whole points the same way as the gradient over the task's ids
alone (cosine 0.85 or more). So it should hardly matter which ids are there: after training, share right on held-out
scenes is within `MARGIN` of that of training over the task's ids alone, and the loss over these ids is larger, for they
share the training with keeping the others down.

Rates are chosen by the loss over the task's ids on scenes kept apart. That is what the arm "task" is trained for, and a
part of what the others are; its connector is of use only where the rest of the vocabulary is masked, as
`accuracy_all_ids` shows. Gradients are clipped at a norm of 1, which larger softmaxes meet more often; the optimisers
forgive their scale.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vlm_probe.errors import VlmProbeError, nearest
from vlm_probe.files import make_folder, replacing
from vlm_probe.studies import result_tables
from vlm_probe.studies.result_tables import beside, in_order
from vlm_probe.studies.study import SOFTMAX

QUESTION = "Does a larger vocabulary hurt the training of a connector, by its softmax alone?"
IDS = {
    "task": "the ids that captions and answers of training scenes have",
    "frequent": "these, and the first word pieces (byte pairs are numbered as they were merged: frequent first)",
    "random": "these, and others at random, by the seed",
    "hard": "these, and in turn of each those with rows of the unembedding most like its own (cosine, less their mean)",
    "all": "the whole vocabulary",
}
"""Over which ids the softmax is, by name."""
IDS_KEPT = 8192
"""How many there are in "frequent", "random" and "hard"."""
RATES = (1.0, 0.5, 2.0)
"""Times the connector's usual learning rate. All are tried from seed 0; further seeds have the one that was best there,
on scenes kept apart."""
LANGUAGES = {"gemma3-270m": tuple(IDS), "smollm2-135m": ("task", "all")}
"""By language model: its arms. Of the second, a fifth as large a vocabulary, the two ends alone."""
STEPS = 300
"""Of two scenes each, with caption and ten questions whose answer is not yes or no: those are at chance by then."""
MARGIN = 0.02
"""A difference in shares right that does not matter."""
MEASURED_AT = (0.0, 1 / 16, 1 / 4, 1.0)
"""Shares of the steps after which the gradient at the image rows is taken apart."""
ABOUT = ("arm", "language", "ids", "rate", "seed")
SCORES = (*ABOUT, "scenes", "split", "kind", "n", "accuracy", "accuracy_all_ids", "accuracy_other_images", "loss")
GRADIENTS = (*ABOUT, "share", "batch", "others_share", "cosine", "task_loss")
MADE = (*ABOUT, *result_tables.MADE)
_FILES = {
    "scores": (f"{SOFTMAX}.csv", SCORES),
    "gradients": (f"{SOFTMAX}_gradients.csv", GRADIENTS),
    "made": (f"{SOFTMAX}_runs.csv", MADE),
}
"""By what is in them: the table's name and its columns."""
RUN = "scores.json"
"""In the folder of a run: what it scored and how it was made."""


@dataclass(frozen=True)
class SoftmaxArm:
    """A connector trained once: before which language model, over which ids, how fast."""

    language: str
    ids: str
    rate: float = 1.0
    """Times the usual one."""
    seed: int = 0

    @property
    def name(self) -> str:
        return f"{self.language}-{self.ids}" + ("" if self.rate == 1 else f"-x{self.rate:g}")

    def folder(self, runs: Path) -> Path:
        """Where it is trained, in a folder of runs."""
        return runs / SOFTMAX / f"seed-{self.seed}" / self.name


ARMS = {
    arm.name: arm
    for rate in RATES
    for arm in (SoftmaxArm(language, ids, rate) for language, every in LANGUAGES.items() for ids in every)
}
"""Of seed 0, by name: every arm at every rate."""


def find_arm(name: str, seed: int) -> SoftmaxArm:
    """An arm by its name; VlmProbeError lists the nearest."""
    if name not in ARMS:
        raise VlmProbeError(f"study {SOFTMAX} has no arm {name!r}; nearest are {nearest(name, ARMS)}")
    return replace(ARMS[name], seed=seed)


def chosen(scores: pd.DataFrame) -> list[SoftmaxArm]:
    """Every arm at the rate whose loss was least on "dev" from seed 0, arms whose rates are not all there left out.

    scores: as `softmax_results` returns it; of rates that are equally good it is the first of `RATES`. One that came to
    no number is the worst.
    """
    tried = scores.query("split == 'dev' and kind == 'all' and seed == 0")
    loss = dict(zip(tried["arm"], tried["loss"].fillna(np.inf), strict=True))
    found = []
    for arm in (arm for arm in ARMS.values() if arm.rate == 1):
        same = [replace(arm, rate=rate) for rate in RATES]
        if all(one.name in loss for one in same):
            found.append(min(same, key=lambda one: loss[one.name]))
    return found


def at_an_edge(arms: Sequence[SoftmaxArm]) -> list[str]:
    """Those whose chosen rate is the least or the largest that was tried: a better one may lie beyond."""
    return [arm.name for arm in arms if arm.rate in (min(RATES), max(RATES))]


def collect(runs: Path) -> dict[str, pd.DataFrame]:
    """The tables of a folder of runs: scores, gradients (how the gradient at the image rows was made up) and made."""
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in _FILES}
    for file in sorted(runs.glob(f"{SOFTMAX}/seed-*/*/{RUN}")):
        found = json.loads(file.read_text())
        if found["arm"] not in ARMS:  # of another version
            continue
        arm = find_arm(found["arm"], found["seed"])
        about = {"arm": arm.name, "language": arm.language, "ids": arm.ids, "rate": arm.rate, "seed": arm.seed}
        for name, own in rows.items():
            own += [{**about, **row} for row in found[name]]
    return {name: in_order(pd.DataFrame(own, columns=[*_FILES[name][1]]), ARMS) for name, own in rows.items()}


def write(tables: dict[str, pd.DataFrame], folder: Path) -> None:
    """Write the tables as the package has them."""
    make_folder(folder)
    for name, table in tables.items():
        with replacing(folder / _FILES[name][0]) as partial:
            table.to_csv(partial, index=False)


def ship(runs: Path, package: Path) -> bool:
    """Bring a folder's runs into the package's tables, beside those that are there; whether it has any."""
    new, folder = collect(runs), package / "studies" / "tables"
    if new["made"].empty:
        return False
    write({name: beside(table, _read(name, folder), ARMS) for name, table in new.items()}, folder)
    return True


def _read(name: str, folder: Traversable | None = None) -> pd.DataFrame:
    file, columns = _FILES[name]
    return result_tables.committed(file, columns, folder)


def shipped(scores: pd.DataFrame) -> pd.DataFrame:
    """A folder's scores beside those that are committed."""
    return beside(scores, _read("scores"), ARMS)


def known() -> Sequence[tuple[str, int]]:
    """Arms and seeds that are in the committed tables."""
    made = _read("made")
    return [(str(arm), int(seed)) for arm, seed in zip(made["arm"], made["seed"], strict=True)]


def softmax_differences(scores: pd.DataFrame, measure: str = "accuracy") -> pd.DataFrame:
    """What adding ids to a softmax does, seed by seed: every arm beside that over the task's ids alone, each at the
    rate that `chosen` says. Seed 0, which chose it, is left out: what was lucky there was chosen for it.

    scores: as `softmax_results` returns it. measure: "accuracy", "accuracy_all_ids" or "loss".

    Returns the columns of `studies.grid_differences`, as `studies.grid_effects` sums them up; factor is the language
    model, and a and b are shares right, or nats for the loss.
    """
    best = {replace(one, rate=1.0).name: one.name for one in chosen(scores)}
    rows = []
    for language, every in LANGUAGES.items():
        first, *others = (SoftmaxArm(language, ids).name for ids in every)
        for second in others:
            if not {first, second} <= best.keys():
                continue
            a, b = (scores.loc[(scores["arm"] == best[name]) & (scores["seed"] > 0)] for name in (first, second))
            pair = a.merge(b, on=["seed", "split", "kind", "n"], suffixes=("_a", "_b"))
            pair = pair.assign(factor=f"{language}, ids in the softmax", first=first, second=second)
            rows.append(pair.assign(a=pair[f"{measure}_a"], b=pair[f"{measure}_b"]))
    columns = ["factor", "first", "second", "split", "kind", "n", "seed", "a", "b", "difference"]
    if not rows:
        return pd.DataFrame(columns=columns)
    table = pd.concat(rows, ignore_index=True)
    table = table.assign(difference=table["b"] - table["a"]).filter(columns)
    table.attrs = {"title": QUESTION, "units": "nats" if measure == "loss" else "share right"}
    return table


def softmax_results(table: str = "scores") -> pd.DataFrame:
    """What the study `softmax` left, as committed.

    table: "scores": a row a run, split and question type: arm, language, ids (of `IDS`), rate (times the usual one),
    seed, scenes (seen), split ("dev" and "heldout": pairs of kinds that never stood together in training, of other
    scenes), kind, n (questions), accuracy (share right, over the task's ids), accuracy_all_ids (over the whole
    vocabulary), accuracy_other_images (over the task's, when other scenes are shown: what needs no eyes) and loss (nats
    a token of the answer, over the task's ids). "gradients": a row a run, point of training and batch, how the gradient
    at the image rows of the softmax over all ids is made up: share (of the steps), batch, others_share (what the ids
    that are never right add, |w - t| / (|w - t| + |t|), w over all ids and t over the task's alone), cosine (of w to t)
    and task_loss (of t). "made": how each run was made.

    Raises VlmProbeError where none is trained yet.
    """
    if table not in _FILES:
        raise VlmProbeError(f"no table {table!r}; there are {', '.join(_FILES)}")
    found = _read(table)
    if found.empty:
        raise VlmProbeError(f"study {SOFTMAX} has no table yet; train it with vlm-probe study {SOFTMAX} --seeds 6")
    found.attrs = {
        "title": QUESTION,
        "units": "share right",
        "command": f"vlm-probe study {SOFTMAX} --seeds {max(found['seed'].tolist()) + 1}",
    }
    return found
