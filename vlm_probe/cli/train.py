"""`vlm-probe train`: one replica, all of them, or a connector between real models."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlm_probe.cli.terminal import bar, err, say, show
from vlm_probe.errors import VlmProbeError, nearest
from vlm_probe.files import DISK_ERRORS, alone, disk_trouble, make_folder, naming, replacing

if TYPE_CHECKING:
    from vlm_probe.training.loop import Progress
    from vlm_probe.zoo.catalog import Fusion
    from vlm_probe.zoo.cells import Cell


def train(
    cell: Annotated[
        str | None,
        typer.Argument(
            help="replica/<size>-<encoder>[-nopre][-v<vocabulary>], or llava-<gemma3-270m|smollm2-135m>[-lora]."
        ),
    ] = None,
    grid: Annotated[bool, typer.Option("--grid", help="Train all cells, resuming what was begun.")] = False,
    runs: Annotated[
        Path, typer.Option(help="Folder for checkpoints and logs; stages that cells share are found there.")
    ] = Path("runs"),
    out: Annotated[
        Path | None, typer.Option(help="Folder for the finished model; <runs>/seed-<seed>/<cell>/model if not given.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an earlier run stopped.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of weights and data.")] = 0,
    seeds: Annotated[int, typer.Option(min=1, help="With --grid: how many seeds.")] = 1,
    jobs: Annotated[int, typer.Option(min=1, help="With --grid: cells trained at a time.")] = 1,
    keep_shipped: Annotated[
        bool, typer.Option("--keep-shipped", help="With --grid: see through the shipped encoders, skip shipped cells.")
    ] = False,
    items: Annotated[int, typer.Option(min=12, help="Held-out scenes for the scores in the card.")] = 1200,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Train a replica, all replicas, or a connector between real models, by LLaVA's recipe in miniature."""
    if (cell is None) == (not grid):
        raise VlmProbeError(
            "name what to train, replica/<size>-<encoder>[-nopre][-v<vocabulary>] or llava-<language model>[-lora], or "
            "give --grid for all replicas"
        )
    # Of a configuration that is about to be replaced, and of torchvision, which nothing here needs.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    with err.status("starting"):
        from vlm_probe.opening import find_device
        from vlm_probe.training.replica import find_cell
        from vlm_probe.training.sweep import model_folder
        from vlm_probe.zoo.catalog import FUSIONS
    find_device(device)
    try:
        if cell is None:
            _train_grid(runs, seeds, jobs, keep_shipped, items, device)
        elif cell in FUSIONS:
            folder = out or runs / f"seed-{seed}" / cell / "model"
            make_folder(folder)
            _train_fusion(FUSIONS[cell], runs, folder, resume, items, device, seed)
            say(folder)
        elif cell.startswith("llava-"):
            raise VlmProbeError(f"nothing called {cell!r} to train; nearest are {nearest(cell, FUSIONS)}")
        else:
            chosen = replace(find_cell(cell), seed=seed)
            folder = out or model_folder(chosen, runs)
            make_folder(folder)
            _train_replica(chosen, runs, folder, resume, items, device)
            say(folder)
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        hint = "" if grid or resume else "; with --resume it goes on from what is done"
        raise VlmProbeError(f"{disk_trouble(error)}{hint}") from error


def _train_grid(runs: Path, seeds: int, jobs: int, keep_shipped: bool, items: int, device: str) -> None:
    """Train every cell behind one bar, collect the scores and show them."""
    from vlm_probe.studies.grid import collect_scores, grid_scores
    from vlm_probe.training import sweep

    make_folder(runs)
    there = sweep.adopt_shipped(runs) if keep_shipped else []
    cells = [one for one in sweep.order_of_grid(seeds) if one.seed or one.name not in there]
    with bar("cells", len(cells)) as advance:
        sweep.run_grid(runs, cells, jobs=jobs, items=items, device=device, finished=lambda _: advance(1))
    # Of adopted cells the scores are the package's.
    table = collect_scores(runs, kept=grid_scores().query("seed == 0 and cell in @there"))
    with replacing(runs / "scores.csv") as partial:
        table.to_csv(partial, index=False)
    overall = table.query("split == 'heldout' and kind == 'all'")
    show(overall.filter(["cell", "seed", "n", "accuracy", "low", "high"]), "held-out scenes, all questions")
    say(runs / "scores.csv")


def _train_replica(cell: Cell, runs: Path, folder: Path, resume: bool, items: int, device: str) -> None:
    """Train a cell behind progress bars, export it and write its card."""
    from vlm_probe.training import card
    from vlm_probe.training import replica as recipe

    with _stage_bars() as listen:
        trained = recipe.train(cell, runs, resume=resume, listen=listen, device=device)
    # Of two processes at once, one waits here, so that weights and scores are of one.
    with alone(recipe.runs_of(cell, runs) / cell.name / "model.lock"), _unfinished(folder):
        recipe.export(trained, folder)
        card.write_card(cell, runs, folder, *card.score(folder, items, bar))


@contextmanager
def _unfinished(folder: Path) -> Iterator[None]:
    """A model's folder that is being written: without its card, which says that it is whole."""
    card = folder / "card.json"
    card.unlink(missing_ok=True)
    try:
        with naming(folder):
            yield
    except BaseException:
        card.unlink(missing_ok=True)
        raise


def _train_fusion(fusion: Fusion, runs: Path, folder: Path, resume: bool, items: int, device: str, seed: int) -> None:
    """Train a connector (and adapters) between real models behind progress bars, export it and write its card."""
    from vlm_probe.training import connector as recipe
    from vlm_probe.training import connector_card as card
    from vlm_probe.training.card import score

    steps = recipe.Steps()
    with _stage_bars() as listen:
        parts = recipe.train(fusion, runs, steps=steps, seed=seed, resume=resume, listen=listen, device=device)
    with _unfinished(folder):
        recipe.export(parts, folder)
        del parts  # the frozen models are loaded once more to be scored
        card.write_card(fusion, runs, folder, *score(folder, items, bar), steps=steps, seed=seed)


@contextmanager
def _stage_bars() -> Iterator[Callable[[Progress], None]]:
    """A progress bar for every stage of a recipe: yields what to call after each step."""
    from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description:>14}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[loss]}"),
    )
    with Bars(*columns, console=err) as bars:
        tasks: dict[str, TaskID] = {}

        def listen(progress: Progress) -> None:
            if progress.stage not in tasks:
                tasks[progress.stage] = bars.add_task(progress.stage, total=progress.steps, loss="")
            bars.update(tasks[progress.stage], completed=progress.step, loss=f"loss {progress.figures['loss']:.3f}")

        yield listen
