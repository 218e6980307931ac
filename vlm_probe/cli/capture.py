"""`vlm-probe capture`: activations of a whole dataset into a store."""

from __future__ import annotations

import shlex
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlm_probe.cli.engine import Actors, Address, EngineName, Gpus, engine_of
from vlm_probe.cli.terminal import (
    Device,
    Dtype,
    EmbedScale,
    ItemImages,
    Prompt,
    bar,
    check_models,
    console,
    err,
    load_quietly,
    plain,
)
from vlm_probe.errors import VlmProbeError

if TYPE_CHECKING:
    from vlm_probe.items.datasets import Items

SHOWN = 5
Question = Annotated[str | None, typer.Option(help="Asked where the dataset has none.")]
Columns = Annotated[
    list[str] | None, typer.Option(help="Field=column of a table (question=caption); may be given several times.")
]
DataFormat = Annotated[str | None, typer.Option(help="The dataset's format, where it is not recognised.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Only so many items, from the first.")]


def capture(
    data: Annotated[
        str,
        typer.Argument(
            help="A folder of pictures; .jsonl or .parquet with paths or bytes; WebDataset .tar; a Hugging Face "
            "dataset on disk; a benchmark's question file; or how many generated scenes."
        ),
    ],
    out: Annotated[str, typer.Option(help="Folder, or URL (s3://bucket/name); a killed run goes on there.")],
    model: Annotated[str, typer.Option("--model", "-m", help="A name, a Hub id, or a directory.")] = "replica/default",
    points: Annotated[
        list[str] | None,
        typer.Option("--capture", "-c", help="Hook points or globs; the residual stream of all layers if not given."),
    ] = None,
    positions: Annotated[
        str, typer.Option(help="mean (over the patches), image, answer, all, question, box, mean(question), ...")
    ] = "mean",
    keep: Annotated[str, typer.Option("--keep", help="What values are kept as: float32 or float16.")] = "float32",
    question: Question = None,
    column: Columns = None,
    images: ItemImages = None,
    format: DataFormat = None,
    limit: Limit = None,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Items run at once; halved where memory does not suffice.")
    ] = 16,
    shard_items: Annotated[
        int | None,
        typer.Option(min=1, help="Items written together; what a kill loses at most. 16 to 1024 if not given."),
    ] = None,
    readers: Annotated[int, typer.Option(min=1, help="Threads that open pictures while the model runs.")] = 2,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first item that fails.")] = False,
    anyway: Annotated[bool, typer.Option("--anyway", help="Begin though the disk may not have room.")] = False,
    seed: Annotated[int, typer.Option(help="Of generated scenes.")] = 0,
    engine: EngineName = "local",
    address: Address = None,
    actors: Actors = None,
    gpus: Gpus = None,
    prompt: Prompt = None,
    device: Device = None,
    dtype: Dtype = None,
    embed_scale: EmbedScale = None,
) -> None:
    """Keep the activations of a dataset: Zarr that vlm_probe.open_store and xarray read. Goes on where it was killed.

    Items that fail are listed, and the exit code is 1; the rest is kept.
    """
    check_models([model])
    where = engine_of(engine, address, actors, gpus, device)
    with err.status("reading"):
        items = items_of(data, images, question, format, column, limit, seed)
        from vlm_probe.store import capture as run
    load = partial(load_quietly, device=device, dtype=dtype, embed_scale=embed_scale, prompt=prompt)
    with bar("capturing", len(items)) as advance:
        found = run(
            model,
            items,
            points or default_points(positions),
            out,
            positions=positions,
            dtype=keep,
            shard_items=shard_items,
            batch_size=batch_size,
            strict=strict,
            anyway=anyway,
            readers=readers,
            engine=where,
            load=load,
            told=lambda line: err.print(plain(line), soft_wrap=True, highlight=False),
            progress=advance,
        )
    for row in found.errors.head(SHOWN).to_dict("records"):
        err.print(
            f"failed: {plain(row['id'] or str(row['number']))}: {plain(row['error'])}", soft_wrap=True, highlight=False
        )
    if found.failed > SHOWN:
        err.print(f"... {found.failed} in all; see vlm-probe store info {plain(shlex.quote(out))}", soft_wrap=True)
    console.print(
        f"{found.items - found.failed:,} items captured, {found.failed:,} failed; {found.done:,} of them in this run, "
        f"in {found.seconds:.0f} s",
        highlight=False,
        soft_wrap=True,
    )
    console.print(found.path, soft_wrap=True, highlight=False, markup=False)
    if found.failed:
        raise typer.Exit(1)


def default_points(positions: str) -> list[str]:
    """The residual stream after every block of the parts that have these positions, and what the connector gives."""
    from vlm_probe.store.picking import Pick

    pick = Pick.of(positions)
    language = ["language.blocks.*.hook_resid_post"]
    if not pick.patches_only and pick.where != "all":
        return language
    return ["vision.*.hook_resid_post", "connector.hook_out", *language]


def items_of(
    data: str,
    images: Path | None,
    question: str | None,
    format: str | None,
    column: list[str] | None,
    limit: int | None,
    seed: int,
) -> Items:
    """The items that a command names."""
    from vlm_probe.items.datasets import DEFAULT_QUESTION, First, open_dataset

    pairs = [one.partition("=") for one in column or []]
    if bad := [name + sign for name, sign, _ in pairs if not sign]:
        raise VlmProbeError(f"--column takes field=column, got {bad[0]!r}")
    if data.isdecimal():
        from vlm_probe.scenes import scene_items

        items: Items = list(scene_items(int(data), split="heldout", seed=seed))
    else:
        columns = {name: value for name, _, value in pairs}
        items = open_dataset(data, images=images, question=question or DEFAULT_QUESTION, format=format, columns=columns)
    if not len(items):
        raise VlmProbeError(f"{data} holds no item")
    return items if limit is None else First(items, limit)
