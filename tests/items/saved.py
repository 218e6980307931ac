"""Datasets in the layouts that other tools write, whole and broken, and what is said of them."""

import io
import json
import tarfile
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from vlm_probe.errors import VlmProbeError
from vlm_probe.inputs.images import open_image
from vlm_probe.items import open_dataset
from vlm_probe.items.entries import BadEntryError


def picture(seed: int) -> bytes:
    """A small PNG, another one for each seed."""
    to = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)).save(to, "PNG")
    return to.getvalue()


def tar(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            about = tarfile.TarInfo(name)
            about.size = len(content)
            archive.addfile(about, io.BytesIO(content))
    return path


def hf_images(pictures: Sequence[bytes | None], paths: Sequence[str | None] | None = None) -> pa.Array:
    """A column as Hugging Face's `Image` stores it."""
    rows = [{"bytes": one, "path": path} for one, path in zip(pictures, paths or [None] * len(pictures), strict=True)]
    return pa.array(rows, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))


def saved_to_disk(folder: Path, columns: Mapping[str, Any], *, files: int = 1, batch: int = 1000) -> Path:
    """As `datasets.Dataset.save_to_disk` leaves it."""
    folder.mkdir(parents=True)
    table = pa.table(dict(columns))
    names = [f"data-{number:05d}-of-{files:05d}.arrow" for number in range(files)]
    each = -(-table.num_rows // files)
    for number, name in enumerate(names):
        with pa.OSFile(str(folder / name), "wb") as to, pa.ipc.new_stream(to, table.schema) as writer:
            writer.write_table(table.slice(number * each, each), max_chunksize=batch)
    state = {
        "_data_files": [{"filename": name} for name in names],
        "_fingerprint": "8f4c",
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": "train",
    }
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text(json.dumps({"features": {"image": {"_type": "Image"}}}))
    return folder


PICTURE = picture(0)


def told(path: Path | str, **options) -> list[str]:
    """Of every item its id, or what is wrong with it or with its picture; of the whole what is wrong, after "no:"."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            data = open_dataset(path, **options)
        except VlmProbeError as error:
            return [f"no: {error}"]
        said = []
        for number in range(len(data)):
            try:
                item = data[number]
            except BadEntryError as error:
                said.append(str(error))
                continue
            try:
                open_image(item.picture(9))
                said.append(item.id)
            except VlmProbeError as error:
                said.append(f"picture: {error}")
        for line in said:
            assert "\n" not in line
        return said


def check(said: list[str], expected: list[str], path: Path, folder: Path) -> None:
    assert len(said) == len(expected), said
    for one, beginning in zip(said, expected, strict=True):
        assert one.startswith(beginning.replace("{path}", str(path)).replace("{folder}", str(folder))), one


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def parquet(folder: Path, name: str = "a.parquet", **columns) -> Path:
    pq.write_table(pa.table(columns), folder / name)
    return folder / name


def member(name: str, size: int, kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    about = tarfile.TarInfo(name)
    about.size, about.type, about.linkname = size, kind, link
    return about.tobuf(tarfile.GNU_FORMAT)


def block(content: bytes) -> bytes:
    return content + bytes(-len(content) % 512)


LAST = member("z.png", len(PICTURE)) + block(PICTURE) + bytes(1024)
