"""The command line; one file a command."""

from __future__ import annotations

import atexit
import gc
import sys
from typing import Annotated

import typer

from vlm_probe import __version__
from vlm_probe.cli import (
    capture,
    evaluate,
    example,
    fetch,
    findings,
    inspect,
    items,
    models,
    report,
    scenes,
    ship,
    store,
    study,
    train,
    verify,
)
from vlm_probe.cli.models import HUB_MODELS
from vlm_probe.cli.terminal import app, console, err, one_line_warnings, plain
from vlm_probe.errors import VlmProbeError
from vlm_probe.files import DISK_ERRORS, disk_trouble

__all__ = ["HUB_MODELS", "app", "main"]

# In the order of `--help`, where groups come last.
for command in (
    example.example,
    inspect.inspect,
    report.report,
    findings.findings,
    evaluate.evaluate,
    capture.capture,
    models.models,
    verify.verify,
    fetch.fetch,
    train.train,
    study.study,
):
    app.command()(command)
app.command(hidden=True)(ship.ship)
app.add_typer(scenes.app, name="scenes")
app.add_typer(items.app, name="items")
app.add_typer(store.app, name="store")


def _version(asked: bool) -> bool:
    if asked:
        console.print(__version__, highlight=False)
        raise typer.Exit
    return asked


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Open vision-language models up: what they answer, what they attend to, and what that rests on."""


def main() -> None:
    """Entry point: a VlmProbeError, or a disk that is full or cannot be written, is one line on stderr, exit code 2."""
    # At its end Python would look once more for garbage among a million objects of torch and transformers.
    atexit.register(gc.freeze)
    try:
        with one_line_warnings():
            app()
    except VlmProbeError as error:
        said = str(error)
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        said = disk_trouble(error)
    else:
        return
    err.print(f"[bold red]error:[/bold red] {plain(' '.join(said.split()))}", soft_wrap=True, highlight=False)
    sys.exit(2)
