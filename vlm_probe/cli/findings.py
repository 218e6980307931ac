"""`vlm-probe findings`: hypotheses measured on models, each with its control, its interval and a verdict."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlm_probe.cli.engine import Actors, Address, EngineName, Gpus, engine_of
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
    console,
    err,
    load_quietly,
    plain,
    say,
    show,
)
from vlm_probe.errors import VlmProbeError
from vlm_probe.files import make_folder

if TYPE_CHECKING:
    from vlm_probe.findings import Run
    from vlm_probe.items import Item


def findings(
    ids: Annotated[list[str] | None, typer.Argument(help="S1, V4, ...; all if none is named.")] = None,
    model: Annotated[
        list[str] | None, typer.Option("--model", "-m", help="May be given several times; compared with the first.")
    ] = None,
    items: Annotated[
        str, typer.Option(help="How many generated scenes, or an item file, or a benchmark's question file.")
    ] = "200",
    images: ItemImages = None,
    format: ItemFormat = None,
    skip_bad: SkipBad = False,
    suffix: Annotated[str, typer.Option(help="Appended to every question; or: benchmark, for each one's own.")] = "",
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for evidence.csv, item tables and results.json: a killed run goes on, an earlier run's are "
            "replaced."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the scenes and of every draw.")] = 0,
    untrained: Annotated[
        bool | None,
        typer.Option("--untrained/--no-untrained", help="Measure untrained copies too; beside replicas if not given."),
    ] = None,
    prompt: Prompt = None,
    device: Device = None,
    dtype: Dtype = None,
    embed_scale: EmbedScale = None,
    engine: EngineName = "local",
    address: Address = None,
    actors: Actors = None,
    gpus: Gpus = None,
) -> None:
    """List the hypotheses, or measure some of them on models: value, hard control, difference, interval, verdict."""
    if not ids and not model:
        if out is not None:
            raise VlmProbeError("name hypotheses (S1, V4) or models to measure; --out is for what they come to")
        _show_list()
        return
    if out is not None:  # before the work, not after it
        make_folder(out)
    names = list(dict.fromkeys(model or ["replica/default"]))
    check_models(names)
    where = engine_of(engine, address, actors, gpus, device)
    chosen = gathered(items, images, format, seed, skip_bad)
    with err.status("starting"):
        from vlm_probe.findings import FINDINGS, find, run, steps, write_run

        wanted = [finding.id for finding in find(ids)] if ids else list(FINDINGS)
    with bar("measuring", steps(wanted, names, chosen, untrained=untrained)) as advance:
        found = run(
            wanted,
            names,
            chosen,
            seed=seed,
            suffix=suffix,
            untrained=untrained,
            parts=None if out is None else out / "parts",
            engine=where,
            load=partial(load_quietly, device=device, dtype=dtype, embed_scale=embed_scale, prompt=prompt),
            progress=advance,
        )
    show_evidence(found)
    if out is not None:
        say(write_run(found, out))


def gathered(
    items: str, images: Path | None, format: str | None, seed: int, skip_bad: bool, *, least: int = 1
) -> list[Item]:
    """The items to ask: so many generated ones (`least` of them or more), or a file's; says what it left out of one."""
    count = int(items) if items.removeprefix("-").isdecimal() else None
    if count is not None and count < least:
        raise VlmProbeError(f"--items must be {least} or more, or a question file, got {items}")
    if count is None and not Path(items).exists():
        raise VlmProbeError(f"no such file or folder: {items}")
    with err.status("reading"):
        if count is not None:
            from vlm_probe.findings import generated_items

            return generated_items(count, seed=seed)
        from vlm_probe.items.gathering import gather_items

        folders = [] if images is None else [images]
        found, skipped = gather_items([items], folders, generated=lambda: [], format=format, skip_bad=skip_bad)
    for line in skipped:
        err.print(f"skipped: {plain(line)}", soft_wrap=True, highlight=False)
    return found


def _show_list() -> None:
    from vlm_probe.findings import FINDINGS
    from vlm_probe.findings.listing import listing

    show(listing(list(FINDINGS.values())), "hypotheses")


def show_evidence(run: Run) -> None:
    """Every finding's claims on the terminal, verdict first, and what could not be measured."""
    from rich.table import Table

    from vlm_probe.findings.listing import evidence_text

    evidence = run.evidence
    for finding in run.findings:
        rows = evidence.loc[evidence["finding"] == finding.id]
        if rows.empty:
            continue
        # No column a number: in 80 characters every word would be cut.
        grid = Table.grid(padding=(0, 2), expand=False)
        for row in rows.to_dict("records"):
            grid.add_row(f"[bold]{row['verdict']}[/bold]", plain(row["sentence"]))
            grid.add_row("", f"[dim]{plain(evidence_text(row))}[/dim]")
        console.print(f"\n[bold]{finding.id}. {plain(finding.question)}[/bold]", highlight=False)
        console.print(grid, highlight=False)
        for scope in dict.fromkeys(text for text in rows["scope"] if text):
            # Rows of the paper's own table are about the 2B and the 7B.
            of = "" if (rows["scope"] == scope).to_numpy().all() else "Rows of replicas: "
            console.print(f"{of}{plain(scope)}", style="dim", soft_wrap=True, highlight=False)
    for note in run.notes:
        err.print(plain(note), soft_wrap=True, highlight=False)
