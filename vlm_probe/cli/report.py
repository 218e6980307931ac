"""`vlm-probe report`: every finding measured on the same items, as a page."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from vlm_probe.cli.findings import gathered, show_evidence
from vlm_probe.cli.terminal import (
    Device,
    Dtype,
    EmbedScale,
    ItemFormat,
    ItemImages,
    Prompt,
    SkipBad,
    bar,
    check_models,
    err,
    load_quietly,
    say,
)


def report(
    model: Annotated[list[str] | None, typer.Option("--model", "-m", help="May be given several times.")] = None,
    finding: Annotated[
        list[str] | None, typer.Option("--finding", "-f", help="S1, V4, ...; may be given several times; all if not.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the report; an earlier report is replaced.")] = Path("report"),
    items: Annotated[
        str, typer.Option(help="How many held-out scenes (12 or more), and as many twins; or an item file.")
    ] = "200",
    images: ItemImages = None,
    format: ItemFormat = None,
    skip_bad: SkipBad = False,
    seed: Annotated[int, typer.Option(help="Of the scenes and of every draw.")] = 0,
    suffix: Annotated[str, typer.Option(help="Appended to every question; or: benchmark, for each one's own.")] = "",
    prompt: Prompt = None,
    device: Device = None,
    dtype: Dtype = None,
    embed_scale: EmbedScale = None,
) -> None:
    """Measure hypotheses on scenes whose truth is known, or on items of your own, and write a page and a PDF.

    A run that was killed, or found the disk full, goes on where it stopped.
    """
    names = list(dict.fromkeys(model or ["replica/default"]))
    check_models(names)
    asked = gathered(items, images, format, seed, skip_bad, least=12)
    with err.status("starting"):
        from vlm_probe.findings import FINDINGS, find, run, steps
        from vlm_probe.report.build import check_out, parts_of, write_report

        wanted = [one.id for one in find(finding)] if finding else list(FINDINGS)
        check_out(out)
    with bar("measuring", steps(wanted, names, asked)) as advance:
        measured = run(
            wanted,
            names,
            asked,
            seed=seed,
            suffix=suffix,
            parts=parts_of(out),
            load=lambda name: load_quietly(name, device, dtype, embed_scale, prompt),
            progress=advance,
        )
    with err.status("drawing"):
        page = write_report(measured, out, command=shlex.join(["vlm-probe", *sys.argv[1:]]))
        shutil.rmtree(parts_of(out), ignore_errors=True)
    show_evidence(measured)
    say(page)
