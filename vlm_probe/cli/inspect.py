"""`vlm-probe inspect`: one question about one image, and a page on what the answer rests on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from vlm_probe.cli.terminal import Device, Dtype, EmbedScale, Model, bar, console, load_model, plain, say
from vlm_probe.errors import VlmProbeError


def inspect(
    image: Annotated[str, typer.Argument(help="An image file.")],
    question: Annotated[str, typer.Argument(help="What to ask about it.")],
    model: Model = "replica/default",
    suffix: Annotated[str, typer.Option(help="Appended to the question, after a line break.")] = "",
    out: Annotated[Path, typer.Option(help="Folder for inspect.html.")] = Path("inspect"),
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Length of the answer at most.")] = 16,
    device: Device = None,
    dtype: Dtype = None,
    embed_scale: EmbedScale = None,
) -> None:
    """Answer a question about an image and show, on one HTML page, what the answer rests on."""
    from vlm_probe.inputs.images import open_image
    from vlm_probe.items import suffix_of

    # What is wrong with the request is said before minutes of loading.
    open_image(image)
    if not question.strip():
        raise VlmProbeError("the question is empty; ask something about the image")
    question += suffix_of(None, suffix)
    loaded = load_model(model, device, dtype, embed_scale)
    from vlm_probe.report import inspection

    with bar("looking inside", min(max_new_tokens, inspection.MAX_TOKENS_SHOWN) + 2) as advance:
        found = inspection.inspect(loaded, image, question, out=out, max_new_tokens=max_new_tokens, progress=advance)
    console.print(f"[bold]{plain(found.answer) or '(an empty answer)'}[/bold]")
    table = Table("first token", "probability")
    for token, probability in found.top.itertuples(index=False):
        table.add_row(plain(token), f"{probability:.4f}")
    console.print(table)
    say(found.page)
