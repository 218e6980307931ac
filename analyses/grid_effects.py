"""What size, encoder, connector pretraining and vocabulary change among the replicas, all else equal.

    python analyses/grid_effects.py
    python analyses/grid_effects.py --runs runs        # scores of your own `vlm-probe train --grid`

The replicas' counterpart of published_results.py: the same changes, every cell trained alike and
scored on the same items, over the seeds that were trained (no model is run here). Writes
figures/grid_scores, grid_effects and grid_size_by_type (.png and .svg) and figures/grid_effects.csv;
with --split novel, the same names with _novel. And of findings X1 to X3, whether one change does more
where another was made: figures/x1_interactions to x3_interactions, figures/grid_interactions.csv.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
from command import disclaim, run, write_table

from vlm_probe import VlmProbeError
from vlm_probe.figures import effect_over_seeds, effects_by_factor, interactions, save, scores_by_seed
from vlm_probe.findings import Run, find
from vlm_probe.findings.finding import FigureOf
from vlm_probe.findings.x1_size_pretraining import size_by_pretraining
from vlm_probe.findings.x2_encoder_size import encoder_by_size
from vlm_probe.findings.x3_vocabulary_size import vocabulary_by_size
from vlm_probe.studies import collect_scores, grid_differences, grid_effects, grid_scores

CROSSED = {"X1": size_by_pretraining, "X2": encoder_by_size, "X3": vocabulary_by_size}


def main() -> None:
    parser = argparse.ArgumentParser(description="What one change does among the replicas, over seeds")
    parser.add_argument("--runs", type=Path, help="a runs folder, instead of the scores that are shipped")
    parser.add_argument("--split", choices=("heldout", "novel"), default="heldout")
    parser.add_argument("--out", type=Path, default=Path("figures"))
    arguments = parser.parse_args()
    if arguments.runs is None:
        scores = grid_scores()
    else:  # the folder's own table also has what was adopted from the package
        kept = arguments.runs / "scores.csv"
        scores = collect_scores(arguments.runs, pd.read_csv(kept) if kept.exists() else None)
    if scores.empty:
        raise VlmProbeError(f"no finished cell in {arguments.runs}")
    differences = grid_differences(scores).query("split == @arguments.split")
    effects = grid_effects(differences)
    overall = {"split": arguments.split, "kind": "all"}
    ending = "" if arguments.split == "heldout" else f"_{arguments.split}"

    own = _rows(scores, **overall)
    print(*save(scores_by_seed(own), arguments.out, f"grid_scores{ending}", data=own), sep="\n")
    shown = _rows(effects, **overall)
    drawn = effects_by_factor(_rows(differences, **overall), shown)
    print(*save(drawn, arguments.out, f"grid_effects{ending}"), sep="\n")

    pair = {"first": "small-clip", "second": "large-clip", "split": arguments.split}
    by_type = _rows(effects, **pair)
    if len(by_type):
        title = "small-clip to large-clip, by type of question"
        ax = effect_over_seeds(_rows(differences, **pair), by_type, by="kind", title=title)
        print(*save(ax, arguments.out, f"grid_size_by_type{ending}", data=by_type), sep="\n")
    write_table(effects, arguments.out / f"grid_effects{ending}.csv")
    columns = ["factor", "first", "second", "seeds", "a", "b", "difference", "low", "high", "p_holm", "verdict"]
    print(f"\n{effects.attrs['title']}: {arguments.split} scenes, {shown['n'].max()} items")
    print(effects.attrs["method"])
    print(shown.filter([*columns, "reason"]).round(3).to_string(index=False))

    result = Run(find(list(CROSSED)), [], [], 0, {id: measure(scores) for id, measure in CROSSED.items()})
    evidence = result.evidence.query("models == 'replicas'")
    write_table(evidence, arguments.out / "grid_interactions.csv")
    numbers = ["claim", "clusters", "unit", "value", "control", "difference", "low", "high", "p_corrected"]
    for finding in result.findings:
        drawn = finding.sections[0].blocks[0]
        assert isinstance(drawn, FigureOf)
        table = result.shown(finding).tables[drawn.table]
        print(*save(interactions(table, **drawn.given), arguments.out, drawn.name, data=table), sep="\n")
        print(f"\n{finding.id}: {finding.question}")
        for row in evidence.query("finding == @finding.id").to_dict("records"):
            reason = f" ({row['reason']})" if row["reason"] else ""
            print(f"  {row['sentence']}: {row['verdict']}{reason}")
        print(evidence.query("finding == @finding.id").filter(numbers).round(3).to_string(index=False))
    disclaim(["replica/"])


def _rows(table: pd.DataFrame, **chosen: object) -> pd.DataFrame:
    """The rows whose columns have these values."""
    for column, value in chosen.items():
        table = table.loc[table[column] == value]
    return table


if __name__ == "__main__":
    run(main)
