"""The command line: `vlm-probe inspect | report | evaluate | scenes | models | fetch | train`."""

from __future__ import annotations

import sys

from vlm_probe.cli import ask, get, look  # noqa: F401 (each adds its commands)
from vlm_probe.cli.get import HUB_MODELS
from vlm_probe.cli.terminal import app, err, plain
from vlm_probe.errors import VlmProbeError

__all__ = ["HUB_MODELS", "app", "main"]


def main() -> None:
    """Entry point: a VlmProbeError is one line on stderr and exit code 2."""
    try:
        app()
    except VlmProbeError as error:
        err.print(f"[bold red]error:[/bold red] {plain(' '.join(str(error).split()))}", soft_wrap=True, highlight=False)
        sys.exit(2)
