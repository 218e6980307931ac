"""A store opened: an `xarray.Dataset` of what was captured, which reads from disk what is used."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from vlm_probe.errors import VlmProbeError, VlmProbeWarning
from vlm_probe.store.guarding import guarded
from vlm_probe.store.places import Place, place
from vlm_probe.store.records import (
    MANIFEST,
    STORE,
    Commit,
    StoreAbout,
    commit_name,
    manifest,
    record_of,
    table_name,
)
from vlm_probe.store.shards import ITEMS, LABELS, check_metadata, read_item_table


def store_of(where: Place) -> StoreAbout:
    """What the store at a place is; VlmProbeError where there is none, or it is damaged."""
    try:
        return StoreAbout.read(where.read(STORE), where.url)
    except FileNotFoundError:
        raise VlmProbeError(f"no store at {where.url}: it has no {STORE}") from None


def commits_of(where: Place, about: StoreAbout) -> dict[int, Commit]:
    """The shards that are there, in order; each is asked for by its name, since a listing may lag behind."""
    found = {}
    for number in range(about.shards):
        name = commit_name(number)
        try:
            commit = Commit.read(where.read(name), f"{where.url}/{name}")
        except FileNotFoundError:
            continue
        if not about.owns(commit, number):
            raise VlmProbeError(f"{where.url}/{name} is of another shard or store; see vlm-probe store repair")
        found[number] = commit
    return found


def whole_commits(where: Place, about: StoreAbout) -> dict[int, Commit]:
    """As `commits_of`, from the one manifest where the store is whole."""
    try:
        record = record_of(where.read(MANIFEST), f"{where.url}/{MANIFEST}")
    except FileNotFoundError:
        return commits_of(where, about)
    try:
        listed = [Commit.of(one, f"{where.url}/{MANIFEST}") for one in record["shards"]]
    except (LookupError, TypeError) as error:
        raise VlmProbeError(f"{where.url}/{MANIFEST} is no manifest of a store: {error}") from error
    if len(listed) != about.shards or not all(about.owns(one, number) for number, one in enumerate(listed)):
        raise VlmProbeError(f"{where.url}/{MANIFEST} is of another store; see vlm-probe store verify")
    return {one.shard: one for one in listed}


def write_manifest(where: Place, about: StoreAbout, commits: Mapping[int, Commit]) -> None:
    """Say that a store is whole, once it is."""
    if len(commits) == about.shards:
        data = manifest_of(where, about, commits)
        try:
            if where.read(MANIFEST) == data:
                return
        except FileNotFoundError:
            pass
        where.put(MANIFEST, data)


def manifest_of(where: Place, about: StoreAbout, commits: Mapping[int, Commit]) -> bytes:
    """The manifest of these shards, with Zarr's own files as they are: an earlier Zarr may have written them."""
    there = {}
    for name in about.metadata_names:
        with suppress(FileNotFoundError):
            there[name] = where.read(name)
    return manifest(about, there, list(commits.values()))


def tables_of(where: Place, about: StoreAbout, commits: Mapping[int, Commit]) -> pd.DataFrame:
    """The item tables of the shards that are there, one behind the other."""
    parts = [
        read_item_table(where.read(table_name(number)), f"{where.url}/{table_name(number)}", len(about.span(number)))
        for number in sorted(commits)
    ]
    return pd.concat(parts, ignore_index=True) if parts else ITEMS.empty_table().to_pandas()


def errors_of(where: Place, about: StoreAbout, commits: Mapping[int, Commit]) -> pd.DataFrame:
    """The items that failed: number, id, image, error. Shards without any are not read."""
    columns, parts = ["number", "id", "image", "error"], [ITEMS.empty_table().to_pandas()]
    for number in sorted(n for n, commit in commits.items() if commit.failed):
        table = tables_of(where, about, {number: commits[number]})
        parts.append(table.loc[table["error"] != ""])
    failed = pd.concat([part[columns] for part in parts], ignore_index=True)
    failed.attrs = {"title": "items that could not be captured", "store": where.url}
    return failed


def open_store(path: str | Path | Place, *, storage_options: Mapping[str, Any] | None = None) -> xr.Dataset:
    """What `capture` wrote, as `embedding.features` gives it: one variable a point, values read when they are used.

    Items that failed are left out (`store_errors` lists them), as are, with a warning, shards that are not there yet.

    Parameters
    ----------
    path: a local folder, or any URL that fsspec knows. storage_options: for fsspec.

    Returns
    -------
    Variables [item, feature], for positions "image" [item, row, col, feature], for other groups [item, position,
    feature] (NaN behind an item's last position, with `sequence_position` and `token_id` beside them, -1 there;
    patches of a box: `patch_number`). Coordinates along item: id, image, family, kind, question, answer, tokens
    (positions of the prompt), sha256 (of the image file), and for generated scenes their labels. Each variable's attrs
    have part, layer and units: `data.filter_by_attrs(part="language")`. The dataset's attrs have the provenance.

    Whoever takes features takes this: probes, similarity, dimension. Nothing that a store holds is executed: it may
    come from a stranger.

    Raises
    ------
    VlmProbeError: no store, or one that is damaged.
    """
    where = place(path, storage_options=storage_options)
    about = store_of(where)
    if wrong := check_metadata(where, about):
        raise VlmProbeError(f"{where.url} is damaged: {wrong[0]}")
    commits = whole_commits(where, about)
    if not commits:
        raise VlmProbeError(f"{where.url} has no finished shard yet")
    if len(commits) < about.shards:
        warnings.warn(
            f"{where.url} is not finished: {len(commits)} of {about.shards} shards are there",
            VlmProbeWarning,
            stacklevel=2,
        )
    table = tables_of(where, about, commits)
    raw = xr.open_zarr(guarded(where, about), consolidated=False, chunks=None, decode_cf=False)
    data = raw[list(about.arrays)]
    fine = table["error"].to_numpy() == ""
    table = table.loc[fine]
    numbers = table["number"].to_numpy()
    if len(numbers) < about.items:
        data = data.isel(item=_slice_of(numbers))
    named = ("id", "image", "family", "kind", "question", "answer", "tokens", "sha256")
    coords = {name: ("item", table[name].to_numpy()) for name in named}
    if len(table) and (table["label_existence"] != "").all():
        coords |= {name: ("item", table[f"label_{name}"].to_numpy()) for name in LABELS if name not in coords}
    data = data.assign_coords(coords)
    for name in about.arrays:
        data[name].attrs = _attrs(str(name), about)
    pooling = about.fingerprint["positions"]
    title = f"activations, positions {pooling}"
    data.attrs = {"title": title, "units": "activation", "positions": pooling, "store": where.url, **about.provenance}
    return data


def _slice_of(numbers: np.ndarray) -> slice | np.ndarray:
    """Numbers that follow each other as a slice, which reads less."""
    if len(numbers) and numbers[-1] - numbers[0] == len(numbers) - 1:
        return slice(int(numbers[0]), int(numbers[-1]) + 1)
    return numbers


def _attrs(name: str, about: StoreAbout) -> dict[str, Any]:
    from vlm_probe.names import PARTS, layer_of

    part = name.split(".", 1)[0]
    if part not in PARTS:
        return {"title": name.replace("_", " ")}
    layer = layer_of(name)
    attrs = {
        "title": name,
        "units": "activation",
        "part": part,
        "pool": about.fingerprint["positions"],
        **about.provenance,
    }
    return attrs if layer is None else {**attrs, "layer": layer}


def store_errors(path: str | Path | Place, *, storage_options: Mapping[str, Any] | None = None) -> pd.DataFrame:
    """The items that a store could not keep: number, id, image, error, a row each.

    Raises VlmProbeError as `open_store` does.
    """
    where = place(path, storage_options=storage_options)
    about = store_of(where)
    return errors_of(where, about, whole_commits(where, about))
