"""What commands share: the app, the two consoles, options, bars, tables, and loading.

Nothing heavy is imported before a command needs it, so that `--help` answers at once.
"""

from __future__ import annotations

import gc
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from vlm_probe.errors import VlmProbeError, VlmProbeWarning

if TYPE_CHECKING:
    import pandas as pd

    from vlm_probe.hooked import HookedVLM

app = typer.Typer(
    help="Open vision-language models up: what they answer, what they attend to, and what that rests on.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console()
err = Console(stderr=True)

Device = Annotated[str | None, typer.Option(help="cpu, cuda, ...; CUDA if there is one.")]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16, ...; float32 on the CPU, bfloat16 on a GPU.")]
ItemImages = Annotated[Path | None, typer.Option(help="Folder with the file's images; beside the file if not given.")]
ItemFormat = Annotated[str | None, typer.Option(help="The question file's format, where it is not recognised.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave out malformed lines and missing images.")]
Prompt = Annotated[
    str | None,
    typer.Option(
        help="Template with {images}, {question} and, where the text does not hold it, {bos}; the checkpoint's own, or "
        "its chat template, if not given."
    ),
]
EmbedScale = Annotated[
    str | None,
    typer.Option(help="all or text: whether image rows are scaled like text rows; the checkpoint's own if not given."),
]


@contextmanager
def bar(text: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on the terminal's error stream; gives the function that advances it."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task(text, total=total)
        yield lambda n: progress.advance(task, n)


@contextmanager
def uncollected() -> Iterator[None]:
    """Meanwhile no garbage is looked for, and what is there afterwards is never looked through again.

    Importing torch and transformers makes a million objects that stay: the collector goes through them ten times while
    they are made, and once more at the end of the program.
    """
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if before:
            gc.enable()


def plain(text: str) -> str:
    from rich.markup import escape

    # What steers a terminal is not shown: texts come from files, and files from strangers.
    return escape(re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "\ufffd", text))


def say(path: Path) -> None:
    """Print a path as it is: a bracket in it is no markup."""
    console.print(str(path), soft_wrap=True, highlight=False, markup=False)


def show(table: pd.DataFrame, title: str) -> None:
    """A data frame as a table on the terminal, numbers to three decimals."""
    shown = Table(title=plain(title), title_justify="left")
    for column in table.columns:
        shown.add_column(plain(str(column)), overflow="fold")
    for row in table.itertuples(index=False):
        shown.add_row(*[f"{cell:.3f}" if isinstance(cell, float) else plain(str(cell)) for cell in row])
    console.print(shown)


def check_models(names: Iterable[str]) -> None:
    """VlmProbeError for a model that is not here, said before anything heavy is imported.

    What can only be a Hub id is left to `load`.
    """
    from vlm_probe.zoo.locating import locate

    for name in names:
        folder = locate(name)
        if folder is not None and not any((folder / file).is_file() for file in ("config.json", "adapter_config.json")):
            raise VlmProbeError(f"{folder} is not a checkpoint: it has no config.json")


def load_quietly(
    name: str, device: str | None, dtype: str | None, embed_scale: str | None, prompt: str | None = None
) -> HookedVLM:
    """As `load_model`, where a progress bar already owns the terminal."""
    from vlm_probe.opening import load

    # A line break cannot be typed on every shell.
    template = None if prompt is None else prompt.replace("\\n", "\n")
    return load(name, device=device, dtype=dtype, embed_scale=embed_scale, prompt=template)


def load_model(
    name: str, device: str | None, dtype: str | None, embed_scale: str | None, prompt: str | None = None
) -> HookedVLM:
    with err.status(f"loading {plain(name)}"):
        return load_quietly(name, device, dtype, embed_scale, prompt)


@contextmanager
def one_line_warnings() -> Iterator[None]:
    """Our own warnings as one line each, once, on the terminal's error stream."""

    def show(message: Any, category: Any, *where: Any, **more: Any) -> None:
        if isinstance(message, VlmProbeWarning):
            err.print(f"note: {plain(' '.join(str(message).split()))}", soft_wrap=True, highlight=False)
        else:
            usual(message, category, *where, **more)

    with warnings.catch_warnings():
        usual = warnings.showwarning
        warnings.showwarning = show
        yield
