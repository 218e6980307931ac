"""Where one image stands: which positions hold its patches, and which pixels each patch shows.

No size is written here: the grid comes from the pixel tensor and the encoder's patch size, the
transform from the image processor that made the tensor.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from vlm_probe.errors import VlmProbeError
from vlm_probe.layout.boxes import AnyBox, Number, PixelBox
from vlm_probe.layout.transform import ImageTransform


def leading_at(name: str, first: int, more: tuple[int, ...]) -> int:
    """Of a hook point's encoder, or a part, the rows before its patches: of several encoders each has its own."""
    _, *rest = name.split(".")
    return (first, *more)[int(rest[0]) if rest and rest[0].isdigit() else 0]


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
    leading: int = 0
    """Rows of the encoder's activations that stand before the patches: CLS and registers, kept by the model or not."""
    pooled: int = 1
    """The connector makes one row of so many by so many patches of the encoder (Gemma 3): a cell of `grid`."""
    more_leading: tuple[int, ...] = ()
    """As `leading`, of the encoders behind the first."""
    row: int = 0
    """Which of its prompt's pictures and tiles it is in the encoder's batch."""
    crop: bool = False
    """A crop of the picture whose span stands before it (Gemma 3's pan and scan)."""
    tiles: tuple[int, int] | None = None
    """Rows and columns of tiles where these are a picture's tiles put together again (`layout.tiling`), beside the span
    of the whole picture. `extra_positions` are then the ends of the rows."""

    def rows_at(self, name: str) -> Int[np.ndarray, " patch"]:
        """Where this image's patches stand along the position axis of an activation, by its hook name.

        Row by row of the grid. In `vision.` CLS and registers come first, in `connector.` those of them that the
        model keeps; in `language.` the patches have their places in the sequence.

        Raises VlmProbeError before a connector that pools: there several patches are one cell (`cells_at`).
        """
        cells = self.cells_at(name)
        if cells.shape[1] != 1:
            raise VlmProbeError(
                f"at {name} every {self.pooled} x {self.pooled} patches are one cell of the grid, which the connector "
                "pools: name a point behind it"
            )
        return cells[:, 0]

    def cells_at(self, name: str) -> Int[np.ndarray, "patch each"]:
        """As `rows_at`, where a cell of the grid may be several patches: those before a connector that pools."""
        if name.startswith("language."):
            return self.positions[:, None]
        if self.tiles is not None:
            raise VlmProbeError(f"at {name} each tile is a picture of its own: take the whole picture's span")
        seen = name.startswith("vision.")
        before = leading_at(name, self.leading, self.more_leading) if seen else len(self.extra_positions)
        k = self.pooled if name.startswith("vision.") or name.endswith("hook_in") else 1
        rows, columns = self.grid
        patches = np.arange(rows * columns * k * k).reshape(rows, k, columns, k)
        return before + patches.transpose(0, 2, 1, 3).reshape(rows * columns, k * k)

    def in_encoder(self, part: str = "vision") -> ImageSpan:
        """The image as an encoder has it, every patch a cell; its positions are those in the encoder.

        The image itself but for that where nothing is pooled. part: "vision", or one of several ("vision.1").
        """
        rows, columns = self.grid[0] * self.pooled, self.grid[1] * self.pooled
        before = leading_at(part, self.leading, self.more_leading)
        own = {"leading": before, "positions": before + np.arange(rows * columns)}
        return replace(self, grid=(rows, columns), extra_positions=np.arange(0), pooled=1, **own)

    @property
    def cell_size(self) -> int | None:
        """Pixels of the model's input that a cell of the grid is wide and high; None as of `patch_size`."""
        return None if self.patch_size is None else self.patch_size * self.pooled

    def edges(self) -> dict[str, tuple[str, Float[np.ndarray, " edge"]]]:
        """Pixel edges of the grid's rows and columns on the original image, as coordinates of a map.

        `top` and `bottom` along row, `left` and `right` along col; nothing where the original image is not known.
        """
        if self.transform is None:
            return {}
        rows, columns = self.grid
        across = np.asarray([self.patch_to_box(0, col) for col in range(columns)])
        down = np.asarray([self.patch_to_box(row, 0) for row in range(rows)])
        return {
            "left": ("col", across[:, 0]),
            "right": ("col", across[:, 2]),
            "top": ("row", down[:, 1]),
            "bottom": ("row", down[:, 3]),
        }

    def _cell(self) -> tuple[Number, Number]:
        if self.transform is None:
            raise VlmProbeError(
                "this layout has no image transform, since its tensors were made elsewhere; boxes need "
                "model.prepare(image, question)"
            )
        if self.cell_size is not None:
            return self.cell_size, self.cell_size
        (rows, columns), (width, height) = self.grid, self.transform.size
        return width / columns, height / rows

    def box_coverage(self, box: AnyBox) -> Float[np.ndarray, "row col"]:
        """Share of every patch's area that lies inside a box of the original image, 0 to 1.

        A plain tuple is meant in pixels of the original image.
        """
        cell_w, cell_h = self._cell()
        assert self.transform is not None
        left, top, right, bottom = self.transform.to_model(box)
        rows, columns = self.grid
        return np.outer(_shares(top, bottom, cell_h, rows), _shares(left, right, cell_w, columns))

    def box_to_patches(self, box: AnyBox) -> Bool[np.ndarray, "row col"]:
        """The patches that a box of the original image overlaps."""
        return self.box_coverage(box) > 0

    def patch_to_box(self, row: int, col: int) -> PixelBox:
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
        return self.box_to_patches(PixelBox(0, 0, width, height))


def _shares(low: Number, high: Number, cell: Number, n: int) -> np.ndarray:
    """Share of each of n cells, side by side from 0, that lies between two edges."""
    edges = np.arange(n + 1) * cell
    inside = np.clip(np.minimum(edges[1:], high) - np.maximum(edges[:-1], low), 0, None)
    return inside / cell
