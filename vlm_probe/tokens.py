"""Where things are in the sequence, and how pixels of the original image map to patches and back.

No size is written here: the grid comes from the pixel tensor and the encoder's patch size, the
transform from the image processor that made the tensor.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from vlm_probe.errors import VlmProbeError

Number = float | int
Box = tuple[Number, Number, Number, Number]
"""Left, top, right, bottom in pixels; right and bottom are exclusive edges."""


@dataclass(frozen=True)
class ImageTransform:
    """The affine map from pixels of the original image to pixels of the model's input.

    x_model = x * scale[0] + offset[0], and likewise for y. What the map sends outside the model's
    image was cropped away; what nothing is sent to is padding.
    """

    original: tuple[int, int]
    """(width, height) of the original image."""
    size: tuple[int, int]
    """(width, height) of the model's input."""
    scale: tuple[float, float]
    offset: tuple[float, float]

    @classmethod
    def of(
        cls,
        original: tuple[int, int],
        resized: tuple[int, int],
        *,
        pad: bool = False,
        crop: tuple[int, int] | None = None,
    ) -> ImageTransform:
        """The map of an image processor: pad to a square, resize to `resized`, crop the centre.

        All sizes are (width, height). Padding goes on both ends of the shorter side, the odd pixel
        on the right or bottom, as LLaVA does it. Where the crop is larger than the image it pads.
        Both round as transformers does.
        """
        side = max(original)
        left, top = ((side - original[0]) // 2, (side - original[1]) // 2) if pad else (0, 0)
        before = (side, side) if pad else original
        scale = (resized[0] / before[0], resized[1] / before[1])
        size = crop or resized
        x, y = (
            -((have - want) // 2) if have >= want else math.ceil((want - have) / 2)
            for have, want in zip(resized, size, strict=True)
        )
        return cls(original, size, scale, (left * scale[0] + x, top * scale[1] + y))

    def to_model(self, box: Box) -> Box:
        """A box of the original image in pixels of the model's input (may lie outside it)."""
        (sx, sy), (ox, oy) = self.scale, self.offset
        return box[0] * sx + ox, box[1] * sy + oy, box[2] * sx + ox, box[3] * sy + oy

    def to_original(self, box: Box) -> Box:
        """A box of the model's input in pixels of the original image (outside it: padding)."""
        (sx, sy), (ox, oy) = self.scale, self.offset
        return (box[0] - ox) / sx, (box[1] - oy) / sy, (box[2] - ox) / sx, (box[3] - oy) / sy


@dataclass(frozen=True)
class ImageSpan:
    """One image of a prompt: which positions hold its patches, and their grid."""

    positions: Int[np.ndarray, " patch"]
    """Sequence position of every patch, row by row."""
    grid: tuple[int, int]
    """(rows, columns) of patches."""
    extra_positions: Int[np.ndarray, " extra"]
    """Positions the image takes that are no patch: CLS or registers, where the model keeps them."""
    transform: ImageTransform | None = None
    """None for tensors made elsewhere, whose original image is not known."""
    patch_size: int | None = None
    """Pixels of the model's input a patch is wide and high. What is left over at the right and bottom
    belongs to no patch. None: the grid divides the input evenly."""

    def _cell(self) -> tuple[Number, Number]:
        if self.transform is None:
            raise VlmProbeError(
                "this layout has no image transform, since its tensors were made elsewhere; boxes need "
                "model.prepare(image, question)"
            )
        if self.patch_size is not None:
            return self.patch_size, self.patch_size
        (rows, columns), (width, height) = self.grid, self.transform.size
        return width / columns, height / rows

    def box_coverage(self, box: Box) -> Float[np.ndarray, "row col"]:
        """Share of every patch's area that lies inside a box of the original image, 0 to 1."""
        cell_w, cell_h = self._cell()
        assert self.transform is not None
        left, top, right, bottom = self.transform.to_model(box)
        rows, columns = self.grid

        def share(low: Number, high: Number, cell: Number, n: int) -> np.ndarray:
            edges = np.arange(n + 1) * cell
            inside = np.clip(np.minimum(edges[1:], high) - np.maximum(edges[:-1], low), 0, None)
            return inside / cell

        return np.outer(share(top, bottom, cell_h, rows), share(left, right, cell_w, columns))

    def box_to_patches(self, box: Box) -> Bool[np.ndarray, "row col"]:
        """The patches that a box of the original image overlaps."""
        return self.box_coverage(box) > 0

    def patch_to_box(self, row: int, col: int) -> Box:
        """The pixels of the original image that a patch shows; those outside it are padding."""
        rows, columns = self.grid
        if not (0 <= row < rows and 0 <= col < columns):
            raise VlmProbeError(f"patch ({row}, {col}) is outside the grid of {rows} rows x {columns} columns")
        cell_w, cell_h = self._cell()
        assert self.transform is not None
        return self.transform.to_original((col * cell_w, row * cell_h, (col + 1) * cell_w, (row + 1) * cell_h))

    def visible(self) -> Bool[np.ndarray, "row col"]:
        """The patches that show any of the original image, rather than padding alone."""
        self._cell()
        assert self.transform is not None
        width, height = self.transform.original
        return self.box_to_patches((0.0, 0.0, float(width), float(height)))


@dataclass(frozen=True)
class TokenLayout:
    """Which positions of one example's sequence hold which image patches and which text tokens."""

    length: int
    """Length of the sequence, padding included."""
    images: tuple[ImageSpan, ...]
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

    def image(self, index: int = 0) -> ImageSpan:
        """One image's span; VlmProbeError if the prompt has fewer images."""
        if not -len(self.images) <= index < len(self.images):
            raise VlmProbeError(f"image {index} was asked for, the prompt has {len(self.images)}")
        return self.images[index]

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of the first image."""
        return self.image().grid

    def box_to_patches(self, box: Box, *, image: int = 0) -> Bool[np.ndarray, "row col"]:
        """`ImageSpan.box_to_patches` of one image."""
        return self.image(image).box_to_patches(box)

    def box_coverage(self, box: Box, *, image: int = 0) -> Float[np.ndarray, "row col"]:
        """`ImageSpan.box_coverage` of one image."""
        return self.image(image).box_coverage(box)

    def patch_to_box(self, row: int, col: int, *, image: int = 0) -> Box:
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
    question_positions: Any = None,
    tokens: tuple[str, ...] = (),
) -> TokenLayout:
    """Read one example's layout off its token ids.

    Without `question_positions`, the question is all text behind the last image.

    Raises VlmProbeError if the image placeholders do not add up to what the images need.
    """
    live = np.flatnonzero(attention_mask)
    placeholders = live[input_ids[live] == image_token_id]
    if len(placeholders) != sum(tokens_per_image):
        raise VlmProbeError(
            f"the prompt holds {len(placeholders)} image placeholders (token {image_token_id}), its "
            f"{len(tokens_per_image)} images need {sum(tokens_per_image)}"
        )
    spans, start = [], 0
    for grid, count, transform in zip(grids, tokens_per_image, transforms, strict=True):
        own = placeholders[start : start + count]
        # What is not a patch (CLS, registers) stands before the patches, in every tower.
        extra = count - grid[0] * grid[1]
        spans.append(ImageSpan(own[extra:], grid, own[:extra], transform, patch_size))
        start += count
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
