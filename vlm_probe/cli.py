"""The command line: `vlm-probe inspect | report | models | train`.

Nothing heavy is imported before a command needs it, so that `--help` answers at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from vlm_probe.errors import VlmProbeError

if TYPE_CHECKING:
    from vlm_probe.hooked import HookedVLM
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
    table = Table("model", "question type", "n", "accuracy", "95 % interval", "chance", "blind guess")
    for row in measured.accuracy.to_dict("records"):
        interval = f"{row['low']:.3f} to {row['high']:.3f}"
        table.add_row(
            str(row["model"]),
            str(row["kind"]),
            str(row["n"]),
            f"{row['accuracy']:.3f}",
            interval,
            f"{row['chance']:.2f}",
        )
    _out.print(table)
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
def train(
    cell: Annotated[str, typer.Argument(help="replica/<size>-<encoder>, for instance replica/small-clip.")],
    runs: Annotated[
        Path, typer.Option(help="Folder for checkpoints and logs; stages that cells share are found there.")
    ] = Path("runs"),
    out: Annotated[
        Path | None, typer.Option(help="Folder for the finished model; <runs>/<cell>/model if not given.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an earlier run stopped.")] = False,
    items: Annotated[int, typer.Option(min=12, help="Held-out scenes for the scores in the card.")] = 3000,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Train a replica from nothing, by the recipe of LLaVA in miniature."""
    with _err.status("starting"):
        from vlm_probe.replicas import card, recipe

    chosen = recipe.find_cell(cell)
    folder = out if out is not None else runs / chosen.name / "model"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise VlmProbeError(f"cannot write to {folder}: {error.strerror}") from error
    from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

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

        trained = recipe.train(chosen, runs, resume=resume, listen=listen, device=device)
    recipe.export(trained, folder)
    scores = {split: card.score(folder, items, split, _bar) for split in card.SPLITS}
    card.write_card(chosen, runs, folder, scores)
    _say(folder)


def main() -> None:
    """Entry point: a VlmProbeError is one line on stderr and exit code 2."""
    try:
        app()
    except VlmProbeError as error:
        _err.print(
            f"[bold red]error:[/bold red] {_plain(' '.join(str(error).split()))}", soft_wrap=True, highlight=False
        )
        sys.exit(2)
