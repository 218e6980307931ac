"""What the paper's own numbers say about size, encoder and connector (no model is run).

    python analyses/published_results.py

Writes figures/published_results.png and .svg, figures/published_effects.csv and, of the interactions that findings
X1 to X3 read, figures/published_interactions.csv, and prints which numbers were not at hand. Each published number is
one run: there is no interval to draw and nothing to decide.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
from command import run, write_table

from vlm_probe import findings
from vlm_probe.figures import published_effect, save, styled
from vlm_probe.studies import FACTORS, published_effects


def main() -> None:
    parser = argparse.ArgumentParser(description="Effects among the paper's published numbers")
    parser.add_argument("--out", type=Path, default=Path("figures"))
    arguments = parser.parse_args()
    effects = published_effects()
    with styled():
        figure, panels = plt.subplots(1, len(FACTORS), figsize=(15, 5.2), layout="constrained")
        figure.suptitle("LLaVA-Gemma as published (Hinck et al. 2024): what one change does, all else equal")
    for ax, (factor, (_, start, end)) in zip(panels, FACTORS.items(), strict=True):
        words = {"yes": "pretrained", "no": "not pretrained"}
        first, second = (words.get(level, level) for level in (start, end))
        own = effects.query("factor == @factor")
        published_effect(own, ax, title=f"{factor}: {first} to {second}", first=first, second=second)
    print(*save(figure, arguments.out, "published_results"), sep="\n")
    write_table(effects, arguments.out / "published_effects.csv")
    for factor, rows in effects.groupby("factor", sort=False):
        known = rows.query("missing == ''")
        up = len(known.query("difference > 0"))
        print(f"\n{factor}: {len(known)} of {len(rows)} pairs published; {up} up, {len(known) - up} down or level")
        columns = ["benchmark", "fixed", "before", "after", "difference", "unit"]
        print(known.filter(columns).round(2).to_string(index=False))
        for missing, gone in rows.query("missing != ''").groupby("missing", sort=False):
            print(f"  not at hand: {missing} ({', '.join(gone['benchmark'])})")
    result = findings.run(["X1", "X2", "X3"], [])
    evidence = result.evidence.query("models == 'the paper'")
    write_table(evidence, arguments.out / "published_interactions.csv")
    for finding in result.findings:
        print(f"\n{finding.id}: {finding.question}\n{result.shown(finding).summary[0]}")
        for row in evidence.query("finding == @finding.id").to_dict("records"):
            print(f"  {row['sentence']}: {row['value']:+.1f}, {row['control']:+.1f} ({row['difference']:+.1f} apart)")


if __name__ == "__main__":
    run(main)
