"""Attention rollout (Abnar and Zuidema 2020, arXiv:2005.00928).

Equation 1 there: A~(l) = A(l) A~(l-1), with A = 0.5 W + 0.5 I (residual connections), rows summing
to one and W the mean over heads. Only the asked row is multiplied through, O(layers x n^2).
"""

from __future__ import annotations

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from vlm_probe.attention.maps import Query, query_positions
from vlm_probe.errors import VlmProbeError
from vlm_probe.trace import Trace


def roll(
    start: Float[Tensor, " position"], patterns: Float[Tensor, "layer head query key"]
) -> Float[Tensor, " position"]:
    """The start row times A(L) ... A(1): where each position's share came from at the input."""
    row = start
    for pattern in patterns.flip(0):
        row = 0.5 * row + 0.5 * (row @ pattern.mean(dim=0))
    return row


def rollout(
    trace: Trace,
    part: str = "language",
    query: Query | None = None,
    *,
    image: int = 0,
) -> xr.DataArray:
    """Rollout from a query to the patches of an image.

    Parameters
    ----------
    trace: holds `hook_pattern` of every layer of the part.
    part: "language", or "vision" for the encoder (all its layers that the connector reads).
    query: for the language model "answer" (the default), "question" or positions; for the encoder
        "mean" over the patches (the default, since those are what the connector reads) or "cls".

    Returns
    -------
    DataArray(row, col): the share of the query that stems from each patch, 0 to 1.
    """
    span = trace.layout.image(image)
    if part == "language":
        patterns = trace.stack("language", "attn.hook_pattern")[:, 0].float().cpu()
        positions = query_positions(trace, "answer" if query is None else query)
    elif part.startswith("vision"):
        # Of several encoders as many of the last layers are left out as of the first.
        behind = trace.depth[next(iter(trace.depth))] - trace.vision_layers_read
        read = trace.depth.get(part, 0) - behind
        patterns = trace.stack(part, "attn.hook_pattern", first=read)[:, span.row].float().cpu()
        if query not in (None, "mean", "cls"):
            raise VlmProbeError(f"the encoder's query must be 'cls' or 'mean', got {query!r}")
        span = span.in_encoder(part)
        if query == "cls" and span.leading == 0:
            raise VlmProbeError("this encoder has no CLS token; ask for the mean over its patches")
        positions = [0] if query == "cls" else span.positions.tolist()
    else:
        raise VlmProbeError(f"part must be 'language' or 'vision', got {part!r}")
    start = torch.zeros(patterns.shape[-1])
    start[positions] = 1.0 / len(positions)
    row = roll(start, patterns)
    patches = row[torch.as_tensor(span.positions)]
    return xr.DataArray(
        patches.unflatten(0, span.grid).numpy(),
        dims=("row", "col"),
        coords=span.edges(),
        name="rollout",
        attrs={
            "title": f"Attention rollout, {part}",
            "units": "share of the query",
            "method": "attention rollout, mean over heads, 0.5 A + 0.5 I",
            "citation": "Abnar and Zuidema 2020, arXiv:2005.00928",
            **trace.provenance,
        },
    )
