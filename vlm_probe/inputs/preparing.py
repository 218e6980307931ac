"""What a HookedVLM is run on: tensors, and where things are in them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from vlm_probe.errors import VlmProbeError
from vlm_probe.inputs.images import ImageLike, open_image
from vlm_probe.inputs.prompts import EncodedPrompt, encode_prompt
from vlm_probe.layout import ImageTransform, TokenLayout, lay_out

if TYPE_CHECKING:
    from vlm_probe.hooked.model import HookedVLM


@dataclass
class ModelInputs:
    """A batch, ready for `model(inputs)`, with one layout an example."""

    input_ids: Int[Tensor, "batch position"]
    """Image tokens expanded: one placeholder a patch. Padded on the left."""
    attention_mask: Int[Tensor, "batch position"]
    pixel_values: Float[Tensor, "image channel height width"] | None
    """All images of the batch in order; None without images."""
    layouts: list[TokenLayout]
    images: list[list[Image.Image]] = field(default_factory=list)
    """The original images of every example; empty for tensors made elsewhere."""
    prompts: list[str] = field(default_factory=list)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Keyword arguments for the model."""
        given = {"input_ids": self.input_ids, "attention_mask": self.attention_mask}
        if self.pixel_values is not None:
            given["pixel_values"] = self.pixel_values
        return given

    @property
    def layout(self) -> TokenLayout:
        """The layout of a batch of one."""
        if len(self.layouts) != 1:
            raise VlmProbeError(f"this batch has {len(self.layouts)} layouts; use inputs.layouts[i]")
        return self.layouts[0]

    def __len__(self) -> int:
        return len(self.layouts)

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
        )


def grid_of(model: HookedVLM, pixel_values: Tensor) -> tuple[tuple[int, int], int]:
    """((rows, columns), tokens per image) that the encoder and the model's selection make of pixels."""
    config = model.hf.config
    patch = config.vision_config.patch_size
    rows, columns = pixel_values.shape[-2] // patch, pixel_values.shape[-1] // patch
    before = 1 + getattr(config.vision_config, "num_register_tokens", 0)
    dropped = 1 if config.vision_feature_select_strategy == "default" else 0
    return (rows, columns), rows * columns + before - dropped


def prepare_tensors(
    model: HookedVLM,
    input_ids: Int[Tensor, "batch position"],
    pixel_values: Float[Tensor, "image channel height width"] | None,
    attention_mask: Int[Tensor, "batch position"] | None,
) -> ModelInputs:
    """See `HookedVLM.prepare_tensors`."""
    if attention_mask is None:
        attention_mask = torch.ones_like(input_ids)
    if attention_mask.shape != input_ids.shape:
        raise VlmProbeError(f"attention_mask has shape {list(attention_mask.shape)}, input_ids {list(input_ids.shape)}")
    image_token = model.image_token_id
    count = 0 if pixel_values is None else len(pixel_values)
    layouts = []
    grid, each = ((0, 0), 1) if pixel_values is None else grid_of(model, pixel_values)
    for ids, mask in zip(input_ids.cpu().numpy(), attention_mask.cpu().numpy(), strict=True):
        own = int(((ids == image_token) & (mask > 0)).sum()) // each if count else 0
        layouts.append(
            lay_out(
                ids, mask, image_token_id=image_token, grids=[grid] * own, tokens_per_image=[each] * own,
                transforms=[None] * own, tokens=model.token_strings(ids),
            )
        )  # fmt: skip
    used = sum(len(layout.images) for layout in layouts)
    if used != count:
        raise VlmProbeError(
            f"pixel_values holds {count} images, input_ids has placeholders for {used} (of {each} tokens each)"
        )
    device = model.device
    pixels = None if pixel_values is None else pixel_values.to(device, model.dtype)
    return ModelInputs(input_ids.to(device), attention_mask.to(device), pixels, layouts)


def see(model: HookedVLM, picture: Image.Image) -> tuple[Tensor, ImageTransform, tuple[int, int], int]:
    """An image as the encoder takes it: pixels, how they were made, patch grid, tokens in the prompt."""
    assert model.preparer is not None
    tensor, transform = model.preparer(picture)
    return tensor, transform, *grid_of(model, tensor)


def expand(prompt: EncodedPrompt, image_token_id: int, counts: list[int]) -> tuple[list[int], list[int]]:
    """Token ids with every image placeholder repeated, and the positions of the question in them."""
    ids: list[int] = []
    asked: list[int] = []
    left = iter(counts)
    question = set(prompt.question)
    for i, token in enumerate(prompt.ids):
        if i in question:
            asked.append(len(ids))
        ids += [token] * next(left) if token == image_token_id else [token]
    return ids, asked


def prepare(
    model: HookedVLM,
    image: ImageLike | list[ImageLike] | list[ImageLike | None] | list[list[ImageLike]] | None,
    question: str | list[str],
) -> ModelInputs:
    """See `HookedVLM.prepare`."""
    if model.tokenizer is None:
        raise VlmProbeError(f"{model.name} has no tokenizer, so a question cannot be prepared; use prepare_tensors")
    shown = any(one is not None for one in image) if isinstance(image, list) else image is not None
    if model.vision_config is None and shown:
        raise VlmProbeError(f"{model.name} is a language model without an encoder: ask without an image (image=None)")
    if model.preparer is None and shown:
        raise VlmProbeError(
            f"{model.name} has no image processor (preprocessor_config.json), so an image cannot be "
            "prepared; use prepare_tensors"
        )
    if isinstance(question, str):
        questions, per_example = [question], [image]
    else:
        questions = question
        per_example = list(image) if isinstance(image, list) else [image] * len(questions)
    if len(questions) != len(per_example):
        raise VlmProbeError(f"{len(per_example)} images for {len(questions)} questions; lists must pair up")
    pictures = []
    for one in per_example:
        several: list[Any] = one if isinstance(one, list) else [one]
        pictures.append([open_image(each) for each in several if each is not None])
    token_id = model.image_token_id
    pixels: list[Tensor] = []
    rows: list[list[int]] = []
    pieces: list[tuple[list[tuple[int, int]], list[int], list[ImageTransform | None], list[int], str]] = []
    for text, own in zip(questions, pictures, strict=True):
        seen = [see(model, picture) for picture in own]
        grids, counts = [grid for _, _, grid, _ in seen], [each for *_, each in seen]
        prompt = encode_prompt(model.tokenizer, model.prompt, text, images=len(own), image_token_id=token_id)
        ids, asked = expand(prompt, token_id, counts)
        pixels += [tensor for tensor, *_ in seen]
        rows.append(ids)
        pieces.append((grids, counts, [transform for _, transform, *_ in seen], asked, prompt.text))
    length = max(map(len, rows))
    pad = model.tokenizer.pad_token_id
    pad = 0 if pad is None else pad
    input_ids = torch.tensor([[pad] * (length - len(r)) + r for r in rows])
    attention_mask = torch.tensor([[0] * (length - len(r)) + [1] * len(r) for r in rows])
    if len({p.shape for p in pixels}) > 1:
        sizes = sorted({(p.shape[-1], p.shape[-2]) for p in pixels})
        raise VlmProbeError(f"images of one batch must come out alike, got {sizes}; prepare them one by one")
    layouts = [
        lay_out(
            ids.numpy(), mask.numpy(), image_token_id=token_id, grids=grids, tokens_per_image=counts,
            transforms=transforms, patch_size=getattr(model.vision_config, "patch_size", None),
            question_positions=np.asarray(asked) + length - len(row),
            tokens=model.token_strings(ids.numpy()),
        )
        for ids, mask, row, (grids, counts, transforms, asked, _) in zip(
            input_ids, attention_mask, rows, pieces, strict=True
        )
    ]  # fmt: skip
    device = model.device
    stacked = torch.stack(pixels).to(device, model.dtype) if pixels else None
    return ModelInputs(
        input_ids.to(device), attention_mask.to(device), stacked, layouts, pictures, [p[-1] for p in pieces]
    )
