"""Where do models look? The report's figures and tables for any list of models (finding S1).

    python analyses/where_it_looks.py --models replica/small-clip replica/small-dino
    python analyses/where_it_looks.py --models Intel/llava-gemma-2b Intel/llava-gemma-7b --items 600

Writes figures/where_it_looks_*.png and .svg and figures/where_it_looks.csv, and prints the verdicts.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.progress import Progress

import vlm_probe
from vlm_probe import VlmProbeError
from vlm_probe.figures import save
from vlm_probe.findings import Looking
from vlm_probe.report import draw, measure


def main() -> None:
    parser = argparse.ArgumentParser(description="Where do models look?")
    parser.add_argument("--models", nargs="+", default=["replica/small-clip", "replica/small-dino"])
    parser.add_argument("--items", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device")
    parser.add_argument("--out", type=Path, default=Path("figures"))
    arguments = parser.parse_args()
    with Progress(transient=True) as bar:
        task = bar.add_task("measuring", total=2 * arguments.items * len(arguments.models))
        measured = measure(
            lambda name: vlm_probe.load(name, device=arguments.device),
            arguments.models,
            items=arguments.items,
            seed=arguments.seed,
            progress=lambda n: bar.advance(task, n),
        )
    for name, figure in draw(measured).items():
        print(*save(figure, arguments.out, f"where_it_looks_{name}"), sep="\n")
    verdicts = measured.table(Looking.verdicts)
    verdicts.to_csv(arguments.out / "where_it_looks.csv", index=False)
    print(verdicts.round(3).to_string(index=False))
    if any(name.startswith("replica") for name in arguments.models):
        print("Replicas are miniatures: nothing here is a statement about the 2B or the 7B.")


if __name__ == "__main__":
    try:
        main()
    except VlmProbeError as error:
        sys.exit(f"error: {error}")
