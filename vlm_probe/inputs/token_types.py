"""`token_type_ids`: how prompts say which positions look both ways, where transformers makes masks from that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor


@dataclass(frozen=True)
class TokenTypes:
    """The numbers of a class whose language model does not read from left to right alone."""

    together: Literal["prompt", "image"]
    """What sees all of itself: the whole prompt (PaliGemma), or every image of it (Gemma 3)."""
    text: int
    image: int
    answer: int
    """Of what stands behind the prompt, and is read from left to right."""

    def blocks(self, types: Int[Tensor, " position"]) -> Int[Tensor, " position"]:
        """Numbers of what sees all of itself in a prompt of these types, -1 elsewhere."""
        if self.together == "prompt":
            return torch.where(types == self.answer, -1, 0)
        inside = types == self.image
        begins = inside & ~inside.roll(1).index_fill(0, torch.zeros(1, dtype=torch.long, device=types.device), False)
        return torch.where(inside, begins.cumsum(0) - 1, -1)

    def of(self, is_image: Bool[Tensor, "batch position"], answered: int = 0) -> Int[Tensor, "batch position"]:
        """Of prompts with images at these positions, and behind them so many of an answer."""
        types = torch.where(is_image, self.image, self.text)
        types[:, types.shape[1] - answered :] = self.answer
        return types
