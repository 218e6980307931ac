"""Why is the larger model not better? What the studies say: each factor, two at a time, and along training.

    python analyses/why_not_better.py

The paper's models differ in several things at once and were trained once each. Studies train miniatures that differ in
one thing at a time, over seeds (`vlm-probe study grid`); no model is run here. Of the study grid it writes
figures/why_curves (share right along training), why_effects and why_effects_novel (each factor alone), x1_interactions
and x2_interactions (two at a time, beside the paper's own), s6_inside, e3_inside and c3_inside (what stands inside, arm
by arm), figures/why_effects.csv and figures/why_interactions.csv; of every other study that has a table
figures/why_<study> and why_<study>.csv (each factor alone; of the study rate, at the rate that was best on items kept
apart); of the study softmax, of real connectors, figures/why_softmax, why_softmax_accuracy.csv and
why_softmax_loss.csv. It prints the verdicts.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from command import disclaim, draw_all, print_verdicts, run, write_table

from vlm_probe import VlmProbeError, findings
from vlm_probe.figures import effects_by_factor, learning_curves, save, styled
from vlm_probe.figures import effects_followed as draw_followed
from vlm_probe.studies import (
    at_budget,
    effects_followed,
    grid_differences,
    grid_effects,
    reading_differences,
    readings,
    results,
    softmax_differences,
    softmax_results,
    tabled,
    tuned,
)
from vlm_probe.studies import learning_curves as curves_of
from vlm_probe.studies.softmax import MARGIN, chosen

SPLITS = {"heldout": "Pairs of kinds never seen together", "novel": "Kinds never seen"}


def main() -> None:
    parser = argparse.ArgumentParser(description="What the study grid says, over seeds")
    parser.add_argument("--out", type=Path, default=Path("figures"))
    arguments = parser.parse_args()
    table = results("grid")
    curves = curves_of(table)
    with styled():
        figure, panels = plt.subplots(1, 2, figsize=(10, 4.2), sharey=True, layout="constrained")
        for (split, title), ax in zip(SPLITS.items(), panels, strict=True):
            learning_curves(curves.loc[curves["split"] == split], ax, title=title)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    print(*save(figure, arguments.out, "why_curves", data=curves), sep="\n")
    differences = grid_differences(at_budget(table)).query("kind == 'all'")
    effects = grid_effects(differences)
    for split, ending in (("heldout", ""), ("novel", "_novel")):
        own = [part.loc[part["split"] == split] for part in (differences, effects)]
        print(
            *save(effects_by_factor(*own), arguments.out, f"why_effects{ending}", data=own[1] if ending else effects),
            sep="\n",
        )
    _print(table, effects)
    _followed("grid", effects, arguments.out)
    for id in tabled():
        if id != "grid":
            _other_study(id, arguments.out)
    _softmax(arguments.out)
    rows = ["X3", "V6"] if "vocabulary" in tabled() else []
    found = findings.run(["X1", "X2", "S6", "E3", "C3", *rows], [])
    draw_all(found, arguments.out)
    write_table(found.evidence, arguments.out / "why_interactions.csv")
    print_verdicts(found)
    print(f"made by: {table.attrs['command']}")
    disclaim(["replica/"])


def _other_study(id: str, out: Path) -> None:
    """Each factor of a study alone, drawn for held-out scenes, and printed; a study of which half is trained may have
    nothing to compare."""
    table = results(id)
    scores = at_budget(tuned(table) if id == "rate" else table)
    try:
        differences = grid_differences(scores).query("kind == 'all'")
    except VlmProbeError as error:
        print(f"\n{table.attrs['title']}\n{error}")
        return
    effects = grid_effects(differences)
    own = (part.loc[part["split"] == "heldout"] for part in (differences, effects))
    print(*save(effects_by_factor(*own), out, f"why_{id}"), sep="\n")
    write_table(effects, out / f"why_{id}.csv")
    _print(table, effects)
    if id != "rate":  # its effects are of whichever rate was best, from seed to seed
        _followed(id, effects, out)


def _followed(id: str, effects: pd.DataFrame, out: Path) -> None:
    """What goes with a study's decided effects, from the picture to the answer."""
    try:
        differences = reading_differences(readings(id))
    except VlmProbeError as error:  # nobody looked
        print(f"\n{error}")
        return
    found = effects_followed(effects, differences)
    for line in found.attrs["left_out"]:
        print(f"not followed: {line}")
    if found.empty:
        return
    print(*save(draw_followed(differences, found), out, f"why_{id}_followed", data=found), sep="\n")
    print(f"\nwhat goes with these\n{found.attrs['method']}")
    print(found.drop(columns=["factor", "n", "p"]).replace("\n", " ", regex=True).round(3).to_string(index=False))


def _softmax(out: Path) -> None:
    """The study of real connectors: what the ids in a softmax change, and what pulls at the image rows meanwhile."""
    try:
        scores, gradients = softmax_results(), softmax_results("gradients")
    except VlmProbeError as error:  # not trained yet
        print(f"\n{error}")
        return
    for measure in ("accuracy", "loss"):
        differences = softmax_differences(scores, measure).query("kind == 'all'")
        effects = grid_effects(differences, margin=MARGIN if measure == "accuracy" else 0.0)
        if effects.empty:
            print(f"\n{scores.attrs['title']}\nnot enough of it is trained yet")
            return
        if measure == "accuracy":
            own = (part.loc[part["split"] == "heldout"] for part in (differences, effects))
            print(*save(effects_by_factor(*own), out, "why_softmax"), sep="\n")
        write_table(effects, out / f"why_softmax_{measure}.csv")
        print(f"\nby {'share right' if measure == 'accuracy' else 'loss in nats'}", end="")
        _print(scores, effects)
    best = gradients.loc[gradients["arm"].isin([arm.name for arm in chosen(scores)])]
    means = best.pivot_table(["others_share", "cosine"], ["language", "ids", "share"], sort=False).round(3)
    print(f"\nThe gradient at the image rows over all ids, along training\n{means.to_string()}")


def _print(table: pd.DataFrame, effects: pd.DataFrame) -> None:
    print(f"\n{table.attrs['title']}\n{effects.attrs['method']}")
    print(effects.drop(columns=["kind", "n", "p"]).round(3).to_string(index=False))


if __name__ == "__main__":
    run(main)
