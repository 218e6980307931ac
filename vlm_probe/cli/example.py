"""`vlm-probe example`: a picture to begin with."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from vlm_probe.cli.terminal import console, err, say
from vlm_probe.errors import VlmProbeError

QUESTION = "What color is the star?"
SIZE = 336
"""Pixels on a side."""
_LOOKED_THROUGH = 5000


def example(
    out: Annotated[Path, typer.Argument(help="The picture's file, of a kind that Pillow writes.")] = Path("scene.png"),
    seed: Annotated[int, typer.Option(help="Another number gives another scene.")] = 0,
) -> None:
    """Write a scene with one star, as no replica has seen it, and say what to ask about it."""
    from PIL import Image

    from vlm_probe.files import make_folder, writing

    Image.init()
    if Image.EXTENSION.get(out.suffix.lower()) not in Image.SAVE:
        raise VlmProbeError(f"no picture can be written as {out.suffix or out.name!r}; name it scene.png, for one")
    with err.status("drawing"):
        from vlm_probe.inputs.images import open_image
        from vlm_probe.scenes import scene_items

        items = scene_items(_LOOKED_THROUGH, seed=seed)
        item = next(one for one in items if one.question == QUESTION)
        make_folder(out.absolute().parent)
        with writing(out):
            open_image(item.picture(SIZE)).save(out)
    say(out)
    line = f'vlm-probe inspect {shlex.quote(str(out))} "{QUESTION}"    # it is {item.answer}'
    console.print(line, highlight=False, markup=False, soft_wrap=True)
