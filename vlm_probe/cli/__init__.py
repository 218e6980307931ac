"""The command line: inspect, report, findings, evaluate, models, fetch, train, study, scenes; one file a command."""

from __future__ import annotations

import sys

from vlm_probe.cli import evaluate, fetch, findings, inspect, models, report, scenes, ship, study, train
from vlm_probe.cli.models import HUB_MODELS
from vlm_probe.cli.terminal import app, err, plain
from vlm_probe.errors import VlmProbeError

__all__ = ["HUB_MODELS", "app", "main"]

# In the order of `--help`, where groups come last.
for command in (
    inspect.inspect,
    report.report,
    findings.findings,
    evaluate.evaluate,
    models.models,
    fetch.fetch,
    train.train,
    study.study,
):
    app.command()(command)
app.command(hidden=True)(ship.ship)
app.add_typer(scenes.app, name="scenes")


def main() -> None:
    """Entry point: a VlmProbeError is one line on stderr and exit code 2."""
    try:
        app()
    except VlmProbeError as error:
        err.print(f"[bold red]error:[/bold red] {plain(' '.join(str(error).split()))}", soft_wrap=True, highlight=False)
        sys.exit(2)
