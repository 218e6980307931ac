"""The vocabulary's rows nearest to what stands at image positions: does the connector speak in words?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vlm_probe.errors import VlmProbeError
from vlm_probe.hooked import HookedVLM
from vlm_probe.hooked.anatomy import embedding
from vlm_probe.trace import Trace

BLOCK = 8192
"""Vocabulary rows that are compared at a time: what bounds the memory."""


@dataclass(frozen=True)
class Nearest:
    """The nearest rows of a table to each of some vectors."""

    ids: Int[Tensor, "vector k"]
    scores: Float[Tensor, "vector k"]
    """Cosine, larger is nearer; or Euclidean distance, smaller is nearer."""


@torch.no_grad()
def nearest_rows(
    vectors: Float[Tensor, "vector feature"],
    table: Float[Tensor, "row feature"],
    *,
    k: int = 5,
    metric: Literal["cosine", "euclidean"] = "cosine",
    keep: Bool[Tensor, " row"] | None = None,
    scale: float = 1.0,
    block: int = BLOCK,
) -> Nearest:
    """The `k` nearest rows of a table to every vector, streamed over the table's rows.

    keep: rows that count; all if None. scale: a factor on the table's rows (Euclidean only).

    Never holds more than [vector, block] comparisons, in float32 whatever the table's dtype.

    Raises VlmProbeError where fewer than `k` rows count.
    """
    count = len(table) if keep is None else int(keep.sum())
    if not 1 <= k <= count:
        raise VlmProbeError(f"k must be between 1 and the {count} rows that count, got {k}")
    v = vectors.float()
    if metric == "cosine":
        v = v / v.norm(dim=1, keepdim=True).clamp(min=1e-12)
    best = torch.full((len(v), k), -torch.inf, device=v.device)
    ids = torch.zeros(len(v), k, dtype=torch.long, device=v.device)
    for start in range(0, len(table), block):
        rows = table[start : start + block].float().to(v.device)
        if metric == "cosine":
            score = v @ (rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-12)).T
        else:
            score = -torch.cdist(v, rows * scale)
        if keep is not None:
            score.masked_fill_(~keep[start : start + block].to(v.device), -torch.inf)
        both = torch.cat([best, score], dim=1)
        best, at = both.topk(k, dim=1)
        new = torch.arange(start, start + len(rows), device=v.device).expand(len(v), -1)
        ids = torch.cat([ids, new], dim=1).gather(1, at)
    return Nearest(ids, best if metric == "cosine" else -best)


def random_frame(width: int, rank: int, generator: torch.Generator) -> Float[Tensor, "rank width"]:
    """Orthonormal rows, drawn so that no direction is preferred; of full rank, a random rotation (or reflection).

    By QR of Gaussian numbers, the signs put right (Mezzadri 2007, arXiv:math-ph/0609050, section 5).
    """
    return _random_frames(1, width, rank, generator)[0]


def _random_frames(
    count: int, width: int, rank: int, generator: torch.Generator
) -> Float[Tensor, "{count} {rank} {width}"]:
    """As many `random_frame`s, the same as one by one."""
    drawn = [torch.randn(width, rank, dtype=torch.float64, generator=generator) for _ in range(count)]
    q, r = torch.linalg.qr(torch.stack(drawn))
    return (q * r.diagonal(dim1=1, dim2=2).sign()[:, None]).mT.float()


@torch.no_grad()
def cosines_when_turned(
    vectors: Float[Tensor, "vector feature"],
    table: Float[Tensor, "row feature"],
    *,
    draws: int,
    keep: Bool[Tensor, " row"] | None = None,
    seed: int = 0,
) -> Float[Tensor, "draw vector"]:
    """The cosine of every vector to its nearest row, after all deviations from their mean were turned at random.

    What nearness comes to where the vectors keep their mean, their lengths around it and all angles between them, and
    have nothing to do with the table's rows but for the mean. The mean stays because that alone is near to rows that
    share a direction, as embedding rows do: a constant would seem to speak in words. Where the deviations' orientation
    is as likely as any other, the real mean cosine is one more draw: its rank among these is uniform, exactly.

    Some 4096 vectors are turned at a time, as many as `nearest_rows` takes well.
    """
    generator, turn = torch.Generator().manual_seed(seed), _turner(vectors)
    together = max(1, 4096 // len(vectors))
    found = []
    for start in range(0, draws, together):
        count = min(together, draws - start)
        turned = turn(count, generator).to(vectors.device)
        found.append(nearest_rows(turned, table, k=1, keep=keep).scores.view(count, -1).cpu())
    return torch.cat(found)


def _turner(vectors: Float[Tensor, "vector feature"]) -> Callable[[int, torch.Generator], Float[Tensor, "row feature"]]:
    """Gives the vectors as often as is asked, one below the other, their deviations turned at random each time."""
    x = vectors.double().cpu()
    mean = x.mean(0)
    u, s, _ = torch.linalg.svd(x - mean, full_matrices=False)
    around = u * s  # the deviations, in axes of their own, of which a random frame makes directions

    def turn(count: int, generator: torch.Generator) -> Tensor:
        frames = _random_frames(count, x.shape[1], around.shape[1], generator).double()
        return torch.cat([mean + around @ frame for frame in frames])

    return turn


@torch.no_grad()
def turned_at_random(vectors: Float[Tensor, "vector feature"], *, seed: int = 0) -> Float[Tensor, "vector feature"]:
    """The vectors of the first draw of `cosines_when_turned`."""
    return _turner(vectors)(1, torch.Generator().manual_seed(seed)).to(vectors.device)


@torch.no_grad()
def rebuilt(
    vectors: Float[Tensor, "vector feature"], rows: Float[Tensor, "vector k feature"]
) -> Float[Tensor, "vector feature"]:
    """Every vector as the sum of its own `k` rows, weighted so that what is left is least (least squares).

    Factors on vectors and rows change nothing but the vectors' own. Rows that depend on each other do no harm.
    """
    basis = rows.double()
    products = basis @ basis.mT
    along = (basis @ vectors.double()[:, :, None])[..., 0]
    weights = torch.linalg.pinv(products, rtol=1e-10, hermitian=True) @ along[..., None]
    return (basis * weights).sum(1).to(vectors.dtype)


def used_rows(model: HookedVLM) -> Bool[Tensor, " row"]:
    """The embedding rows that stand for a token: not those behind the tokenizer's last id (padding to a
    round number), and not those that are zero. Without a tokenizer only the latter rule holds.
    """
    used = embedding(model).float().abs().amax(dim=1) > 0
    if model.tokenizer is not None:
        used[len(model.tokenizer) :] = False
    return used


@torch.no_grad()
def nearest_tokens(
    model: HookedVLM,
    trace: Trace,
    *,
    point: str = "connector.hook_out",
    k: int = 5,
    metric: Literal["cosine", "euclidean"] = "cosine",
) -> pd.DataFrame:
    """For every patch of an image, the vocabulary rows nearest to what stands there.

    Of a picture that is also shown in tiles or crops: the whole.

    Parameters
    ----------
    trace: holds `point`: "connector.hook_out", or a language point of the model's width
        ("language.blocks.3.hook_resid_post").
    metric: cosine, or Euclidean distance at the scale at which block 0 receives both (the connector's
        rows times the embedding scale, token rows times theirs).

    Returns
    -------
    One row a patch and rank: columns image, row, col, rank, token_id, token, score, and the patch's edges on the
    original image in pixels (left, top, right, bottom; NaN where it is not known); `attrs` carry point, metric and
    provenance. Padding rows are left out (`used_rows`).

    Raises
    ------
    VlmProbeError: a point that is not in the trace, or not of the language model's width.
    """
    rows = trace[point]
    table = embedding(model)
    if rows.ndim != 3 or rows.shape[-1] != table.shape[1]:
        raise VlmProbeError(
            f"{point} has shape {list(rows.shape)}, token rows have {table.shape[1]} features: name one of that width"
        )
    spans = trace.layout.pictures
    at = [torch.as_tensor(span.rows_at(point), device=rows.device) for span in spans]
    if point.startswith("language."):
        vectors = rows[0, torch.cat(at)]
    else:
        vectors = torch.cat([rows[s.row, own] for s, own in zip(spans, at, strict=True)]) * trace.image_scale
    found = nearest_rows(vectors, table, k=k, metric=metric, keep=used_rows(model), scale=model.token_scale)
    ids, scores = found.ids.tolist(), found.scores.tolist()
    records, patch = [], 0
    for image, span in enumerate(spans):
        for row in range(span.grid[0]):
            for col in range(span.grid[1]):
                words = model.token_strings(ids[patch]) or tuple(f"<{i}>" for i in ids[patch])
                edges = (float("nan"),) * 4 if span.transform is None else span.patch_to_box(row, col)
                records += [
                    (image, row, col, rank, ids[patch][rank], words[rank], scores[patch][rank], *edges)
                    for rank in range(k)
                ]
                patch += 1
    columns = ["image", "row", "col", "rank", "token_id", "token", "score", "left", "top", "right", "bottom"]
    nearest = pd.DataFrame(records, columns=columns)
    nearest.attrs = {"title": f"nearest tokens at {point}", "units": metric, "point": point, **trace.provenance}
    return nearest
