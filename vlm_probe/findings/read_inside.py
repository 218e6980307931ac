"""What S6, E3 and C3 share: what stands inside miniatures that differ in one thing, and what their answers need.

The runs of the study `grid` were looked into once each (`studies.readings`): what a probe reads of objects at one place
after the other, and how many answers are lost with another picture or without attention to the image. Two arms are
compared in these seed by seed, so that what is claimed is about what they were made of, not about two checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd

from vlm_probe.evidence import Claim, EveryWay, OverRuns, Tables
from vlm_probe.evidence.estimate import over_runs
from vlm_probe.evidence.statistics import Statistic
from vlm_probe.findings.finding import FigureOf, Finding, Section, Shown, TableOf
from vlm_probe.findings.interactions import GRID, SPLITS
from vlm_probe.items import Item
from vlm_probe.studies import reading_differences, readings
from vlm_probe.studies.effects import FEWEST_RUNS
from vlm_probe.studies.inside import FOLLOWED, MARGIN

LOST = "answers lost "
"""What the words of `studies.inside.FOLLOWED` begin with that are about answers, not about probes."""


@dataclass(frozen=True)
class Compared:
    """Arms of the study `grid` that differ in one factor alone."""

    pairs: tuple[tuple[str, str], ...]
    """By name, of the many that there are: those that are asked about, before anything was read."""
    words: tuple[str, ...] = (
        "shapes read from the connector",
        "shapes read from the last layer",
        "answers lost with another picture",
        "answers lost without attention from either to image",
    )
    """Which of `studies.inside.FOLLOWED` they are compared in: no encoder where arms share it, and of the routes both
    at once, for one may carry what the other does not."""
    once: tuple[str, ...] = ()
    """What the first pair is compared in, too, for all others would be as much."""


def inside(compared: Compared, table: pd.DataFrame | None = None) -> dict[str, Tables]:
    """The table "runs" (`studies.reading_differences`, a row a seed), of "replicas".

    Beside its columns stand of (which claim a row is one seed's of) and step (of shares, 1 / n).

    table: as `studies.readings` returns it; that of the study `grid` if None. Raises VlmProbeError where nobody looked
    inside two such arms.
    """
    found = reading_differences(readings("grid") if table is None else table)
    kinds = [" ".join(kind.split()) for kind in found["kind"].tolist()]
    asked = [_of(*one) for one in _asked(compared)]
    named = zip(found["first"].tolist(), found["second"].tolist(), found["split"].tolist(), kinds, strict=True)
    runs = found.assign(kind=kinds, of=[_of(*one) for one in named], step=1 / found["n"])
    return {GRID: {"runs": runs.loc[runs["of"].isin(asked)].reset_index(drop=True)}}


def claims(compared: Compared) -> tuple[Claim, ...]:
    """A claim a pair, kind of scenes and what they are compared in."""
    return tuple(
        Claim(
            id=(of := _of(first, second, split, words)),
            sentence=f"On {SPLITS[split]}, {_sentence(first, second, words)}",
            statistic=_statistic(of, words),
            control=f"of {first}" + (", and as many random edges" if _held(words) else ""),
            unit="training seeds",
            margin=MARGIN,
            least=FEWEST_RUNS,
            untrained=False,
            about=(GRID,),
        )
        for first, second, split, words in _asked(compared)
    )


def _asked(compared: Compared) -> Iterator[tuple[str, str, str, str]]:
    for number, (first, second) in enumerate(compared.pairs):
        all_of_them = compared.words if number else (*compared.once, *compared.words)
        yield from ((first, second, split, words) for split in SPLITS for words in all_of_them)


def _of(first: str, second: str, split: str, words: str) -> str:
    return f"{first} to {second}, {split}: {words}"


def _sentence(first: str, second: str, words: str) -> str:
    if words.startswith(LOST):
        return f"{second} loses more answers (share) {words.removeprefix(LOST)} than {first}"
    return f"a probe reads more objects' {words.replace('read', '(share)')} of {second} than of {first}"


def _statistic(of: str, words: str) -> Statistic:
    """The difference over seeds; of what is lost without attention as sure as beyond what random edges cost."""
    alone = OverRuns("runs", "b", "a", where=f"of == {of!r}", resolution="step")
    return EveryWay((alone, replace(alone, value="beside", control=0.0))) if _held(words) else alone


def _held(words: str) -> bool:
    """Whether it is held to as many random edges."""
    return any(what.beside for name, what in FOLLOWED.items() if " ".join(name.split()) == words)


def shown(compared: Compared, measured: Mapping[str, Tables], items: Sequence[Item] = ()) -> Shown:
    """The tables "over seeds" (what the claims estimate, a row each) and "measures" (every arm by itself, on held-out
    scenes)."""
    runs = measured[GRID]["runs"]
    rows, means = [], dict[tuple[str, str], tuple[float, float, float, int]]()
    for first, second, split, words in _asked(compared):
        own = runs.loc[runs["of"] == _of(first, second, split, words)]
        found = _statistic(_of(first, second, split, words), words)([measured[GRID]])
        if not found.n:
            continue
        estimated = (found.n, found.control, found.value, found.difference, found.low, found.high)
        rows.append((first, second, split, words, *estimated))
        for arm, column in ((first, "a"), (second, "b")):
            alone = over_runs(own[column].to_numpy(dtype=float), np.zeros(len(own)))
            if split == "heldout":
                means[f"replica/{arm}", words] = (alone.value, alone.low, alone.high, alone.n)
    columns = ["first", "second", "split", "kind", "seeds", "a", "b", "difference", "low", "high"]
    measures = [(*about, *estimated) for about, estimated in means.items()]
    return Shown(
        tables={
            "over seeds": pd.DataFrame(rows, columns=columns),
            "measures": pd.DataFrame(measures, columns=["model", "measure", "mean", "low", "high", "n"]),
        }
    )


def sections(id: str) -> tuple[Section, ...]:
    """Every arm by itself, and what they differ in."""
    figure = FigureOf(
        f"{id.lower()}_inside",
        "measures_by_model",
        "measures",
        "Held-out scenes: what a probe reads, and what share of answers is lost where something is taken away; means "
        "over training seeds (n) with their 95 % interval (Student's t).",
        "what stands inside each arm",
        {"title": "What stands inside, and what answers need", "label": "share", "note": "mean of training seeds"},
    )
    columns = {"first": "from", "second": "to", "split": "scenes", "kind": "what", "seeds": "seeds"}
    columns |= {"a": "share", "b": "after", "difference": "difference", "low": "95 % from", "high": "to "}
    return (Section("From the picture to the answer", (figure, TableOf("over seeds", columns))),)


METHODS = (
    "Every run of the study grid was looked into at its whole budget. Probes: logistic regressions over the object's "
    "box, learned on objects in training scenes; of novel kinds shapes from those of other colors. Colors are not "
    "compared: six numbers of the pixels tell them. Lost: answers right as they are, less those right with the next "
    "item's picture, or without attention from question and answer to the image in every layer, which is held to as "
    "many random edges (docs/methods/knockout.md).",
    "Two arms of one seed share their scenes, and all that the change leaves alone, so that they are compared seed by "
    f"seed: interval and test are Student's t over training seeds, Holm over the finding's claims, {FEWEST_RUNS} seeds "
    "at least. What is lost without attention is decided where it is also beyond what random edges cost (an "
    "intersection-union test, Berger 1982).",
)
CAVEATS = (
    "What two arms differ in inside need not be why they differ in answers. Where taking something away leaves both at "
    "the floor, what is lost repeats the difference of their answers: both need it.",
    "What probes find differs from seed to seed by five to ten points: five seeds tell differences of fifteen or more.",
)


def finding_of(id: str, question: str, explains: str, compared: Compared) -> Finding:
    """The finding that compares such arms; its measure raises as `inside` does."""
    return Finding(
        id=id,
        question=question,
        explains=explains,
        claims=claims(compared),
        measure=partial(inside, compared),
        models=0,
        wants="no items: it reads what was found inside trained models",
        methods=METHODS,
        caveats=CAVEATS,
        shown=partial(shown, compared),
        sections=sections(id),
    )
