"""What does a large vocabulary cost, and would a smaller one do? V1 to V6 for any list of models.

    python analyses/vocabulary_256k.py
    python analyses/vocabulary_256k.py --models llava-smollm2-135m llava-gemma3-270m
    python analyses/vocabulary_256k.py --models gemma3-270m smollm2-135m --text questions.jsonl
    python analyses/vocabulary_256k.py --models Intel/llava-gemma-2b llava-hf/llava-1.5-7b-hf --n 300

Every model is compared with the first, item by item; whether the sweep's difference survives training again, from other
seeds, is `analyses/grid_effects.py`'s to say. Writes to figures/: vocabulary_parameters, vocabulary_flops,
vocabulary_growth, vocabulary_leakage, vocabulary_image_leakage, vocabulary_image_untrained and vocabulary_shrinking
(models with an encoder), vocabulary.csv (verdicts) and vocabulary_usage.csv; prints the verdicts.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from command import disclaim, each_model, options, print_verdicts, run

from vlm_probe.figures import budget_bars, leakage_by_layer, save, shrinking, vocabulary_growth
from vlm_probe.findings.vocabulary import PARTS, count_vocabulary, vocabulary_comparison, vocabulary_verdicts
from vlm_probe.scenes import family_items
from vlm_probe.vocabulary import read_texts, summarize_leakage

SWEEP = ("replica/small-clip", "replica/small-clip-v320", "replica/small-clip-v4096", "replica/small-clip-v20480")


def main() -> None:
    parser = options("What does a large vocabulary cost, and would a smaller one do?", SWEEP, n=40)
    parser.add_argument("--text", type=Path, help="text to count tokens in; the scenes' own if not given")
    arguments = parser.parse_args()
    out: Path = arguments.out
    texts = read_texts(arguments.text) if arguments.text is not None else []
    items = list(family_items(arguments.n, seed=arguments.seed))
    found = [
        count_vocabulary(model, items, texts=texts, progress=advance) for model, advance in each_model(arguments, PARTS)
    ]
    drawn = {
        "parameters": budget_bars(pd.concat([one.budget for one in found])),
        "flops": budget_bars(pd.concat([one.budget for one in found]), "flops_per_token"),
        "growth": vocabulary_growth(pd.concat([one.growth for one in found])),
    }
    leaks = [one.leakage for one in found if one.leakage is not None]
    if leaks:
        leaking = {
            "leakage": "unused_mass",
            "image_leakage": "image_unused_mass",
            "image_untrained": "image_untrained_mass",
        }
        for name, column in leaking.items():
            known = [table for table in leaks if column in table]  # where no id is known to be untrained there is none
            if known:
                drawn[name] = leakage_by_layer(summarize_leakage(pd.concat(known), column))
        shrunk = [one.shrinking for one in found if one.shrinking is not None]
        # Tables of several models keep no attrs.
        drawn["shrinking"] = shrinking(pd.concat([table.assign(n=table.attrs["items"]) for table in shrunk]))
    for name, ax in drawn.items():
        print(*save(ax, out, f"vocabulary_{name}"), sep="\n")
    tables = [vocabulary_verdicts(one) for one in found] + [vocabulary_comparison(found[0], one) for one in found[1:]]
    for table in tables:
        print_verdicts(table)
    pd.concat(tables, ignore_index=True).to_csv(out / "vocabulary.csv", index=False)
    rows = [{**one.usage, **one.geometry} for one in found]
    pd.DataFrame(rows).to_csv(out / "vocabulary_usage.csv", index=False)
    disclaim(arguments.models)


if __name__ == "__main__":
    run(main)
