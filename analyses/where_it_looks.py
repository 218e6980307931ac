"""Where do models look? The report's figures and tables for any list of models (finding S1).

    python analyses/where_it_looks.py --models replica/small-clip replica/small-dino
    python analyses/where_it_looks.py --models Intel/llava-gemma-2b Intel/llava-gemma-7b --n 600

Writes figures/where_it_looks_*.png and .svg and figures/where_it_looks.csv, and prints the verdicts.
"""

from __future__ import annotations

from command import disclaim, options, run
from rich.progress import Progress

import vlm_probe
from vlm_probe.figures import save
from vlm_probe.report import draw, measure, steps


def main() -> None:
    arguments = options("Where do models look?", ("replica/small-clip", "replica/small-dino"), n=300).parse_args()
    with Progress(transient=True) as bar:
        task = bar.add_task("measuring", total=steps(arguments.n, len(arguments.models), ["S1"]))
        measured = measure(
            lambda name: vlm_probe.load(name, device=arguments.device),
            arguments.models,
            items=arguments.n,
            seed=arguments.seed,
            progress=lambda n: bar.advance(task, n),
            findings=["S1"],
        )
    for name, figure in draw(measured.chapters[0]).items():
        print(*save(figure, arguments.out, f"where_it_looks_{name}"), sep="\n")
    verdicts = measured.tables["verdicts"]
    verdicts.to_csv(arguments.out / "where_it_looks.csv", index=False)
    print(verdicts.round(3).to_string(index=False))
    disclaim(arguments.models)


if __name__ == "__main__":
    run(main)
