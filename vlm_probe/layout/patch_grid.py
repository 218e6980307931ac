"""How an encoder cuts an image into patches, and which of its rows go on to the language model."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from vlm_probe.errors import VlmProbeError
from vlm_probe.layout.spans import leading_at
from vlm_probe.layout.tiling import Tiling, tiling


@dataclass(frozen=True)
class PatchGrid:
    """The geometry of an encoder behind LLaVA's selection of features."""

    patch_size: int
    """Pixels of the model's input that a patch is wide and high."""
    leading: int
    """Rows of the encoder's activations before the patches: CLS and registers."""
    kept: int
    """How many of them the model keeps: they stand in the prompt before the patches."""
    pooled: int = 1
    """The connector makes one row of so many by so many patches."""
    more_leading: tuple[int, ...] = ()
    """As `leading`, of the encoders behind the first."""
    side: int = 0
    """Pixels of the squares that pictures are cut into."""
    resolutions: tuple[tuple[int, int], ...] = ()
    """(height, width) of those that a picture in tiles is brought into; none where it is not cut."""

    def __post_init__(self) -> None:
        if self.kept < 0:
            raise VlmProbeError(
                f"the model drops {self.leading - self.kept} row of its encoder, which has {self.leading} before the "
                "patches: vision_feature_select_strategy must be 'full' there"
            )

    def tiling(self, size: tuple[int, int]) -> Tiling | None:
        """How a picture of a size (width, height) is cut; None where pictures are not."""
        return tiling(size, self.resolutions, self.side, self.patch_size) if self.resolutions else None

    def before(self, name: str) -> int:
        """Rows before the patches, of the encoder that a hook point or a part belongs to."""
        return leading_at(name, self.leading, self.more_leading)

    def of(self, pixels: Tensor) -> tuple[int, int]:
        """(rows, columns) of patches in images [..., height, width], as the connector pools them."""
        side = self.patch_size * self.pooled
        return pixels.shape[-2] // side, pixels.shape[-1] // side

    def encoded(self, pixels: Tensor, part: str = "vision") -> int:
        """Positions that one such image takes in an encoder."""
        rows, columns = self.of(pixels)
        return rows * columns * self.pooled**2 + self.before(part)

    def tokens(self, pixels: Tensor) -> int:
        """Positions that one such image takes in the prompt."""
        rows, columns = self.of(pixels)
        return rows * columns + self.kept
