"""What a study of trained miniatures says of one factor alone, over training seeds."""

from __future__ import annotations

from collections import Counter

import pandas as pd
from matplotlib.figure import Figure

from vlm_probe import figures
from vlm_probe.evidence import Verdict
from vlm_probe.figures.scores import SCENES
from vlm_probe.figures.style import figure_of
from vlm_probe.findings.questions import Question, followed, studied
from vlm_probe.report.document import Table
from vlm_probe.report.drawing import counted

CAPTION = (
    "Trained miniatures that differ in this alone, after the study's whole budget of scenes: a dot a training seed, "
    "and their mean with its 95 % interval (Student's t over seeds)."
)
FOLLOWED = (
    "Of two arms of which one answers more right, what else they differ in: a dot a training seed, and their mean with "
    "its 95 % interval (Student's t over seeds). Right of 0 the second has more, or loses more; of what is lost "
    "without attention the interval reaches over what is lost beyond as many random edges, too."
)
_SAYS = {
    "size": "A larger language model answers more",
    "encoder": "DINO in place of CLIP answers more",
    "connector": "A pretrained connector answers more",
}
"""By factor: what its change would do where it helps."""


def in_words(question: Question) -> str:
    """One sentence on what came out, over all pairs of cells and both kinds of scenes; "" where nothing was studied."""
    _, effects = studied(question)
    if effects.empty:
        return ""
    parts = counted(effects["verdict"].tolist())
    seeds = sorted(set(effects["seeds"].tolist()))
    many = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    changes = 100 * effects["difference"]
    return (
        f"In miniatures trained from {many} seeds, alike but for this, the share right changes by "
        f"{changes.min():+.1f} to {changes.max():+.1f} points over {len(effects)} comparisons: "
        f"{', '.join(parts)}. A comparison is supported where what is changed to is right more often."
    )


def drawn(question: Question) -> tuple[Figure, pd.DataFrame]:
    """Held-out scenes, seed by seed; and the table of both kinds of scenes."""
    differences, effects = studied(question)
    one, means = (rows.loc[rows["split"] == "heldout"] for rows in (differences, effects))
    counts = Counter(means["verdict"].tolist())
    came = ", ".join(f"{number} {verdict}" for verdict, number in counts.items())
    figure = figures.effect_over_seeds(one, means, title=f"{_SAYS[question.factor]}, over training seeds: {came}")
    return figure_of(figure), effects


def table(question: Question) -> Table:
    """A row a pair of cells and kind of scenes."""
    _, effects = studied(question)
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


def followed_in_words(question: Question) -> list[str]:
    """A sentence an effect that is decided: what goes its way, what against it, what is as much in both arms, and how
    much is not told."""
    _, found = followed(question)
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
        first, second, split = effect["first"], effect["second"], SCENES.get(effect["split"], effect["split"])
        sentences = [f"{first} to {second}, {split}: answers {100 * effect['difference']:+.1f} points"]
        sentences += [f"{what}: {', '.join(kinds)}" for what, kinds in told.items() if kinds]
        said.append(f"{'. '.join(sentences)}.")
    return said


def followed_drawn(question: Question) -> tuple[Figure, pd.DataFrame]:
    """Every effect that is decided, place by place; and the table of it."""
    differences, found = followed(question)
    came = ", ".join(counted(found.loc[found["kind"] != found["kind"].iloc[0], "verdict"].tolist()))
    title = f"What goes with the change by {question.factor}, over training seeds: {came}"
    return figure_of(figures.effects_followed(differences, found, title=title)), found
