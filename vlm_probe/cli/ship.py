"""`vlm-probe ship`, for maintainers: finished cells into the package."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from vlm_probe.cli.terminal import console, say


def ship(
    runs: Annotated[Path, typer.Option(help="A runs folder with finished cells.")] = Path("runs"),
    out: Annotated[Path, typer.Option(help="The package's folder.")] = Path("vlm_probe"),
) -> None:
    """For maintainers: put studies' tables, finished cells of seed 0 and the scores of all seeds into the package."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from vlm_probe.studies import inside, softmax
    from vlm_probe.studies.result_tables import ship as ship_tables

    studies = ship_tables(runs, out)
    read = [Path(inside.FILE).stem] if inside.ship(runs, out) else []
    studies += [softmax.SOFTMAX] if softmax.ship(runs, out) else []
    for name in [*studies, *read]:
        say(out / "studies" / "tables" / f"{name}.csv")
    if studies and not any(runs.glob("seed-*")):  # a folder of studies alone
        return
    from vlm_probe.training import sweep

    for name in sweep.ship(runs, out):
        console.print(name)
    say(out / "studies" / "grid_scores.csv")
