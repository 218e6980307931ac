"""`vlm-probe findings`: hypotheses measured on models, each with its control, its interval and a verdict."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlm_probe.cli.terminal import Device, Dtype, EmbedScale, bar, console, err, load_quietly, plain, say, show
from vlm_probe.errors import VlmProbeError

if TYPE_CHECKING:
    from vlm_probe.findings import Run
    from vlm_probe.items import Item


def findings(
    ids: Annotated[list[str] | None, typer.Argument(help="S1, V4, ...; all if none is named.")] = None,
    model: Annotated[
        list[str] | None, typer.Option("--model", "-m", help="May be given several times; compared with the first.")
    ] = None,
    items: Annotated[str, typer.Option(help="How many generated scenes, or a question file (see evaluate).")] = "200",
    images: Annotated[Path | None, typer.Option(help="Folder with the question file's images.")] = None,
    format: Annotated[str | None, typer.Option(help="The question file's format, where it is not recognised.")] = None,
    suffix: Annotated[str, typer.Option(help="Appended to every question; or: benchmark, for each one's own.")] = "",
    out: Annotated[
        Path | None, typer.Option(help="Folder for evidence.csv, item tables and results.json; a killed run goes on.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the scenes and of every draw.")] = 0,
    untrained: Annotated[
        bool | None,
        typer.Option("--untrained/--no-untrained", help="Measure untrained copies too; beside replicas if not given."),
    ] = None,
    device: Device = None,
    dtype: Dtype = None,
    embed_scale: EmbedScale = None,
) -> None:
    """List the hypotheses, or measure some of them on models: value, hard control, difference, interval, verdict."""
    if not ids and not model:
        _show_list()
        return
    names = list(dict.fromkeys(model or ["replica/default"]))
    with err.status("starting"):
        from vlm_probe.findings import FINDINGS, find, run, steps, write_run

        wanted = [finding.id for finding in find(ids)] if ids else list(FINDINGS)
        chosen = _items(items, images, format, seed)
    with bar("measuring", steps(wanted, names, chosen, untrained=untrained)) as advance:
        found = run(
            wanted,
            names,
            chosen,
            seed=seed,
            suffix=suffix,
            untrained=untrained,
            parts=None if out is None else out / "parts",
            load=lambda name: load_quietly(name, device, dtype, embed_scale),
            progress=advance,
        )
    show_evidence(found)
    if out is not None:
        say(write_run(found, out))


def _items(items: str, images: Path | None, format: str | None, seed: int) -> list[Item]:
    from vlm_probe.findings import generated_items
    from vlm_probe.items.gathering import gather_items

    if items.isdecimal():
        if int(items) < 1:
            raise VlmProbeError(f"--items must be 1 or more, or a question file, got {items}")
        return generated_items(int(items), seed=seed)
    folders = [] if images is None else [images]
    read, _ = gather_items([items], folders, generated=lambda: [], format=format, skip_bad=False)
    return read


def _show_list() -> None:
    from vlm_probe.findings import FINDINGS
    from vlm_probe.findings.listing import listing

    show(listing(list(FINDINGS.values())), "hypotheses")


def show_evidence(run: Run) -> None:
    """Every finding's claims as a table on the terminal, and what could not be measured."""
    from vlm_probe.findings.listing import evidence_listing

    evidence = run.evidence
    for finding in run.findings:
        rows = evidence.loc[evidence["finding"] == finding.id]
        if len(rows):
            show(evidence_listing(rows), f"{finding.id}. {finding.question}")
            for scope in dict.fromkeys(text for text in rows["scope"] if text):
                console.print(plain(scope), style="dim", soft_wrap=True, highlight=False)
    for one in run.skipped:
        err.print(f"not measured: {plain(str(one))}", soft_wrap=True, highlight=False)
