"""Does one checkpoint answer more than another, and of what? Two models or more on the same items.

    python analyses/size_2b_vs_7b.py
    python analyses/size_2b_vs_7b.py --models Intel/llava-gemma-2b Intel/llava-gemma-7b --n 500
    python analyses/size_2b_vs_7b.py --models A B --items pope.json Questions.csv --images val2014/ MMVP/

Every model is compared with the first. Writes figures/size_<model>.png and .svg (differences per
question family) and figures/size.csv, and prints the verdicts. Answers are kept in <out>/size_answers:
a killed run goes on. Then, on fewer items (--why), what the models do to answer, findings S1 to S5: where they look,
whether the answer is there but unused, whether language alone answers, by which route the image reaches the answer, and
where it is decided; figures/size_why_*.png and .svg, and figures/size_why.csv.

The verdicts are about two checkpoints and these items. Training either of them again changes items by more
than that, so that whether *size* does it is decided over training seeds: grid_effects.py, and finding X1.
"""

from __future__ import annotations

from pathlib import Path

from command import disclaim, each_model, measure_and_draw, options, run, write_table

from vlm_probe.figures import difference_by_family, save
from vlm_probe.findings import generated_items
from vlm_probe.items.gathering import gather_items
from vlm_probe.running.evaluation import evaluate, write_evaluation
from vlm_probe.scenes import family_items

MECHANISMS = ("S1", "S2", "S3", "S4", "S5")
ABOUT = (
    "Each verdict is about two checkpoints and these items. Whether size does it is decided over training seeds: "
    "analyses/grid_effects.py (and with connector pretraining, finding X1)."
)


def main() -> None:
    parser = options(
        "Does one checkpoint answer more than another?", ("replica/small-clip", "replica/large-clip"), n=200
    )
    parser.add_argument("--items", nargs="+", default=["scenes"], help="scenes, or benchmarks' question files")
    parser.add_argument("--images", nargs="+", type=Path, default=[], help="their folders of images: one, or one each")
    parser.add_argument("--why", type=int, default=60, help="scenes and twins for S1 to S5 (files: items); 0: none")
    arguments = parser.parse_args()
    items, skipped = gather_items(
        arguments.items,
        arguments.images,
        generated=lambda: family_items(arguments.n, seed=arguments.seed),
        format=None,
        skip_bad=False,
    )
    kept = arguments.out / "size_answers"
    tables = [
        evaluate(model, items, parts=kept / "parts", suffix=arguments.suffix, progress=advance)
        for model, advance in each_model(arguments, len(items))
    ]
    result = write_evaluation(tables, kept, seed=arguments.seed, skipped=skipped)
    for comparison in result.comparisons:
        name = comparison.attrs["second"].replace("/", "-")
        print(*save(difference_by_family(comparison), arguments.out, f"size_{name}", data=comparison), sep="\n")
        columns = ["family", "n", "a", "b", "difference", "low", "high", "p_holm", "verdict", "reason"]
        print(f"\n{comparison.attrs['title']}, on the same items")
        print(comparison.filter(columns).round(3).to_string(index=False))
    write_table(result.metrics, arguments.out / "size.csv")
    print(f"\n{ABOUT}")
    if arguments.why:
        generated = arguments.items == ["scenes"]
        asked = generated_items(arguments.why, seed=arguments.seed) if generated else items[: arguments.why]
        measure_and_draw(arguments, MECHANISMS, "size_why", asked)
    else:
        disclaim(arguments.models)


if __name__ == "__main__":
    run(main)
