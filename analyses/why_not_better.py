"""Why is the larger model not better? What the study `grid` says: each factor, two at a time, and along training.

    python analyses/why_not_better.py

The paper's models differ in several things at once and were trained once each. The study trains miniatures that differ
in one thing at a time, over seeds (`vlm-probe study grid`); no model is run here. Writes figures/why_curves (share
right along training), why_effects and why_effects_novel (each factor alone), x1_interactions and x2_interactions (two
at a time, beside the paper's own), figures/why_effects.csv and figures/why_interactions.csv, and prints the verdicts.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
from command import disclaim, draw_all, print_verdicts, run, write_table

from vlm_probe import findings
from vlm_probe.figures import effects_by_factor, learning_curves, save, styled
from vlm_probe.studies import at_budget, grid_differences, grid_effects, results
from vlm_probe.studies import learning_curves as curves_of

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
    print(*save(figure, arguments.out, "why_curves"), sep="\n")
    differences = grid_differences(at_budget(table)).query("kind == 'all'")
    effects = grid_effects(differences)
    for split, ending in (("heldout", ""), ("novel", "_novel")):
        own = (part.loc[part["split"] == split] for part in (differences, effects))
        print(*save(effects_by_factor(*own), arguments.out, f"why_effects{ending}"), sep="\n")
    write_table(effects, arguments.out / "why_effects.csv")
    print(f"\n{table.attrs['title']}\n{effects.attrs['method']}")
    print(effects.drop(columns=["kind", "n", "p"]).round(3).to_string(index=False))
    found = findings.run(["X1", "X2"], [])
    draw_all(found, arguments.out)
    write_table(found.evidence, arguments.out / "why_interactions.csv")
    print_verdicts(found)
    print(f"made by: {table.attrs['command']}")
    disclaim(["replica/"])


if __name__ == "__main__":
    run(main)
