"""`vlm-probe scenes export`: generated items as files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vlm_probe.cli.terminal import bar, console, err, say
from vlm_probe.errors import VlmProbeError

app = typer.Typer(help="Generated scenes with questions whose answers and boxes are known.", no_args_is_help=True)


@app.command()
def export(
    out: Annotated[
        Path, typer.Argument(help="Folder for images/, items.parquet and items.jsonl; an earlier export is replaced.")
    ],
    n: Annotated[int, typer.Option(min=1, help="Items of every family.")] = 100,
    family: Annotated[list[str] | None, typer.Option(help="pope, mmvp, gqa, mme, vqav2 or mmvet; all.")] = None,
    split: Annotated[str, typer.Option(help="train, heldout, novel or any.")] = "heldout",
    seed: Annotated[int, typer.Option(help="The same seed gives the same items.")] = 0,
    size: Annotated[int, typer.Option(min=16, help="Side of the images in pixels.")] = 336,
) -> None:
    """Write generated items as images and tables that other tools read."""
    with err.status("starting"):
        from vlm_probe.items import export_items
        from vlm_probe.scenes.families import FAMILIES, family_items
        from vlm_probe.scenes.world import SPLITS
    if split not in SPLITS:
        raise VlmProbeError(f"no split {split!r}; there are {', '.join(SPLITS)}")
    chosen = list(family_items(n, families=tuple(family or FAMILIES), split=split, seed=seed))
    with bar("drawing", len(chosen)) as advance:
        folder = export_items(chosen, out, size=size, progress=advance)
    console.print(f"{len(chosen)} items about {len({item.image for item in chosen})} images")
    say(folder)
