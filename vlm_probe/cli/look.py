"""`vlm-probe inspect | report`: pages about what models do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from vlm_probe.cli.terminal import (
    Device,
    Dtype,
    EmbedScale,
    Model,
    app,
    bar,
    console,
    err,
    load_model,
    load_quietly,
    plain,
    say,
    show,
)
from vlm_probe.errors import VlmProbeError


@app.command()
def inspect(
    image: Annotated[str, typer.Argument(help="An image file.")],
    question: Annotated[str, typer.Argument(help="What to ask about it.")],
    model: Model = "replica/default",
    out: Annotated[Path, typer.Option(help="Folder for inspect.html.")] = Path("inspect"),
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Length of the answer at most.")] = 16,
    device: Device = None,
    dtype: Dtype = None,
    embed_scale: EmbedScale = None,
) -> None:
    """Answer a question about an image and show, on one HTML page, what the answer rests on."""
    from vlm_probe.inputs.images import open_image

    # What is wrong with the request is said before minutes of loading.
    open_image(image)
    if not question.strip():
        raise VlmProbeError("the question is empty; ask something about the image")
    loaded = load_model(model, device, dtype, embed_scale)
    from vlm_probe.report.inspection import MAX_TOKENS_SHOWN
    from vlm_probe.report.inspection import inspect as run

    with bar("looking inside", min(max_new_tokens, MAX_TOKENS_SHOWN) + 2) as advance:
        found = run(loaded, image, question, out=out, max_new_tokens=max_new_tokens, progress=advance)
    console.print(f"[bold]{plain(found.answer) or '(an empty answer)'}[/bold]")
    table = Table("first token", "probability")
    for token, probability in found.top.itertuples(index=False):
        table.add_row(plain(token), f"{probability:.4f}")
    console.print(table)
    say(found.page)


@app.command()
def report(
    model: Annotated[list[str] | None, typer.Option("--model", "-m", help="May be given several times.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("report"),
    items: Annotated[int, typer.Option(min=12, help="Held-out scenes to ask about.")] = 300,
    seed: Annotated[int, typer.Option(help="Of the scenes and of the shuffled boxes.")] = 0,
    device: Device = None,
    dtype: Dtype = None,
    embed_scale: EmbedScale = None,
) -> None:
    """Measure where models look, on scenes whose boxes are known, and write figures, tables and a page."""
    names = list(dict.fromkeys(model or ["replica/default"]))
    with err.status("starting"):
        from vlm_probe.report.build import check_out, measure, write_report
    check_out(out)
    with bar("measuring", 2 * items * len(names)) as advance:
        measured = measure(
            lambda name: load_quietly(name, device, dtype, embed_scale),
            names,
            items=items,
            seed=seed,
            progress=advance,
        )
    with err.status("drawing"):
        page = write_report(measured, out)
    scores = {name: measured.accuracy.query("model == @name").reset_index(drop=True) for name in names}
    shown = scores[names[0]].filter(["kind", "n"])
    for name, rows in scores.items():
        each = zip(rows["accuracy"], rows["low"], rows["high"], strict=True)
        shown[name] = [f"{share:.2f} ({low:.2f}–{high:.2f})" for share, low, high in each]
    shown["chance"], shown["blind guess"] = scores[names[0]]["chance"], scores[names[0]]["blind"]
    show(shown, "share right, 95 % intervals")
    say(page)
