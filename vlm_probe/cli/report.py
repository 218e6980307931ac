"""`vlm-probe report`: every finding measured on the same items, as a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vlm_probe.cli.findings import show_evidence
from vlm_probe.cli.terminal import Device, Dtype, EmbedScale, bar, err, load_quietly, say


def report(
    model: Annotated[list[str] | None, typer.Option("--model", "-m", help="May be given several times.")] = None,
    finding: Annotated[
        list[str] | None, typer.Option("--finding", "-f", help="S1, V4, ...; may be given several times; all if not.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("report"),
    items: Annotated[int, typer.Option(min=12, help="Held-out scenes to ask about, and as many twins.")] = 200,
    seed: Annotated[int, typer.Option(help="Of the scenes and of every draw.")] = 0,
    suffix: Annotated[str, typer.Option(help="Appended to every question, after a line break.")] = "",
    device: Device = None,
    dtype: Dtype = None,
    embed_scale: EmbedScale = None,
) -> None:
    """Measure hypotheses on scenes whose truth is known, and write figures, tables, verdicts and a page."""
    names = list(dict.fromkeys(model or ["replica/default"]))
    chosen = finding or []
    with err.status("starting"):
        from vlm_probe.report.build import check_out, measure, steps, write_report

        check_out(out)
        total = steps(items, names, chosen, seed=seed)
    with bar("measuring", total) as advance:
        measured = measure(
            lambda name: load_quietly(name, device, dtype, embed_scale),
            names,
            items=items,
            seed=seed,
            progress=advance,
            findings=chosen,
            suffix=suffix,
        )
    with err.status("drawing"):
        page = write_report(measured, out)
    show_evidence(measured)
    say(page)
