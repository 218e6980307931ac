"""`vlm-probe inspect`: a question about pictures, its answers, and a page on what they rest on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from vlm_probe.cli.terminal import (
    Device,
    Dtype,
    EmbedScale,
    Prompt,
    bar,
    check_models,
    console,
    err,
    load_quietly,
    plain,
    say,
    show,
    uncollected,
)
from vlm_probe.errors import VlmProbeError


def inspect(
    image: Annotated[list[str], typer.Argument(help="An image file or a URL; several are compared.")],
    question: Annotated[str, typer.Argument(help="What to ask about it.")],
    model: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", help="replica/..., a Hub id or a local checkpoint; several are compared."),
    ] = None,
    query: Annotated[
        str, typer.Option(help='Whose attention is drawn: answer, question, a word of the question ("star").')
    ] = "answer",
    suffix: Annotated[str, typer.Option(help="Appended to the question, after a line break.")] = "",
    out: Annotated[Path, typer.Option(help="Folder for inspect.html, which is replaced.")] = Path("inspect"),
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Length of the answer at most.")] = 16,
    prompt: Prompt = None,
    device: Device = None,
    dtype: Dtype = None,
    embed_scale: EmbedScale = None,
) -> None:
    """Answer a question about images and show, on one HTML page, what the answers rest on."""
    names = list(dict.fromkeys(model or ["replica/default"]))
    # What is wrong with the request is said before anything heavy is imported, and before minutes of loading.
    for one in image:
        if not one.startswith(("http://", "https://")) and not Path(one).expanduser().is_file():
            raise VlmProbeError(f"no image file at {one!r}")
    if not question.strip():
        raise VlmProbeError("the question is empty; ask something about the image")
    check_models(names)
    with err.status("reading"), uncollected():
        from vlm_probe.items import suffix_of
        from vlm_probe.report import inspection

        question += suffix_of(None, suffix)
    steps = min(max_new_tokens, inspection.MAX_TOKENS_SHOWN) + 3
    with bar("looking inside", steps * len(image) * len(names)) as advance:
        found = inspection.inspect(
            (load_quietly(name, device, dtype, embed_scale, prompt) for name in names),
            image,
            question,
            out=out,
            query=query,
            max_new_tokens=max_new_tokens,
            progress=advance,
        )
    if len(found.looked) > 1:
        show(inspection.comparison(found.looked), "answers")
    else:
        console.print(f"[bold]{plain(found.answer) or '(an empty answer)'}[/bold]")
        table = Table("first token", "probability")
        for token, probability in found.top.itertuples(index=False):
            table.add_row(plain(token), f"{probability:.4f}")
        console.print(table)
        if found.looked[0].blanked is not None:
            said = inspection.said_of_blanking(found.looked[0].blanked)
            console.print(f"Can the map be believed? {plain(said)}", soft_wrap=True, highlight=False)
    for one in found.looked:
        for note in one.notes:
            of = f"{one.model}, {one.image}: " if len(found.looked) > 1 else ""
            err.print(f"not to be trusted: {plain(of + note)}", soft_wrap=True, highlight=False)
    say(found.page)
