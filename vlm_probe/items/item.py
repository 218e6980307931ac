"""Items: the unit of evaluation, whether generated here or read from a benchmark's files."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import pandas as pd
from PIL import Image

from vlm_probe.errors import VlmProbeError
from vlm_probe.files import make_folder, naming, remove_stale, writing
from vlm_probe.items.entries import BadEntryError, boxes_in, texts_in
from vlm_probe.items.normalize import choice_letter
from vlm_probe.layout import UnitBox


@runtime_checkable
class Drawable(Protocol):
    """A picture that is drawn when it is asked for, such as a generated scene."""

    def image(self, size: int) -> Image.Image:
        """The picture at `size` pixels a side."""
        ...


@runtime_checkable
class Packed(Protocol):
    """A picture that lies in a file with others, such as a shard: tiny itself, and good in another process."""

    @property
    def container(self) -> Path:
        """The file it lies in."""
        ...

    def read(self) -> bytes:
        """The picture's own file; VlmProbeError, which names the container, where it is not there."""
        ...


class PictureBytes(bytes):
    """An image file's content, and what messages call it (`open_image` asks for `name`)."""

    name: str

    def __new__(cls, content: bytes = b"", name: str = "") -> PictureBytes:
        made = super().__new__(cls, content)
        made.name = name
        return made


@dataclass(frozen=True)
class Item:
    """One question about one image, with what is needed to score an answer."""

    id: str
    family: str
    """As which benchmark it is asked: "pope", "mmvp", "gqa", "mme", "vqav2" or "mmvet"; "scenes" for none."""
    kind: str
    """What sort of question within the family: "adversarial", "color", ..."""
    group: str
    """Items scored together (both right or none): a pair's id in MMVP, the image in MME; else the id."""
    image: str
    """Names the image; items with the same name share its work."""
    question: str
    answer: str
    """The right answer."""
    answers: tuple[str, ...] = ()
    """What every annotator said (VQAv2: ten answers); empty where there is one right answer."""
    also: tuple[str, ...] = ()
    """Other answers that are as right: any of them counts. `answer` is the one whose probability is taken."""
    parts: tuple[str, ...] = ()
    """What a full answer must name (MM-Vet), each part's alternatives joined by "<OR>"; empty: the whole answer."""
    distractors: tuple[str, ...] = ()
    """Wrong answers of the same kind."""
    boxes: tuple[UnitBox, ...] = ()
    """What one must look at; empty where unknown, or where the answer is an absence."""
    others: tuple[UnitBox, ...] = ()
    """Other objects of the image, which are not asked about: what looking at the right one is told from."""
    image_seed: int | None = None
    """Seed of the generated scene (of an MMVP twin: of the scene it was edited from); None for files."""
    source: Drawable | Packed | Path | None = field(default=None, compare=False, repr=False)
    """What draws the image, the image file, or where in a container it is (`items.datasets`)."""

    def picture(self, size: int) -> Image.Image | Path | bytes:
        """The image: drawn at `size` pixels, or the file to open, or what the file holds; `open_image` takes each.

        Raises VlmProbeError where the item came without an image, or its container has none there.
        """
        if self.source is None:
            raise VlmProbeError(f"item {self.id} names the image {self.image!r}, but no image folder was given")
        if isinstance(self.source, Path):
            return self.source
        if isinstance(self.source, Packed):
            return PictureBytes(self.source.read(), repr(self.image))
        return self.source.image(size)


def check_ids(items: Sequence[Item]) -> None:
    """VlmProbeError where two items have one id: their rows could not be told apart."""
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise VlmProbeError(f"item ids must differ, {item.id!r} comes twice")
        seen.add(item.id)


def with_others(items: Sequence[Item]) -> list[Item]:
    """The items, those that tell no other object having what other items ask about in the same image.

    Boxes that touch one asked about are left out.
    """
    asked: dict[str, dict[UnitBox, None]] = {}
    for item in items:
        asked.setdefault(item.image, {}).update(dict.fromkeys(item.boxes))

    def apart(box: UnitBox, item: Item) -> bool:
        return not any(
            min(a.right, box.right) > max(a.left, box.left) and min(a.bottom, box.bottom) > max(a.top, box.top)
            for a in item.boxes
        )

    return [
        item
        if item.others or not item.boxes
        else replace(item, others=tuple(box for box in asked[item.image] if apart(box, item)))
        for item in items
    ]


_COLUMNS = (
    "id",
    "family",
    "kind",
    "group",
    "image",
    "image_seed",
    "question",
    "answer",
    "answers",
    "also",
    "parts",
    "distractors",
    "boxes",
    "others",
)


def item_table(items: Iterable[Item]) -> pd.DataFrame:
    """Items as a table, one row each; lists stay lists."""
    rows = [
        {
            **{name: getattr(item, name) for name in _COLUMNS},
            "answers": list(item.answers),
            "also": list(item.also),
            "parts": list(item.parts),
            "distractors": list(item.distractors),
            **{name: [list(map(float, box)) for box in getattr(item, name)] for name in ("boxes", "others")},
        }
        for item in items
    ]
    table = pd.DataFrame(rows, columns=list(_COLUMNS))
    return table.astype({"image_seed": "Int64"})


def export_items(
    items: Sequence[Item], folder: Path, *, size: int = 336, progress: Callable[[int], None] | None = None
) -> Path:
    """Write `items.parquet`, `items.jsonl` (the same rows) and `images/*.png` for other tools.

    The images are named by their items' `image` ("-" for "/"); boxes are in unit coordinates. Every item
    must carry a scene or an image file. An earlier export in the folder is replaced, images that this one lacks
    included, once all is written; other files stay. Returns the folder.

    Raises VlmProbeError where an image is missing or the folder cannot be written: what was there then stays.
    """
    make_folder(folder)
    draft = folder / ".export.partial"
    shutil.rmtree(draft, ignore_errors=True)  # of a run that was killed
    try:
        with writing(draft):
            names = _write_export(items, draft, size, progress)
            before = _exported(folder)
            for table in _TABLES:
                (folder / table).unlink(missing_ok=True)  # first: a folder with tables is whole
            (folder / "images").mkdir(exist_ok=True)
            remove_stale(folder / "images", before, names)
            for name in (*(f"images/{name}" for name in names), *_TABLES):
                os.replace(draft / name, folder / name)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


_TABLES = ("items.parquet", "items.jsonl")


def _exported(folder: Path) -> list[str]:
    """The images of the export that is in a folder, as it names them."""
    try:
        lines = (folder / "items.jsonl").read_text().splitlines()
        return [str(json.loads(line)["image"]) for line in lines]
    except (OSError, ValueError, LookupError, TypeError):  # none, or something else of that name
        return []


def _write_export(items: Sequence[Item], folder: Path, size: int, progress: Callable[[int], None] | None) -> list[str]:
    """Write an export into a draft's folder, whose files will stand above it; returns the images' file names."""
    from vlm_probe.inputs.images import open_image  # brings torch, which reading items does not need

    images = folder / "images"
    images.mkdir(parents=True)
    names = {image: _png_name(image) for image in dict.fromkeys(item.image for item in items)}
    if len(set(names.values())) < len(names):
        twice = next(name for name in names.values() if list(names.values()).count(name) > 1)
        raise VlmProbeError(f"two images would be written to one file, {twice}")
    drawn: set[str] = set()
    for item in items:
        if item.image not in drawn:
            picture = open_image(item.picture(size))
            with naming(folder.parent / "images" / names[item.image]):
                picture.save(images / names[item.image])
            drawn.add(item.image)
        if progress is not None:
            progress(1)
    table = item_table(items)
    table["image"] = [names[image] for image in table["image"]]
    with naming(folder.parent / "items.parquet"):
        table.to_parquet(folder / "items.parquet", index=False)
    lines = table.astype(object).where(table.notna(), None).to_dict("records")
    with naming(folder.parent / "items.jsonl"):
        (folder / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    return list(names.values())


def _png_name(image: str) -> str:
    return f"{'-'.join(Path(image).with_suffix('').parts)}.png"


def item_from_row(row: dict[str, Any], images: Path | None) -> Item:
    """An item from a row of `items.parquet` or `items.jsonl` (what `export_items` wrote).

    Raises BadEntryError for lists that are none, boxes that are not in shares of the image, and a multiple choice whose
    answer is no letter.
    """
    also = texts_in(row, "also")
    for right in (str(row["answer"]), *also) if row["kind"] == "choice" else ():
        if not choice_letter(right):
            raise BadEntryError(f"the right answer to a choice must be a letter, got {right!r:.60}")
    seed = row.get("image_seed")
    return Item(
        id=str(row["id"]),
        family=str(row["family"]),
        kind=str(row["kind"]),
        group=str(row["group"]),
        image=str(row["image"]),
        question=str(row["question"]),
        answer=str(row["answer"]),
        answers=texts_in(row, "answers"),
        also=also,
        parts=texts_in(row, "parts"),
        distractors=texts_in(row, "distractors"),
        boxes=boxes_in(row, "boxes"),
        others=boxes_in(row, "others"),
        image_seed=None if seed is None or pd.isna(seed) else int(seed),
        source=None if images is None else images / str(row["image"]),
    )
