"""`vlm-probe study`: the trained experiments that findings X1 to X3 and V6 read, trained again."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlm_probe.cli.terminal import bar, err, say, show
from vlm_probe.errors import VlmProbeError
from vlm_probe.files import make_folder

if TYPE_CHECKING:
    import pandas as pd

    from vlm_probe.studies.softmax import SoftmaxArm
    from vlm_probe.studies.study import Study
    from vlm_probe.training.processes import Job
    from vlm_probe.zoo.cells import Cell


def study(
    name: Annotated[str, typer.Argument(help="The study: grid, encoder, vocabulary, rate or softmax.")],
    runs: Annotated[Path, typer.Option(help="Folder for checkpoints, logs and tables.")] = Path("runs"),
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds, from --first-seed on.")] = 5,
    first_seed: Annotated[int, typer.Option(min=0, help="The first of them.")] = 0,
    jobs: Annotated[int, typer.Option(min=1, help="Arms trained at a time.")] = 1,
    arm: Annotated[str | None, typer.Option(help="Train this arm alone, from --first-seed, in this process.")] = None,
    missing: Annotated[bool, typer.Option(help="Only arms and seeds that the shipped tables do not have.")] = False,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Train the arms of a study from several seeds, resuming what was begun, and collect their scores."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    with err.status("starting"):
        from vlm_probe.opening import find_device
        from vlm_probe.studies.softmax import SOFTMAX
        from vlm_probe.studies.study import find_study
    find_device(device)
    if name == SOFTMAX:
        _softmax(runs, range(first_seed, first_seed + seeds), jobs, arm, missing, device)
        return
    chosen = find_study(name)
    if arm is None:
        cells = [cell for seed in range(first_seed, first_seed + seeds) for cell in chosen.of_seed(seed)]
    else:
        cells = [chosen.arm(arm, first_seed)]
    if missing:
        from vlm_probe.studies.result_tables import finished

        there = finished(chosen)
        cells = [cell for cell in cells if (cell.name, cell.seed) not in there]
        if not cells:
            raise VlmProbeError(f"the shipped tables have every such arm of study {name}")
    make_folder(runs)
    if arm is not None:
        from vlm_probe.training.study import train_arm

        say(train_arm(chosen, cells[0], runs, device=device))
        return
    _train(chosen, runs, cells, jobs, device)


def _train(study: Study, runs: Path, cells: list[Cell], jobs: int, device: str) -> None:
    """Train every arm from every seed behind one bar; the tables are written anew with every finished run."""
    from vlm_probe.training.study import folder_of

    arms = [(cell.name, cell.seed, folder_of(cell, runs)) for cell in cells]
    _run(study.id, arms, runs, jobs, device, lambda: _write(study, runs))
    table = _write(study, runs).query("kind == 'all' and budget == 1")
    if table.empty:
        raise VlmProbeError(f"{runs} has no finished run of study {study.id}")
    show(table.filter(["arm", "seed", "split", "n", "accuracy"]), f"study {study.id}, all questions, whole budget")
    say(runs / f"{study.id}.csv")


def _write(study: Study, runs: Path) -> pd.DataFrame:
    """`<runs>/<study>.csv`, `<study>_runs.csv` and `inside.csv`, from what is there."""
    from vlm_probe.studies import inside
    from vlm_probe.studies.result_tables import collect, write

    table, made = collect(study, runs)
    write(study, table, made, runs)
    inside.write(inside.collect(runs), runs)
    return table


def _softmax(runs: Path, seeds: range, jobs: int, arm: str | None, missing: bool, device: str) -> None:
    """The study of real models: every rate from seed 0, then what was best there from the others."""
    from dataclasses import replace

    from vlm_probe.studies.softmax import (
        ARMS,
        LANGUAGES,
        SOFTMAX,
        at_an_edge,
        chosen,
        collect,
        find_arm,
        known,
        shipped,
    )

    there = set(known()) if missing else set()
    make_folder(runs)
    if arm is not None:
        from vlm_probe.training.softmax import train_arm

        one = find_arm(arm, seeds[0])
        if (one.name, one.seed) in there:
            raise VlmProbeError(f"the shipped tables have every such arm of study {SOFTMAX}")
        say(train_arm(one, runs, device=device))
        return
    _train_softmax(runs, [one for one in ARMS.values() if 0 in seeds and (one.name, 0) not in there], jobs, device)
    best = chosen(shipped(collect(runs)["scores"]))
    if len(seeds) > (0 in seeds) and len(best) < sum(map(len, LANGUAGES.values())):
        raise VlmProbeError(f"which rate is best is told by seed 0: vlm-probe study {SOFTMAX} --seeds 1 comes first")
    rest = [replace(one, seed=seed) for seed in seeds if seed for one in best]
    _train_softmax(runs, [one for one in rest if (one.name, one.seed) not in there], jobs, device)
    tables = collect(runs)
    if tables["made"].empty:
        raise VlmProbeError(f"the shipped tables have every such arm of study {SOFTMAX}")
    for name in at_an_edge(best):
        err.print(f"{name} is best at the edge of the rates that are tried")
    table = tables["scores"].query("kind == 'all' and split == 'heldout'")
    show(
        table.filter(["arm", "seed", "n", "accuracy", "accuracy_all_ids", "loss"]), f"study {SOFTMAX}, held-out scenes"
    )
    say(runs / f"{SOFTMAX}.csv")


def _train_softmax(runs: Path, arms: list[SoftmaxArm], jobs: int, device: str) -> None:
    """Train arms behind a bar; the tables are written anew with every finished run."""
    from vlm_probe.studies.softmax import SOFTMAX, collect, write

    waiting = [(arm.name, arm.seed, arm.folder(runs)) for arm in arms]
    _run(SOFTMAX, waiting, runs, jobs, device, lambda: write(collect(runs), runs))


def _run(
    study: str,
    waiting: list[tuple[str, int, Path]],
    runs: Path,
    jobs: int,
    device: str,
    collected: Callable[[], object],
) -> None:
    """Train everything that waits behind a bar: arms, their seeds, and the folders that their logs go to; `collected`
    writes the tables anew with every finished run."""
    from vlm_probe.training.processes import begin_arm, run_all

    with bar("runs", len(waiting)) as advance:

        def begin(one: tuple[str, int, Path], threads: int) -> Job:
            arm, seed, folder = one
            return begin_arm(study, arm, seed, runs, device, folder / "train.log", threads)

        def finished(_: object) -> None:
            collected()
            advance(1)

        run_all(waiting, begin, jobs=jobs, finished=finished)
