"""Where things are in the sequence: one example's images, text, question and answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from vlm_probe.errors import VlmProbeError
from vlm_probe.layout.boxes import AnyBox, PixelBox
from vlm_probe.layout.spans import ImageSpan
from vlm_probe.layout.tiling import Tiling
from vlm_probe.layout.transform import ImageTransform


@dataclass(frozen=True)
class TokenLayout:
    """Which positions of one example's sequence hold which image patches and which text tokens."""

    length: int
    """Length of the sequence, padding included."""
    images: tuple[ImageSpan, ...]
    """Of every picture the whole; behind it its tiles or crops, where it is cut into some."""
    text_positions: Int[np.ndarray, " text"]
    """Every unpadded position that is not of an image."""
    question_positions: Int[np.ndarray, " question"]
    """The tokens of the question itself, without the chat template around it."""
    answer_position: int
    """The last position of the prompt: its logits are those of the first answer token."""
    tokens: tuple[str, ...] = field(default=(), repr=False)
    """The token at every position as text, where a tokenizer is at hand."""

    @property
    def image_positions(self) -> Int[np.ndarray, " patch"]:
        """Positions of all patches of all images, in order; empty without an image."""
        if not self.images:
            return np.zeros(0, dtype=np.int64)
        return np.concatenate([span.positions for span in self.images])

    @property
    def pictures(self) -> tuple[ImageSpan, ...]:
        """The spans of whole pictures."""
        return tuple(span for span in self.images if span.tiles is None and not span.crop)

    def image(self, index: int = 0, *, tiles: bool = False) -> ImageSpan:
        """One image's span: of the whole picture, or of its tiles.

        Raises VlmProbeError if the prompt has fewer images, and for tiles of one that is not cut.
        """
        if not -len(self.pictures) <= index < len(self.pictures):
            raise VlmProbeError(f"image {index} was asked for, the prompt has {len(self.pictures)}")
        if not tiles:
            return self.pictures[index]
        cut = [span for span in self.views(index) if span.tiles is not None]
        if not cut:
            raise VlmProbeError(f"image {index} is not cut into tiles")
        return cut[0]

    def views(self, index: int = 0) -> tuple[ImageSpan, ...]:
        """All spans of one picture: the whole, and its tiles or crops where it is cut."""
        begins = [number for number, span in enumerate(self.images) if span.tiles is None and not span.crop]
        index %= len(begins)
        return self.images[begins[index] : [*begins[1:], len(self.images)][index]]

    @property
    def encoded(self) -> int:
        """How many pictures, tiles among them, the encoder is given of this prompt."""
        return sum(1 if span.tiles is None else span.tiles[0] * span.tiles[1] for span in self.images)

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of the first image."""
        return self.image().grid

    def box_to_patches(self, box: AnyBox, *, image: int = 0) -> Bool[np.ndarray, "row col"]:
        """`ImageSpan.box_to_patches` of one image."""
        return self.image(image).box_to_patches(box)

    def box_coverage(self, box: AnyBox, *, image: int = 0) -> Float[np.ndarray, "row col"]:
        """`ImageSpan.box_coverage` of one image."""
        return self.image(image).box_coverage(box)

    def patch_to_box(self, row: int, col: int, *, image: int = 0) -> PixelBox:
        """`ImageSpan.patch_to_box` of one image."""
        return self.image(image).patch_to_box(row, col)


def lay_out(
    input_ids: Int[np.ndarray, " position"],
    attention_mask: Int[np.ndarray, " position"],
    *,
    image_token_id: int,
    grids: list[tuple[int, int]],
    tokens_per_image: list[int],
    transforms: list[ImageTransform | None],
    patch_size: int | None = None,
    leading: int = 0,
    pooled: int = 1,
    more_leading: tuple[int, ...] = (),
    tilings: Sequence[Tiling | None] = (),
    crops: Sequence[bool] = (),
    question_positions: Any = None,
    tokens: tuple[str, ...] = (),
) -> TokenLayout:
    """Read one example's layout off its token ids.

    leading, pooled, more_leading: as of `ImageSpan`. tilings: how each image is cut, where some are.
    crops: which images are crops of the one before them. Without
    `question_positions`, the question is all text behind the last image.

    Raises VlmProbeError if the image placeholders do not add up to what the images need.
    """
    live = np.flatnonzero(attention_mask)
    placeholders = live[input_ids[live] == image_token_id]
    cut = [*tilings] or [None] * len(grids)
    needed = sum(tokens_per_image) + sum(0 if one is None else one.positions for one in cut)
    if len(placeholders) != needed:
        raise VlmProbeError(
            f"the prompt holds {len(placeholders)} image placeholders (token {image_token_id}), its "
            f"{len(tokens_per_image)} images need {needed}"
        )
    spans, start, row = [], 0, 0
    of_another = [*crops] or [False] * len(grids)
    for grid, count, transform, tiled, crop in zip(grids, tokens_per_image, transforms, cut, of_another, strict=True):
        own = placeholders[start : start + count]
        # What the model keeps of `leading` stands before the patches.
        extra = count - grid[0] * grid[1]
        about = (patch_size, leading, pooled, more_leading, row)
        spans.append(ImageSpan(own[extra:], grid, own[:extra], transform, *about, crop))
        start, row = start + count, row + 1
        if tiled is not None:
            rows = placeholders[start : start + tiled.positions].reshape(tiled.grid[0], -1)
            at = (rows[:, :-1].ravel(), tiled.grid, rows[:, -1])
            moved = None if transform is None else tiled.transform
            spans.append(ImageSpan(*at, moved, *about[:-1], row, tiles=tiled.tiles))
            start, row = start + tiled.positions, row + tiled.tiles[0] * tiled.tiles[1]
    text = live[input_ids[live] != image_token_id]
    if question_positions is None:
        behind = placeholders[-1] if len(placeholders) else -1
        question_positions = text[text > behind]
    return TokenLayout(
        length=len(input_ids),
        images=tuple(spans),
        text_positions=text,
        question_positions=np.asarray(question_positions, dtype=np.int64),
        answer_position=int(live[-1]),
        tokens=tokens,
    )
