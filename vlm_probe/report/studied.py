"""What a study of trained miniatures says of one factor alone, over training seeds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from vlm_probe import figures
from vlm_probe.evidence import Verdict
from vlm_probe.figures.scores import SCENES
from vlm_probe.figures.style import figure_of
from vlm_probe.findings.questions import Question, followed, studied
from vlm_probe.report.document import Table
from vlm_probe.report.drawing import counted, joined, points
from vlm_probe.studies.effects import FEWEST_RUNS
from vlm_probe.studies.study import ENCODERS_IN_WORDS, ROW_CHANGES, STUDIES

CAPTION = (
    "Trained miniatures that differ in this alone, after the study's whole budget of scenes: a dot a training seed, "
    "and their mean with its 95 % interval (Student's t over seeds)."
)
FOLLOWED = (
    "Of two arms of which one answers more right, what else they differ in: a dot a training seed, and their mean with "
    "its 95 % interval (Student's t over seeds). Right of 0 the second has more, or loses more; of what is lost "
    "without attention the interval reaches over what is lost beyond as many random edges, too."
)
_CHANGED_TO = {
    "size": "a larger language model",
    "encoder": "DINO in place of CLIP",
    "connector": "a pretrained connector",
}
"""By factor: what its change brings."""
_WAYS = {
    Verdict.SUPPORTED: "for it",
    Verdict.CONTRADICTED: "against it",
    Verdict.EQUIVALENT: "without a difference that matters",
}


def in_words(question: Question) -> str:
    """What came out, over all pairs of cells and both kinds of scenes; "" where nothing was studied."""
    _, effects = studied(question)
    if effects.empty:
        return ""
    what = _CHANGED_TO[question.factor]
    return f"Share right in miniatures that differ in this alone, over {_seeds(effects)}: {_came(effects, what)}."


def further_in_words(question: Question) -> list[str]:
    """What came out of every change of the question's further study, over sizes and both kinds of scenes."""
    _, effects = studied(question, further=True)
    changes = effects.groupby(_changes(question, effects), sort=False)
    return [_came(own, str(change)) for change, own in changes]


def further_briefly(question: Question) -> str:
    """A sentence on the question's further study: the changes of which something is decided; "" where there is none, or
    no table of it."""
    _, effects = studied(question, further=True)
    if effects.empty or question.further is None:
        return ""
    enough = effects.loc[effects["seeds"] >= FEWEST_RUNS]
    said = f"Study {question.further[0]}: "
    if enough.empty:
        few = f"{_seeds(effects)}, {FEWEST_RUNS} would do"
        return f"{said}too little to decide any of {_comparisons(len(effects))} ({few})."
    changes = enough.groupby(_changes(question, enough), sort=False)
    told = [_came(own, str(change)) for change, own in changes if set(own["verdict"]) & set(map(str, _WAYS))]
    said += f"over {_seeds(enough)}: {'; '.join(told) or f'none of {_comparisons(len(enough))} is decided'}"
    rest = len(effects) - len(enough)
    return f"{said}; {rest} more of too few seeds." if rest else f"{said}."


def _changes(question: Question, effects: pd.DataFrame) -> list[str]:
    """What the second arm of every pair has in place of the first's."""
    if question.further is None:
        return []
    study, factor = question.further
    arms = STUDIES[study].arms
    levels = [
        tuple(getattr(arms[name], factor) for name in pair)
        for pair in zip(effects["first"].tolist(), effects["second"].tolist(), strict=True)
    ]
    if factor == "rows":
        return [ROW_CHANGES[before, after] for before, after in levels]
    return [f"{ENCODERS_IN_WORDS[after]} in place of {ENCODERS_IN_WORDS[before]}" for before, after in levels]


def _seeds(effects: pd.DataFrame) -> str:
    low, high = min(seeds := effects["seeds"].tolist()), max(seeds)
    return "1 training seed" if high == 1 else f"{high if low == high else f'{low} to {high}'} training seeds"


def _comparisons(number: int) -> str:
    return "1 comparison" if number == 1 else f"{number} comparisons"


def _came(effects: pd.DataFrame, what: str) -> str:
    """How much what is changed to adds, and how many comparisons are decided which way."""
    verdicts = Counter(effects["verdict"].tolist())
    ways = [f"{verdicts[verdict]} {way}" for verdict, way in _WAYS.items() if verdicts[verdict]]
    decided = sum(verdicts[verdict] for verdict in _WAYS)
    came = f"{decided or 'none'} of {_comparisons(len(effects))} {'is' if decided < 2 else 'are'} decided"
    return f"{what} brings {points(effects['difference'].tolist())}; {came}{f' ({joined(ways)})' if ways else ''}"


def followed_briefly(question: Question) -> str:
    """Of the effects that are decided, how many were followed, and what else is decided of the same arms; "" where none
    is decided."""
    _, effects = studied(question)
    decided = sum(Verdict(verdict).decided for verdict in effects["verdict"].tolist())
    _, found = followed(question)
    if not decided:
        return ""
    if found.empty:
        few = f"looked into in {FEWEST_RUNS} seeds"
        return f"{'It was not' if decided == 1 else f'None of these {decided} was'} {few} to say what goes with it."
    said, pairs = [], found.groupby(["first", "second", "split"], sort=False)
    for _, own in pairs:
        effect, *places = own.to_dict("records")
        told = [
            f"{' '.join(place['kind'].split())} {points([place['difference']])}"
            for place in places
            if Verdict(place["verdict"]).decided
        ]
        said.append(f"{_arms(effect)}, {', '.join(told) or 'nothing else is decided'}")
    return f"What goes with {len(pairs)} of these {decided} was looked into: {'; '.join(said)}."


def drawn(question: Question, *, further: bool = False) -> tuple[Figure, pd.DataFrame]:
    """Held-out scenes, seed by seed; and the table of both kinds of scenes."""
    differences, effects = studied(question, further=further)
    one, means = (rows.loc[rows["split"] == "heldout"] for rows in (differences, effects))
    counts = Counter(means["verdict"].tolist())
    came = ", ".join(f"{number} {verdict}" for verdict, number in counts.items())
    if question.further and further:
        says = f"What each change of study {question.further[0]} brings"
    else:
        what = _CHANGED_TO[question.factor]
        says = f"{what[0].upper()}{what[1:]} answers more"
    title = f"{says}, over training seeds: {came}"
    figure = figures.effect_over_seeds(one, means, title=title)
    return figure_of(figure), effects


def table(question: Question, *, further: bool = False) -> Table:
    """A row a pair of cells and kind of scenes."""
    _, effects = studied(question, further=further)
    rows = pd.DataFrame(
        {
            "from": effects["first"],
            "to": effects["second"],
            "scenes": [SCENES.get(split, split) for split in effects["split"].tolist()],
            "seeds": effects["seeds"],
            "share right": effects["a"],
            "after": effects["b"],
            "difference": effects["difference"],
            "95 % from": effects["low"],
            "to ": effects["high"],
            "p": effects["p_holm"],
            "verdict": [
                f"{verdict} ({reason})" if reason else verdict
                for verdict, reason in zip(effects["verdict"].tolist(), effects["reason"].tolist(), strict=True)
            ],
        }
    )
    return Table.of(rows, whole=True)


def followed_in_words(question: Question, *, further: bool = False) -> list[str]:
    """A sentence an effect that is decided: what goes its way, what against it, what is as much in both arms, and how
    much is not told."""
    _, found = followed(question, further=further)
    said = []
    for _, own in found.groupby(["first", "second", "split"], sort=False):
        effect, *places = own.to_dict("records")
        told: dict[str, list[str]] = {"With it": [], "Against it": [], "The same in both": [], "Not told": []}
        for place in places:
            words = " ".join(place["kind"].split())
            if place["verdict"] == Verdict.EQUIVALENT:
                told["The same in both"].append(words)
            elif not Verdict(place["verdict"]).decided:
                told["Not told"].append(words)
            else:
                way = "With it" if (place["difference"] > 0) == (effect["difference"] > 0) else "Against it"
                told[way].append(f"{words} ({100 * place['difference']:+.1f})")
        sentences = [f"{_arms(effect)}: answers {100 * effect['difference']:+.1f} points"]
        sentences += [f"{what}: {', '.join(kinds)}" for what, kinds in told.items() if kinds]
        said.append(f"{'. '.join(sentences)}.")
    return said


def _arms(effect: dict[Hashable, Any]) -> str:
    """Which two arms an effect is of, and on which scenes."""
    return f"{effect['first']} to {effect['second']}, {SCENES.get(effect['split'], effect['split'])}"


def followed_drawn(question: Question, *, further: bool = False) -> tuple[Figure, pd.DataFrame]:
    """Every effect that is decided, place by place; and the table of it."""
    differences, found = followed(question, further=further)
    came = ", ".join(counted(found.loc[found["kind"] != found["kind"].iloc[0], "verdict"].tolist()))
    what = f"of study {question.further[0]}" if question.further and further else f"by {question.factor}"
    title = f"What goes with the change {what}, over training seeds: {came}"
    return figure_of(figures.effects_followed(differences, found, title=title)), found
