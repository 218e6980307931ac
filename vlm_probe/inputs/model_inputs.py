"""What a model is run on: tensors, and where things are in them; and a picture as an encoder takes it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from vlm_probe.errors import VlmProbeError
from vlm_probe.inputs.token_types import TokenTypes
from vlm_probe.layout import ImageTransform, TokenLayout
from vlm_probe.layout.tiling import Tiling


@dataclass
class ModelInputs:
    """A batch, ready for `model(inputs)`, with one layout an example."""

    input_ids: Int[Tensor, "batch position"]
    """Image tokens expanded: one placeholder a patch. Padded on the left."""
    attention_mask: Int[Tensor, "batch position"]
    pixel_values: Float[Tensor, "image channel height width"] | None
    """All images of the batch in order, each followed by its tiles where it is cut; None without images."""
    layouts: list[TokenLayout]
    images: list[list[Image.Image]] = field(default_factory=list)
    """The original images of every example; empty for tensors made elsewhere."""
    prompts: list[str] = field(default_factory=list)
    types: TokenTypes | None = None
    """Where positions look both ways; None where each sees what stands before it."""
    answered: int = 0
    """Positions at the end that are an answer's (`with_answer`)."""
    image_sizes: Int[Tensor, "picture two"] | None = None
    """Height and width of every image before it was cut into tiles; None where none is."""

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Keyword arguments for the model."""
        given = {"input_ids": self.input_ids, "attention_mask": self.attention_mask}
        if self.types is not None:
            is_image = torch.zeros(self.input_ids.shape, dtype=torch.bool)
            for row, layout in zip(is_image, self.layouts, strict=True):
                for span in layout.images:
                    row[np.concatenate([span.extra_positions, span.positions])] = True
            given["token_type_ids"] = self.types.of(is_image, self.answered).to(self.input_ids.device)
        if self.pixel_values is not None:
            given["pixel_values"] = self.pixel_values
        if self.image_sizes is not None:
            given["image_sizes"] = self.image_sizes
        return given

    @property
    def layout(self) -> TokenLayout:
        """The layout of a batch of one."""
        if len(self.layouts) != 1:
            raise VlmProbeError(f"this batch has {len(self.layouts)} layouts; use inputs.layouts[i]")
        return self.layouts[0]

    def __len__(self) -> int:
        return len(self.layouts)

    def __repr__(self) -> str:
        rows, length = self.input_ids.shape
        pixels = "no pixels" if self.pixel_values is None else f"pixels {list(self.pixel_values.shape)}"
        grids = [" x ".join(map(str, image.grid)) for layout in self.layouts for image in layout.images]
        patches = f"patches {', '.join(dict.fromkeys(grids))}" if grids else "no image"
        asked = repr(self.prompts[0]) + ", ..." * (len(self.prompts) > 1) if self.prompts else "tensors made elsewhere"
        return (
            f"ModelInputs({rows} x {length} positions, {pixels}, on {self.input_ids.device},\n"
            f"  {len(grids)} images, {patches},\n"
            f"  {asked})"
        )

    def to(self, device: torch.device, dtype: torch.dtype) -> ModelInputs:
        """The same batch on a device, its pixels in a dtype."""
        return replace(
            self,
            input_ids=self.input_ids.to(device),
            attention_mask=self.attention_mask.to(device),
            pixel_values=None if self.pixel_values is None else self.pixel_values.to(device, dtype),
            image_sizes=None if self.image_sizes is None else self.image_sizes.to(device),
        )

    def with_answer(self, token_ids: list[int], tokens: tuple[str, ...] = ()) -> ModelInputs:
        """The same batch of one with the first answer tokens appended.

        Its `layout.answer_position` is the new last position, which predicts the next answer token.
        """
        layout, length = self.layout, self.input_ids.shape[1]
        ids = self.input_ids.new_tensor([token_ids])
        added = np.arange(length, length + len(token_ids))
        longer = replace(
            layout,
            length=length + len(token_ids),
            text_positions=np.concatenate([layout.text_positions, added]),
            answer_position=length + len(token_ids) - 1,
            tokens=layout.tokens and layout.tokens + (tokens or tuple(f"<{i}>" for i in token_ids)),
        )
        return replace(
            self,
            input_ids=torch.cat([self.input_ids, ids], dim=1),
            attention_mask=torch.cat([self.attention_mask, torch.ones_like(ids)], dim=1),
            layouts=[longer],
            answered=self.answered + len(token_ids),
        )


@dataclass(frozen=True)
class Seen:
    """A picture as an encoder takes it."""

    pixels: Float[Tensor, "channel height width"]
    """Of the whole picture."""
    transform: ImageTransform
    grid: tuple[int, int]
    """(rows, columns) of patches."""
    whole: int
    """Positions that the whole picture takes in the prompt."""
    tiling: Tiling | None = None
    tiles: Float[Tensor, "tile channel height width"] | None = None
    """What else the encoder is shown of it, where it is cut."""

    @property
    def tokens(self) -> int:
        """Positions it takes in the prompt."""
        return self.whole + (0 if self.tiling is None else self.tiling.positions)

    @property
    def shown(self) -> Float[Tensor, "image channel height width"]:
        """All that the encoder is shown: the whole picture, and its tiles."""
        return self.pixels[None] if self.tiles is None else torch.cat([self.pixels[None], self.tiles])
