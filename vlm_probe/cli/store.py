"""`vlm-probe store`: what a store holds, whether it is whole, and mending it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from vlm_probe.cli.capture import Columns, DataFormat, Limit, Question, items_of
from vlm_probe.cli.terminal import ItemImages, console, err, plain, show
from vlm_probe.errors import VlmProbeError

if TYPE_CHECKING:
    from vlm_probe.store import Verified

app = typer.Typer(help="Stores of captured activations.", no_args_is_help=True)
Where = Annotated[str, typer.Argument(help="Folder or URL of a store.")]
SHOWN = 20


@app.command()
def info(path: Where) -> None:
    """What a store holds: model, points, shapes, how far it is, and the items that failed."""
    with err.status("reading"):
        import pandas as pd

        from vlm_probe.store.describing import VERSIONS, human
        from vlm_probe.store.places import place
        from vlm_probe.store.reading import errors_of, store_of, whole_commits

        where = place(path)
        about = store_of(where)
        commits = whole_commits(where, about)
        failed = errors_of(where, about, commits)
    size = sum(file["bytes"] for commit in commits.values() for file in commit.files.values())
    items = sum(commit.items for commit in commits.values())
    told = about.fingerprint
    rows = [
        ("model", about.provenance.get("model", "")),
        ("positions", told["positions"]),
        ("kept as", told["dtype"]),
        ("items", f"{items:,} of {about.items:,}, {len(failed):,} of them failed"),
        ("shards", f"{len(commits):,} of {about.shards:,}, {about.shard_items} items each"),
        ("on disk", f"{human(size)} ({human(about.item_bytes * items)} before compression)"),
        ("written by", ", ".join(f"{name} {told.get(f'version of {name}')}" for name in VERSIONS)),
    ]  # fmt: skip
    show(pd.DataFrame(rows, columns=["what", "value"]), str(path))
    arrays = [
        {"array": name, "dimensions": " x ".join(map(str, array.shape)), "each": ", ".join(_plain_dims(array.dims))}
        for name, array in about.arrays.items()
    ]
    show(pd.DataFrame(arrays), "arrays")
    if len(failed):
        show(failed.head(SHOWN), f"failed items ({min(SHOWN, len(failed))} of {len(failed)})")


def _plain_dims(dims: tuple[str, ...]) -> list[str]:
    return ["feature" if dim.endswith(" feature") else dim for dim in dims]


@app.command()
def verify(path: Where) -> None:
    """Read every file of a store and compare it with its checksum; exit code 1 where something is wrong."""
    with err.status("reading every file"):
        from vlm_probe.store import verify_store

        found = verify_store(path)
    _tell(found)
    if found.problems:
        raise typer.Exit(1)


@app.command()
def repair(
    path: Where,
    data: Annotated[
        str | None, typer.Option(help="The dataset that was captured: shards whose pictures changed are dropped, too.")
    ] = None,
    question: Question = None,
    column: Columns = None,
    images: ItemImages = None,
    format: DataFormat = None,
    limit: Limit = None,
    seed: Annotated[int, typer.Option(help="Of generated scenes.")] = 0,
) -> None:
    """Drop what is damaged, and what killed writers left: the same capture then does it again."""
    with err.status("reading every file"):
        from vlm_probe.store import repair_store

        if data is None and (question, column, images, format, limit) != (None,) * 5:
            raise VlmProbeError("--question, --column, --images, --format and --limit go with --data")
        items = None if data is None else items_of(data, images, question, format, column, limit, seed)
        found = repair_store(path, items=items)
    _tell(found)
    if found.there < found.shards:
        err.print(
            f"{found.shards - found.there} shards are missing: run the same vlm-probe capture again", soft_wrap=True
        )


def _tell(found: Verified) -> None:
    for name in found.stray[:SHOWN]:
        err.print(f"note: {plain(name)} is not the store's, and left alone", soft_wrap=True, highlight=False)
    for problem in found.problems[:SHOWN]:
        err.print(f"wrong: {plain(problem)}", soft_wrap=True, highlight=False)
    if len(found.problems) > SHOWN:
        err.print(f"... {len(found.problems)} in all")
    state = "whole" if found.whole else "damaged" if found.problems else "not finished"
    console.print(
        f"{state}: {found.there} of {found.shards} shards, {found.items:,} items ({found.failed:,} failed), "
        f"{found.bytes:,} bytes",
        highlight=False,
        soft_wrap=True,
    )
