"""`vlm-probe report`: where models look, measured on scenes whose boxes are known."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vlm_probe.cli.terminal import Device, Dtype, EmbedScale, bar, err, load_quietly, say, show


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
        from vlm_probe.report.build import check_out, measure, steps, write_report
    check_out(out)
    with bar("measuring", steps(items, len(names))) as advance:
        measured = measure(
            lambda name: load_quietly(name, device, dtype, embed_scale),
            names,
            items=items,
            seed=seed,
            progress=advance,
        )
    with err.status("drawing"):
        page = write_report(measured, out)
    accuracy = measured.tables["accuracy"]
    scores = {name: accuracy.query("model == @name").reset_index(drop=True) for name in names}
    shown = scores[names[0]].filter(["kind", "n"])
    for name, rows in scores.items():
        each = zip(rows["accuracy"], rows["low"], rows["high"], strict=True)
        shown[name] = [f"{share:.2f} ({low:.2f}–{high:.2f})" for share, low, high in each]
    shown["chance"], shown["blind guess"] = scores[names[0]]["chance"], scores[names[0]]["blind"]
    show(shown, "share right, 95 % intervals")
    say(page)
