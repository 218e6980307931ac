"""What commands share: the app, the two consoles, options, bars, tables, and loading.

Nothing heavy is imported before a command needs it, so that `--help` answers at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

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

Model = Annotated[str, typer.Option("--model", "-m", help="replica/..., a Hub id or a local checkpoint directory.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, ...; CUDA if there is one.")]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16, ...; float32 on the CPU, bfloat16 on a GPU.")]
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


def plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)


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


def load_quietly(name: str, device: str | None, dtype: str | None, embed_scale: str | None) -> HookedVLM:
    """As `load_model`, where a progress bar already owns the terminal."""
    from vlm_probe.opening import load

    return load(name, device=device, dtype=dtype, embed_scale=embed_scale)


def load_model(name: str, device: str | None, dtype: str | None, embed_scale: str | None) -> HookedVLM:
    with err.status(f"loading {plain(name)}"):
        return load_quietly(name, device, dtype, embed_scale)
