"""`vlm-probe items check`: whether an item file can be used, and for what."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vlm_probe.cli.terminal import ItemFormat, ItemImages, bar, console, err, plain, show
from vlm_probe.errors import VlmProbeError

app = typer.Typer(help="Questions with pictures: item files of your own, and benchmarks'.", no_args_is_help=True)
SHOWN = 20
"""Problems that are printed."""


@app.callback()
def items() -> None:
    """Questions with pictures: item files of your own, and benchmarks'."""


@app.command()
def check(
    file: Annotated[
        Path,
        typer.Argument(
            help="An item file (.jsonl, .csv, .parquet with image, question, answer), a folder of pictures with one, "
            "or a benchmark's question file."
        ),
    ],
    images: ItemImages = None,
    format: ItemFormat = None,
) -> None:
    """Read an item file, open its pictures, and say what can be asked with it. Exit code 1 where something is wrong."""
    if not file.exists():
        raise VlmProbeError(f"no such file or folder: {file}")
    with err.status("reading"):
        from vlm_probe.findings import FINDINGS
        from vlm_probe.items import read_items
        from vlm_probe.items.checking import counted, problems
        from vlm_probe.items.readers.item_file import OWN, unused_fields

        found, wrong = read_items(file, images, format=format, skip_bad=True)
    with bar("opening pictures", len(found)) as advance:
        wrong += problems(found, advance)
    show(counted(found), f"{len(found)} items about {len({item.image for item in found})} images")
    usable = {finding.id: len(finding.picks(found)) for finding in FINDINGS.values() if finding.models}
    console.print("findings: " + ", ".join(f"{id} {n}" for id, n in usable.items() if n), highlight=False)
    for id, n in usable.items():
        if n == 0:
            console.print(f"not {id}: it needs {plain(FINDINGS[id].wants)}", highlight=False, soft_wrap=True)
    unused = unused_fields(file) if file.is_file() and found[0].family == OWN else []
    if unused:
        err.print(f"note: nothing reads {plain(', '.join(unused))}", soft_wrap=True, highlight=False)
    for problem in wrong[:SHOWN]:
        err.print(f"wrong: {plain(problem)}", soft_wrap=True, highlight=False)
    if wrong:
        things = "1 thing is" if len(wrong) == 1 else f"{len(wrong)} things are"
        err.print(f"{things} wrong; --skip-bad leaves such items out", soft_wrap=True, highlight=False)
        raise typer.Exit(1)
