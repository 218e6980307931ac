"""The command line: `vlm-probe inspect | report | evaluate | scenes | models | train`.

Nothing heavy is imported before a command needs it, so that `--help` answers at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from vlm_probe.errors import VlmProbeError

if TYPE_CHECKING:
    import pandas as pd

    from vlm_probe.hooked import HookedVLM
    from vlm_probe.replicas.grid import Cell
    from vlm_probe.replicas.training import Progress

app = typer.Typer(
    help="Open vision-language models up: what they answer, what they attend to, and what that rests on.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
_out = Console()
_err = Console(stderr=True)

Model = Annotated[str, typer.Option("--model", "-m", help="replica/..., a Hub id or a local checkpoint directory.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, ...; CUDA if there is one.")]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16, ...; float32 on the CPU, bfloat16 on a GPU.")]
EmbedScale = Annotated[
    str | None,
    typer.Option(help="all or text: whether image rows are scaled like text rows; the checkpoint's own if not given."),
]


HUB_MODELS = {
    "Intel/llava-gemma-2b": ("the paper's 2B, CLIP ViT-L/14-336", 2.82),
    "Intel/llava-gemma-7b": ("the paper's 7B, original layout", 8.86),
    "llava-hf/llava-1.5-7b-hf": ("the Llama baseline", 7.06),
}
"""What it is, and billions of parameters (a test counts them)."""


@contextmanager
def _bar(text: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on the terminal's error stream; gives the function that advances it."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=_err, transient=True) as progress:
        task = progress.add_task(text, total=total)
        yield lambda n: progress.advance(task, n)


def _load(name: str, device: str | None, dtype: str | None, embed_scale: str | None) -> HookedVLM:
    with _err.status(f"loading {_plain(name)}"):
        return _load_quietly(name, device, dtype, embed_scale)


@app.command()
def inspect(
    image: Annotated[str, typer.Argument(help="An image file.")],
    question: Annotated[str, typer.Argument(help="What to ask about it.")],
    model: Model = "replica/default",
    out: Annotated[Path, typer.Option(help="Folder for inspect.html.")] = Path("inspect"),
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Length of the answer at most.")] = 16,
    device: Device = None,
    dtype: Dtype = None,
    embed_scale: EmbedScale = None,
) -> None:
    """Answer a question about an image and show, on one HTML page, what the answer rests on."""
    from vlm_probe.hooked.images import open_image

    # What is wrong with the request is said before minutes of loading.
    open_image(image)
    if not question.strip():
        raise VlmProbeError("the question is empty; ask something about the image")
    loaded = _load(model, device, dtype, embed_scale)
    from vlm_probe.report.inspection import MAX_TOKENS_SHOWN
    from vlm_probe.report.inspection import inspect as run

    with _bar("looking inside", min(max_new_tokens, MAX_TOKENS_SHOWN) + 2) as advance:
        found = run(loaded, image, question, out=out, max_new_tokens=max_new_tokens, progress=advance)
    _out.print(f"[bold]{_plain(found.answer) or '(an empty answer)'}[/bold]")
    table = Table("first token", "probability")
    for token, probability in found.top.itertuples(index=False):
        table.add_row(_plain(token), f"{probability:.4f}")
    _out.print(table)
    _say(found.page)


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _say(path: Path) -> None:
    """Print a path as it is: a bracket in it is no markup."""
    _out.print(str(path), soft_wrap=True, highlight=False, markup=False)


@app.command()
def report(
    model: Annotated[list[str] | None, typer.Option("--model", "-m", help="May be given several times.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("report"),
    items: Annotated[int, typer.Option(min=12, help="Held-out scenes to ask about.")] = 300,
    seed: Annotated[int, typer.Option(help="Of the scenes and of the shuffled boxes.")] = 0,
    device: Device = None,
    dtype: Dtype = None,
    embed_scale: EmbedScale = None,
) -> None:
    """Measure where models look, on scenes whose boxes are known, and write figures, tables and a page."""
    names = list(dict.fromkeys(model or ["replica/default"]))
    with _err.status("starting"):
        from vlm_probe.report.build import check_out, measure, write_report
    check_out(out)
    with _bar("measuring", 2 * items * len(names)) as advance:
        measured = measure(
            lambda name: _load_quietly(name, device, dtype, embed_scale),
            names,
            items=items,
            seed=seed,
            progress=advance,
        )
    with _err.status("drawing"):
        page = write_report(measured, out)
    scores = {name: measured.accuracy.query("model == @name").reset_index(drop=True) for name in names}
    shown = scores[names[0]].filter(["kind", "n"])
    for name, rows in scores.items():
        each = zip(rows["accuracy"], rows["low"], rows["high"], strict=True)
        shown[name] = [f"{share:.2f} ({low:.2f}–{high:.2f})" for share, low, high in each]
    shown["chance"], shown["blind guess"] = scores[names[0]]["chance"], scores[names[0]]["blind"]
    _show(shown, "share right, 95 % intervals")
    _say(page)


def _load_quietly(name: str, device: str | None, dtype: str | None, embed_scale: str | None) -> HookedVLM:
    """As `_load`, where a progress bar already owns the terminal."""
    from vlm_probe.hooked import load

    return load(name, device=device, dtype=dtype, embed_scale=embed_scale)


@app.command()
def models() -> None:
    """List what can be loaded, and what each needs."""
    from vlm_probe.replicas.shipped import DEFAULT, shipped

    table = Table()
    # A name is there to be copied: it is never broken across lines.
    table.add_column("name", no_wrap=True)
    for header in ("what it is", "needs", "here"):
        table.add_column(header)
    table.add_row("replica/default", f"the same as replica/{DEFAULT}", "nothing", "yes")
    for name in shipped():
        table.add_row(f"replica/{name}", "trained miniature of LLaVA-Gemma", "nothing: shipped in the package", "yes")
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
    _out.print(table)


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
def evaluate(
    model: Annotated[list[str] | None, typer.Option("--model", "-m", help="May be given several times.")] = None,
    items: Annotated[
        str, typer.Option(help="scenes, or a question file: POPE, MMVP, GQA, VQAv2, MME, MM-Vet, or an exported one.")
    ] = "scenes",
    images: Annotated[Path | None, typer.Option(help="Folder with the question file's images.")] = None,
    answers: Annotated[
        list[Path] | None,
        typer.Option(help="Answers given elsewhere, to compare with: lmms-eval's samples or an answers.parquet."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the answers and tables.")] = Path("evaluation"),
    n: Annotated[int, typer.Option(min=1, help="Generated items of every family.")] = 200,
    seed: Annotated[int, typer.Option(help="Of the generated items, and of the bootstrap.")] = 0,
    format: Annotated[str | None, typer.Option(help="The question file's format, where it is not recognised.")] = None,
    suffix: Annotated[str, typer.Option(help="Appended to every question, after a line break.")] = "",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Length of an answer at most.")] = 16,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out malformed lines and missing images.")] = False,
    device: Device = None,
    dtype: Dtype = None,
    embed_scale: EmbedScale = None,
) -> None:
    """Ask models the same items, score every answer, and compare the models. A killed run goes on where it stopped."""
    names = list(dict.fromkeys(model or ([] if answers else ["replica/default"])))
    with _err.status("reading"):
        from vlm_probe.findings import evaluation

        read, skipped = evaluation.gather_items(items, images, n=n, seed=seed, format=format, skip_bad=skip_bad)
        tables = [evaluation.read_answers(file, skipped, skip_bad=skip_bad) for file in answers or []]
    for name in names:
        loaded = _load(name, device, dtype, embed_scale)
        with _bar(_plain(name), len(read)) as advance:
            tables.append(
                evaluation.evaluate(
                    loaded, read, parts=out / "parts", suffix=suffix and f"\n{suffix}", max_new_tokens=max_new_tokens,
                    skip_bad=skip_bad, progress=advance,
                )
            )  # fmt: skip
    result = evaluation.write_evaluation(tables, out, seed=seed, skipped=skipped)
    for problem in skipped[:5]:
        _err.print(f"skipped: {_plain(problem)}", soft_wrap=True, highlight=False)
    if len(skipped) > 5:
        _err.print(f"... {len(skipped)} in all, see {_plain(str(out / 'skipped.txt'))}")
    wide = result.metrics.pivot_table(index=["family", "metric"], columns="model", values="value", sort=False)
    _show(wide.reset_index(), "metrics")
    for table in result.comparisons:
        a, b = table.attrs["first"], table.attrs["second"]
        intervals = zip(table["difference"], table["low"], table["high"], strict=True)
        shown = table[["family", "n"]].assign(
            **{a: table["a"], b: table["b"]},
            difference=[f"{d:+.3f} ({low:+.3f} to {high:+.3f})" for d, low, high in intervals],
            p=table["p_holm"].fillna(table["p"]),
            verdict=table["verdict"].str.split(" (", regex=False).str[0],
        )
        _show(shown, f"is {b} better than {a}? (95 % intervals; p by McNemar, after Holm over the families)")
    _say(out)


def _show(table: pd.DataFrame, title: str) -> None:
    """A data frame as a table on the terminal, numbers to three decimals."""
    shown = Table(title=_plain(title), title_justify="left")
    for column in table.columns:
        shown.add_column(_plain(str(column)), overflow="fold")
    for row in table.itertuples(index=False):
        shown.add_row(*[f"{cell:.3f}" if isinstance(cell, float) else _plain(str(cell)) for cell in row])
    _out.print(shown)


scenes_app = typer.Typer(
    help="Generated scenes with questions whose answers and boxes are known.", no_args_is_help=True
)
app.add_typer(scenes_app, name="scenes")


@scenes_app.command()
def export(
    out: Annotated[Path, typer.Argument(help="Folder for images/, items.parquet and items.jsonl.")],
    n: Annotated[int, typer.Option(min=1, help="Items of every family.")] = 100,
    family: Annotated[list[str] | None, typer.Option(help="pope, mmvp, gqa, mme, vqav2 or mmvet; all.")] = None,
    split: Annotated[str, typer.Option(help="train, heldout, novel or any.")] = "heldout",
    seed: Annotated[int, typer.Option(help="The same seed gives the same items.")] = 0,
    size: Annotated[int, typer.Option(min=16, help="Side of the images in pixels.")] = 336,
) -> None:
    """Write generated items as images and tables that other tools read."""
    with _err.status("starting"):
        from vlm_probe.scenes.families import FAMILIES, family_items
        from vlm_probe.scenes.items import export_items
        from vlm_probe.scenes.world import SPLITS
    if split not in SPLITS:
        raise VlmProbeError(f"no split {split!r}; there are {', '.join(SPLITS)}")
    chosen = list(family_items(n, families=tuple(family or FAMILIES), split=split, seed=seed))
    with _bar("drawing", len(chosen)) as advance:
        folder = export_items(chosen, out, size=size, progress=advance)
    _out.print(f"{len(chosen)} items about {len({item.image for item in chosen})} images")
    _say(folder)


@app.command()
def train(
    cell: Annotated[str | None, typer.Argument(help="replica/<size>-<encoder>[-nopre][-v<vocabulary>].")] = None,
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
    """Train a replica, or the whole grid of replicas, from nothing, by the recipe of LLaVA in miniature."""
    if (cell is None) == (not grid):
        raise VlmProbeError(
            "name a cell to train, replica/<size>-<encoder>[-nopre][-v<vocabulary>], or give --grid for all"
        )
    # Of a configuration that is about to be replaced, and of torchvision, which nothing here needs.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    with _err.status("starting"):
        from vlm_probe.replicas import sweep
        from vlm_probe.replicas.recipe import find_cell
    if grid:
        there = sweep.adopt_shipped(runs) if keep_shipped else []
        cells = [one for one in sweep.order_of_grid(seeds) if one.seed or one.name not in there]
        with _bar("cells", len(cells)) as advance:
            sweep.run_grid(runs, cells, jobs=jobs, items=items, device=device, finished=lambda _: advance(1))
        table = sweep.collect_scores(runs)
        table.to_csv(runs / "scores.csv", index=False)
        overall = table.query("split == 'heldout' and kind == 'all'")
        _show(overall.filter(["cell", "seed", "n", "accuracy", "low", "high"]), "held-out scenes, all questions")
        _say(runs / "scores.csv")
        return
    assert cell is not None
    chosen = replace(find_cell(cell), seed=seed)
    folder = out if out is not None else sweep.model_folder(chosen, runs)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise VlmProbeError(f"cannot write to {folder}: {error.strerror}") from error
    _train_one(chosen, runs, folder, resume, items, device)
    _say(folder)


def _train_one(cell: Cell, runs: Path, folder: Path, resume: bool, items: int, device: str) -> None:
    """Train a cell behind progress bars, export it and write its card."""
    from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    from vlm_probe.replicas import card, recipe

    columns = (
        TextColumn("{task.description:>14}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[loss]}"),
    )
    with Bars(*columns, console=_err) as bars:
        tasks: dict[str, TaskID] = {}

        def listen(progress: Progress) -> None:
            if progress.stage not in tasks:
                tasks[progress.stage] = bars.add_task(progress.stage, total=progress.steps, loss="")
            bars.update(tasks[progress.stage], completed=progress.step, loss=f"loss {progress.figures['loss']:.3f}")

        trained = recipe.train(cell, runs, resume=resume, listen=listen, device=device)
    recipe.export(trained, folder)
    card.write_card(cell, runs, folder, *card.score(folder, items, _bar))


@app.command(hidden=True)
def ship(
    runs: Annotated[Path, typer.Option(help="A runs folder with finished cells.")] = Path("runs"),
    out: Annotated[Path, typer.Option(help="The package's weights.")] = Path("vlm_probe/replicas/weights"),
) -> None:
    """For maintainers: put the finished cells of seed 0 and the scores of all seeds into the package."""
    from vlm_probe.replicas import sweep

    for name in sweep.ship(runs, out):
        _out.print(name)


def main() -> None:
    """Entry point: a VlmProbeError is one line on stderr and exit code 2."""
    try:
        app()
    except VlmProbeError as error:
        _err.print(
            f"[bold red]error:[/bold red] {_plain(' '.join(str(error).split()))}", soft_wrap=True, highlight=False
        )
        sys.exit(2)
