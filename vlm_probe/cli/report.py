"""`vlm-probe report`: every finding measured on the same items, as a page."""

from __future__ import annotations

import shlex
import shutil
import sys
import time
from functools import partial
from pathlib import Path
from typing import Annotated, Any

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
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            help="May be given several times; compared with the first. Of none given: for each of the paper's "
            "questions the miniatures that differ in what it asks about.",
        ),
    ] = None,
    finding: Annotated[
        list[str] | None, typer.Option("--finding", "-f", help="S1, V4, ...; may be given several times; all if not.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the report; an earlier report is replaced.")] = Path("report"),
    items: Annotated[
        str, typer.Option(help="How many held-out scenes (12 or more), and as many twins; or an item file.")
    ] = "100",
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
    check_models(model or [])
    asked = gathered(items, images, format, seed, skip_bad, least=12)
    with err.status("starting"):
        from vlm_probe.findings import FINDINGS, find, run, steps
        from vlm_probe.findings.questions import default_replicas, replicas_for
        from vlm_probe.findings.side_by_side import jobs_for, measure_ahead
        from vlm_probe.report.build import check_out, parts_of, write_report

        wanted = [one.id for one in find(finding)] if finding else list(FINDINGS)
        check_out(out)
    names = list(dict.fromkeys(model)) if model else default_replicas(find(wanted))
    only = None if model else replicas_for
    load = partial(load_quietly, device=device, dtype=dtype, embed_scale=embed_scale, prompt=prompt)
    given: dict[str, Any] = {"seed": seed, "suffix": suffix, "only": only, "parts": parts_of(out), "load": load}
    with bar("measuring", steps(wanted, names, asked, only=only)) as advance:
        began, took = time.monotonic(), dict[str, float]()
        if (jobs := jobs_for(names, device)) > 1:
            took = measure_ahead(wanted, names, asked, jobs=jobs, progress=advance, **given)
        measured = run(wanted, names, asked, progress=None if jobs > 1 else advance, **given)
        measured.seconds, measured.took = time.monotonic() - began, {**measured.took, **took}
    with err.status("drawing"):
        page = write_report(measured, out, command=shlex.join(["vlm-probe", *sys.argv[1:]]), load=load)
        shutil.rmtree(parts_of(out), ignore_errors=True)
    show_evidence(measured)
    say(page)
