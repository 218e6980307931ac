"""Attention for training: float32 inside bfloat16, and over packed rows only where they look.

A packed row is a prefix and segments; a segment sees the prefix and itself. Over whole rows with a mask, most of what
attention computes is thrown away: a block of queries needs the prefix and the few segments around it.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

FLOAT32_ATTENTION = "vlm_probe_float32"
"""Name under which transformers knows the function.

The flash kernel of CPUs takes 2.3 times as long backward in bfloat16 as in float32 at the sizes of the replicas (32 x 8
heads x 212 positions x 16)."""

PIECE, BLOCK = 16, 2
"""On CPU: positions in a piece, which is seen or left out as a whole, and pieces in a block of queries. Pieces of 8 and
blocks of 16 to 64 positions were no faster at the sizes of the replicas."""


@dataclass(frozen=True)
class _Block:
    """Queries of neighbouring positions, and the pieces they look at: the prefix's, then those from `near` on."""

    far: int
    near: int
    end: int
    mask: Bool[Tensor, "batch 1 query key"]


@dataclass(frozen=True)
class Segments:
    """How the positions of packed rows are cut for attention."""

    queries: list[int]
    """Lengths of the blocks of queries."""
    pieces: list[int]
    """Lengths of the pieces of keys."""
    blocks: list[_Block]

    @staticmethod
    def of(segment: Int[Tensor, "batch position"], device: torch.device) -> Segments:
        """segment: 0 in a row's prefix, a segment's number in it, -1 where the row is padded; on CPU.

        device: where the attention will be.
        """
        length = segment.shape[1]
        prefix = int((segment == 0).sum(1).max())
        position = torch.arange(length)
        begins = segment != F.pad(segment, (1, 0), value=-2)[:, :-1]
        # What pads a row must not make a block look far back.
        start = torch.where(segment < 0, position, torch.where(begins, position, 0).cummax(1).values)
        # On a GPU calls cost more than scores: the prefix is one block, and all the rest another.
        piece = PIECE if device.type == "cpu" else length
        edges = [*range(0, prefix, piece), *range(prefix, length, piece), length]
        heads = len(range(0, prefix, piece))
        blocks, queries = [], []
        for first, last in ((0, heads), (heads, len(edges) - 1)):
            for i in range(first, last, BLOCK):
                end = min(i + BLOCK, last)
                asking = slice(edges[i], edges[end])
                far, near = min(end, heads), max(heads, bisect_right(edges, int(start[:, edges[i]].min())) - 1)
                seen = torch.cat([position[: edges[far]], position[edges[near] : edges[end]]])
                own = (segment[:, asking, None] == segment[:, None, seen]) | (segment[:, None, seen] == 0)
                mask = own & (seen <= position[asking, None])
                blocks.append(_Block(far, near, end, mask[:, None].to(device)))
                queries.append(edges[end] - edges[i])
        return Segments(queries, [end - start for start, end in pairwise(edges)], blocks)


def _over_segments(
    query: Float[Tensor, "batch head position d_head"],
    key: Float[Tensor, "batch kv_head position d_head"],
    value: Float[Tensor, "batch kv_head position d_head"],
    segments: Segments,
    scale: float | None,
) -> Float[Tensor, "batch position head d_head"]:
    """Split rather than sliced: the gradient of many slices is many tensors of the whole's size."""
    keys, values = key.split(segments.pieces, dim=2), value.split(segments.pieces, dim=2)
    mixed = []
    for asking, block in zip(query.split(segments.queries, dim=2), segments.blocks, strict=True):
        k, v = (torch.cat([*x[: block.far], *x[block.near : block.end]], dim=2) for x in (keys, values))
        z = F.scaled_dot_product_attention(asking, k, v, block.mask, scale=scale, enable_gqa=True)
        mixed.append(z.transpose(1, 2))
    return torch.cat(mixed, dim=1)


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    segments: Segments | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """transformers' interface; with `segments`, which a model hands on from its own call, there is no mask."""
    with torch.autocast(query.device.type, enabled=False):
        q, k, v = query.float(), key.float(), value.float()
        if segments is None:
            z, _ = sdpa_attention_forward(module, q, k, v, attention_mask, **kwargs)
        else:
            z = _over_segments(q, k, v, segments, kwargs.get("scaling"))
    return z.to(query.dtype), None


AttentionInterface.register(FLOAT32_ATTENTION, _attention)
AttentionMaskInterface.register(FLOAT32_ATTENTION, sdpa_mask)
