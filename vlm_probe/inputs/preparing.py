"""From pictures and questions to what a model is run on: tensors, and where things are in them."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from vlm_probe.errors import VlmProbeError, VlmProbeWarning
from vlm_probe.inputs.images import ImageLike, ImagePreparer, open_image
from vlm_probe.inputs.model_inputs import ModelInputs, Seen
from vlm_probe.inputs.prompts import IMAGE, EncodedPrompt, encode_prompt, token_text
from vlm_probe.inputs.token_types import TokenTypes
from vlm_probe.layout import lay_out
from vlm_probe.layout.patch_grid import PatchGrid
from vlm_probe.layout.tiling import Tiling


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


@dataclass(frozen=True)
class Preparer:
    """All that turning pictures and questions into inputs takes; it knows no model.

    Everything it makes is on the CPU, pixels in float32.
    """

    name: str
    """Of the model it prepares for, for messages."""
    tokenizer: Any
    images: ImagePreparer | None
    prompt: str
    """Template with {bos}, {images} and {question}."""
    image_token_id: int
    """The placeholder; -1 for a language model without an encoder."""
    patches: PatchGrid | None
    """None for a language model without an encoder."""
    context: int | None = None
    """How many positions the language model was made for, where that is known."""
    types: TokenTypes | None = None
    """Where positions of a prompt look both ways; None where each sees what stands before it."""
    image_text: str = IMAGE
    """What stands for one image in a prompt's text, `<image>` for its positions in it."""

    def __post_init__(self) -> None:
        for name in ("{question}",) if self.patches is None else ("{images}", "{question}"):
            if self.prompt.count(name) != 1:
                raise VlmProbeError(f"a prompt must hold {name} once, got {self.prompt!r}")
        for name in re.findall(r"\{\w+\}", self.prompt):
            if name not in ("{bos}", "{images}", "{question}"):
                raise VlmProbeError(f"a prompt has {{bos}}, {{images}} and {{question}}, no {name}: {self.prompt!r}")
        # Questions about one image share its work: what stands before them must be the same.
        if self.patches is not None and self.prompt.index("{question}") < self.prompt.index("{images}"):
            raise VlmProbeError(f"a prompt must hold {{images}} before {{question}}, got {self.prompt!r}")

    @property
    def shares_images(self) -> bool:
        """Whether what is made of an image does not depend on the question behind it, so that questions share it."""
        return self.types is None or self.types.together == "image"

    def see(self, picture: Image.Image) -> Seen:
        """A picture as the encoder takes it; VlmProbeError without an encoder or image processor."""
        patches, images = self._sight()
        made, transform = images(picture)
        pixels, tiles = (made, None) if made.ndim == 3 else (made[0], made[1:])
        cut = None if tiles is None else patches.tiling(picture.size)
        return Seen(pixels, transform, patches.of(pixels), patches.tokens(pixels), cut, tiles)

    def see_all(self, picture: Image.Image) -> list[Seen]:
        """A picture, and behind it the crops that pan and scan shows of it, each an image of the prompt."""
        found, (_, images) = [self.see(picture)], self._sight()
        for box in images.crops(picture):
            part = self.see(picture.crop(box))
            (sx, sy), (x, y) = part.transform.scale, part.transform.offset
            moved = replace(part.transform, original=picture.size, offset=(x - box[0] * sx, y - box[1] * sy))
            found.append(replace(part, transform=moved))
        return found

    def _sight(self) -> tuple[PatchGrid, ImagePreparer]:
        if self.patches is None:
            raise VlmProbeError(
                f"{self.name} is a language model without an encoder: ask without an image (image=None)"
            )
        if self.images is None:
            raise VlmProbeError(
                f"{self.name} has no image processor (preprocessor_config.json), so an image cannot be "
                "prepared; use prepare_tensors"
            )
        return self.patches, self.images

    def _check_words(self) -> None:
        if self.tokenizer is None:
            raise VlmProbeError(f"{self.name} has no tokenizer, so a question cannot be prepared; use prepare_tensors")

    def encode(
        self, question: str, counts: list[int], *, answer: str = "", views: list[int] | None = None
    ) -> tuple[list[int], list[int], str]:
        """A prompt's ids with images of so many positions, where the question is in them, and the prompt's text.

        views: how many of the images are of each picture, where one may be shown in crops too.

        Warns (VlmProbeWarning) of a prompt that is longer than the model was made for. Raises VlmProbeError without a
        tokenizer, and for a question that is no text, is empty or spells a special token.
        """
        self._check_words()
        if not isinstance(question, str):
            raise VlmProbeError(f"a question must be text, got a {type(question).__name__}")
        prompt = encode_prompt(
            self.tokenizer,
            self.prompt,
            question,
            images="".join(self._shown(n) for n in ([1] * len(counts) if views is None else views)),
            image_token_id=self.image_token_id,
            answer=answer,
        )
        ids, asked = expand(prompt, self.image_token_id, counts)
        if self.context is not None and len(ids) > self.context:
            warnings.warn(
                f"a prompt of {len(ids)} positions is longer than {self.name} was made for ({self.context})",
                VlmProbeWarning,
                stacklevel=3,
            )
        return ids, asked, prompt.text

    def _shown(self, views: int) -> str:
        """What stands for one picture in a prompt's text; Gemma 3's words where it is shown in crops too."""
        own, crops = self.image_text, " ".join([self.image_text] * (views - 1))
        if not crops:
            return own
        return f"Here is the original image {own} and here are some crops to help you see better {crops}"

    def token_strings(self, ids: Int[np.ndarray, " position"] | list[int]) -> tuple[str, ...]:
        """Tokens as readable text, or nothing without a tokenizer."""
        if self.tokenizer is None:
            return ()
        numbers = [int(i) for i in ids]
        texts = {i: token_text(self.tokenizer, i) for i in set(numbers)}  # an image is one token many times
        return tuple(texts[i] for i in numbers)

    @property
    def _geometry(self) -> dict[str, Any]:
        """What `lay_out` needs to know of the encoder."""
        names = ("leading", "pooled", "more_leading")
        return {} if self.patches is None else {name: getattr(self.patches, name) for name in names}

    def prepare_tensors(
        self,
        input_ids: Int[Tensor, "batch position"],
        pixel_values: Float[Tensor, "image channel height width"] | None,
        attention_mask: Int[Tensor, "batch position"] | None,
        image_sizes: Int[Tensor, "picture two"] | None = None,
    ) -> ModelInputs:
        """Layouts for tensors made elsewhere (image tokens expanded).

        image_sizes: height and width of every image before it was cut into tiles, where images are.

        Raises VlmProbeError where placeholders and images do not add up, and for missing sizes.
        """
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        if attention_mask.shape != input_ids.shape:
            raise VlmProbeError(
                f"attention_mask has shape {list(attention_mask.shape)}, input_ids {list(input_ids.shape)}"
            )
        grid, each, cut = (0, 0), 1, list[Tiling | None]()
        if pixel_values is not None and self.patches is not None:
            grid, each = self.patches.of(pixel_values), self.patches.tokens(pixel_values)
            cut = self._cuts(pixel_values, image_sizes)
            channels = 3 * (1 + len(self.patches.more_leading))
            if pixel_values.shape[1] != channels:
                raise VlmProbeError(f"{self.name} takes images of {channels} channels, got {pixel_values.shape[1]}")
        takes = [each + (0 if one is None else one.positions) for one in cut]
        # Before they are laid out: 15 of 16 would come out as no image at all.
        placed = int(((input_ids == self.image_token_id) & (attention_mask > 0)).sum())
        if placed != sum(takes):
            raise VlmProbeError(
                f"input_ids holds {placed} image tokens ({self.image_token_id}); pixel_values holds {len(takes)} "
                f"images of {each} each, which take {sum(takes)}"
            )
        layouts, left = [], list(zip(takes, cut, strict=True))
        for ids, mask in zip(input_ids.cpu().numpy(), attention_mask.cpu().numpy(), strict=True):
            here, own = int(((ids == self.image_token_id) & (mask > 0)).sum()), list[Tiling | None]()
            while left and here > 0:
                took, tiled = left.pop(0)
                here -= took
                own.append(tiled)
            layouts.append(
                lay_out(
                    ids,
                    mask,
                    image_token_id=self.image_token_id,
                    grids=[grid] * len(own),
                    tokens_per_image=[each] * len(own),
                    transforms=[None] * len(own),
                    tilings=own,
                    tokens=self.token_strings(ids),
                    **self._geometry,
                )
            )
        return ModelInputs(input_ids, attention_mask, pixel_values, layouts, types=self.types, image_sizes=image_sizes)

    def _cuts(self, pixels: Tensor, sizes: Tensor | None) -> list[Tiling | None]:
        """How each image of a batch is cut: by its size before."""
        patches = self.patches
        if patches is None or not patches.resolutions:
            return [None] * len(pixels)
        if sizes is None:
            raise VlmProbeError(f"{self.name} cuts images into tiles: give the images' sizes (image_sizes) too")
        found = [patches.tiling((int(width), int(height))) for height, width in sizes]
        held = sum(1 + one.tiles[0] * one.tiles[1] for one in found if one is not None)
        if held != len(pixels):
            raise VlmProbeError(f"images of these sizes are {held} pictures and tiles; there are {len(pixels)}")
        return found

    def prepare(
        self,
        image: ImageLike | list[ImageLike] | list[ImageLike | None] | list[list[ImageLike]] | None,
        question: str | list[str],
    ) -> ModelInputs:
        """Tensors and layouts of one example, or of a left-padded batch for a list of questions.

        Raises VlmProbeError as `see` and `encode` do, for images and questions that do not pair up, and for images
        of one batch that come out of the processor in different sizes.
        """
        self._check_words()
        questions, given = _paired(image, question)
        if any(given):
            self._sight()  # said before a picture is opened
        pictures = [[open_image(one) for one in own] for own in given]
        each = [[self.see_all(picture) for picture in own] for own in pictures]
        seen = [[one for views in own for one in views] for own in each]
        encoded = [
            self.encode(q, [one.tokens for one in own], views=[len(views) for views in views_of])
            for q, own, views_of in zip(questions, seen, each, strict=True)
        ]
        length = max(len(ids) for ids, *_ in encoded)
        pad = self.tokenizer.pad_token_id
        pad = 0 if pad is None else pad
        input_ids = torch.tensor([[pad] * (length - len(ids)) + ids for ids, *_ in encoded])
        attention_mask = torch.tensor([[0] * (length - len(ids)) + [1] * len(ids) for ids, *_ in encoded])
        pixels = [one.shown for own in seen for one in own]
        if len({p.shape[1:] for p in pixels}) > 1:
            sizes = sorted({(p.shape[-1], p.shape[-2]) for p in pixels})
            raise VlmProbeError(f"images of one batch must come out alike, got {sizes}; prepare them one by one")
        layouts = [
            lay_out(
                row.numpy(),
                mask.numpy(),
                image_token_id=self.image_token_id,
                grids=[one.grid for one in own],
                tokens_per_image=[one.whole for one in own],
                tilings=[one.tiling for one in own],
                crops=[number > 0 for views in views_of for number in range(len(views))],
                transforms=[one.transform for one in own],
                patch_size=None if self.patches is None else self.patches.patch_size,
                **self._geometry,
                question_positions=np.asarray(asked) + length - len(ids),
                tokens=self.token_strings(row.numpy()),
            )
            for row, mask, own, views_of, (ids, asked, _) in zip(
                input_ids, attention_mask, seen, each, encoded, strict=True
            )
        ]
        stacked = torch.cat(pixels) if pixels else None
        sizes = [one.transform.original[::-1] for own in seen for one in own if one.tiling is not None]
        texts = [text for *_, text in encoded]
        return ModelInputs(
            input_ids,
            attention_mask,
            stacked,
            layouts,
            pictures,
            texts,
            types=self.types,
            image_sizes=torch.tensor(sizes) if sizes else None,
        )


def _paired(image: Any, question: str | list[str]) -> tuple[list[str], list[list[ImageLike]]]:
    """Questions, and the images of each."""
    if not isinstance(question, str | list | tuple):
        raise VlmProbeError(f"a question must be text, or a list of texts, got a {type(question).__name__}")
    if isinstance(question, str):
        questions, per_example = [question], [image]
    else:
        questions = question
        per_example = list(image) if isinstance(image, list) else [image] * len(questions)
    if len(questions) != len(per_example):
        raise VlmProbeError(f"{len(per_example)} images for {len(questions)} questions; lists must pair up")
    several = [one if isinstance(one, list) else [one] for one in per_example]
    return questions, [[each for each in own if each is not None] for own in several]
