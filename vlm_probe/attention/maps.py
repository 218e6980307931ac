"""Attention maps over the image, and summaries of heads.

Raw attention is where a head looks, not why the model answers (Jain and Wallace 2019,
arXiv:1902.10186); `relevancy` asks the latter. Attention on sinks (`sinks`) is reported apart.
"""

from __future__ import annotations

import pandas as pd
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from vlm_probe.attention.patterns import PATTERN, method_attrs, stacked
from vlm_probe.attention.sinks import sink_positions
from vlm_probe.attention.sinks import sinks as sinks_of
from vlm_probe.errors import VlmProbeError
from vlm_probe.layout.groups import Where, positions_of
from vlm_probe.trace import Trace

Query = Where


def query_positions(trace: Trace, query: Query) -> list[int]:
    """Sequence positions a query names: "answer" (the last of the prompt), "question", another group, or positions.

    Raises VlmProbeError for what names no position here.
    """
    try:
        return positions_of(trace.layout, query).tolist()
    except VlmProbeError as error:
        raise VlmProbeError(f"query: {error}") from None


def image_attention(trace: Trace, query: Query = "answer", *, image: int = 0, tiles: bool = False) -> xr.DataArray:
    """Attention of the query's positions to every patch of an image.

    Parameters
    ----------
    trace: holds `language.blocks.*.attn.hook_pattern` for one layer or more.
    query: "answer" (the last prompt position), "question" (mean over its tokens), a word of the question ("star"),
        another group of positions (`layout.groups`), or positions.
    image: which image of the prompt. tiles: to its tiles (LLaVA-NeXT), not to the whole of it.

    Returns
    -------
    DataArray(layer, head, row, col): attention probability; what a row of attention gives to text is
    not in it, so it sums to the head's mass on the image.
    """
    span = trace.layout.image(image, tiles=tiles)
    rows = _rows(trace, query)
    on_image = rows[..., torch.as_tensor(span.positions)].unflatten(-1, span.grid)
    return xr.DataArray(
        on_image.numpy(),
        dims=("layer", "head", "row", "col"),
        coords={"layer": trace.layers("language", PATTERN), **span.edges()},
        name="attention",
        attrs=method_attrs(
            trace,
            f"Attention from {_name(query)} to the image",
            "attention probability",
            "Vaswani et al. 2017, arXiv:1706.03762",
            query=str(query),
        ),
    )


def _name(query: Query) -> str:
    known = {"answer": "the answer position", "question": "the question"}
    return known.get(str(query)) or (repr(query) if isinstance(query, str) else f"positions {query}")


def _rows(trace: Trace, query: Query) -> Float[Tensor, "layer head key"]:
    """Attention rows of a query, mean over its positions."""
    return stacked(trace, "language")[:, 0, :, query_positions(trace, query)].mean(dim=2)


def encoder_attention(trace: Trace, query: str = "cls", *, image: int = 0, part: str = "vision") -> xr.DataArray:
    """Attention inside the vision encoder, from its CLS token or as the mean over patch queries.

    part: of several encoders which one ("vision.0").

    Returns
    -------
    DataArray(layer, head, row, col): attention probability to every patch (CLS and registers are
    left out, so rows sum to less than one).
    """
    if query not in ("cls", "mean"):
        raise VlmProbeError(f"the encoder's query must be 'cls' or 'mean', got {query!r}")
    span = trace.layout.image(image).in_encoder(part)
    patterns = stacked(trace, part)[:, span.row]
    if query == "cls" and span.leading == 0:
        raise VlmProbeError("this encoder has no CLS token; ask for the mean over its patches")
    patches = torch.as_tensor(span.positions)
    rows = patterns[:, :, 0] if query == "cls" else patterns[:, :, patches].mean(dim=2)
    return xr.DataArray(
        rows[..., patches].unflatten(-1, span.grid).numpy(),
        dims=("layer", "head", "row", "col"),
        coords={"layer": trace.layers(part, PATTERN), **span.edges()},
        name="attention",
        attrs=method_attrs(
            trace,
            f"Encoder attention ({query} query)",
            "attention probability",
            "Dosovitskiy et al. 2021, arXiv:2010.11929",
            query=query,
        ),
    )


def head_summary(
    trace: Trace,
    query: Query = "answer",
    *,
    sinks: pd.DataFrame | None = None,
    sink_factor: float | int = 5.0,
) -> xr.Dataset:
    """What every head of the language model does from a query; the mean, where it has several positions.

    Parameters
    ----------
    trace: holds `language.blocks.*.attn.hook_pattern` for one layer or more.
    query: as in `image_attention`.
    sinks: what `attention.sinks` or `attention.find_sinks` found over many questions, about several images or this
        trace's own. None finds them in this trace: `attrs["sink_caveat"]` then says that it is one question only.
    sink_factor: of sinks that are found here.

    Returns
    -------
    Dataset over (layer, head):
    image_mass: attention probability on image patches.
    sink_mass: attention probability on that layer's sinks: before the question, wherever they are (see `sinks`).
    image_mass_without_sinks: on patches that are no sinks.
    entropy: of the attention row, in nats; log(n) if even.
    mean_distance: attention-weighted distance to what is attended, in positions.

    Raises VlmProbeError for a query that names no position, and for sinks of another model, of several images or of
    prompts of another form.
    """
    layout = trace.layout
    positions = query_positions(trace, query)
    rows = stacked(trace, "language")[:, 0, :, positions]
    found = sinks_of(trace, factor=sink_factor) if sinks is None else sinks
    models = (found.attrs.get("model"), trace.provenance.get("model"))
    if None not in models and models[0] != models[1]:
        raise VlmProbeError(f"these sinks are of {models[0]}, the trace is of {models[1]}")
    is_image = torch.zeros(layout.length)
    is_image[torch.as_tensor(layout.image_positions)] = 1.0
    layers = trace.layers("language", PATTERN)
    is_sink = torch.zeros(len(layers), 1, 1, layout.length)
    for i, layer in enumerate(layers):
        is_sink[i, 0, 0, sink_positions(found, layout, layer=layer)] = 1.0
    distance = (torch.arange(layout.length)[None] - torch.tensor(positions)[:, None]).abs()
    values = {
        "image_mass": (rows * is_image).sum(-1),
        "sink_mass": (rows * is_sink).sum(-1),
        "image_mass_without_sinks": (rows * is_image * (1 - is_sink)).sum(-1),
        "entropy": -torch.xlogy(rows, rows).sum(-1),
        "mean_distance": (rows * distance).sum(-1),
    }
    units = {"entropy": "nats", "mean_distance": "positions"}
    return xr.Dataset(
        {
            name: (("layer", "head"), v.mean(-1).numpy(), {"units": units.get(name, "attention probability")})
            for name, v in values.items()
        },
        coords={"layer": layers},
        attrs=method_attrs(
            trace,
            f"Heads, seen from {_name(query)}",
            "mixed",
            "Vaswani et al. 2017",
            sink_factor=found.attrs.get("factor", sink_factor),
            **({"sink_caveat": found.attrs["caveat"]} if "caveat" in found.attrs else {}),
        ),
    )


def encoder_distance(trace: Trace, *, image: int = 0, part: str = "vision") -> xr.DataArray:
    """Mean attention distance of every encoder head: how far, in patches, patches look for patches.

    Dosovitskiy et al. 2021 (arXiv:2010.11929), figure 7; deviation: attention among patches is
    renormalised first, since CLS and registers have no place.

    Returns DataArray(layer, head), in patch widths.
    """
    span = trace.layout.image(image).in_encoder(part)
    rows, columns = span.grid
    patches = slice(span.leading, span.leading + rows * columns)
    patterns = stacked(trace, part)[:, span.row, :, patches, patches]
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    places = torch.stack([y.flatten(), x.flatten()], dim=-1).float()
    distance = torch.cdist(places, places)
    weights = patterns / patterns.sum(-1, keepdim=True).clamp_min(1e-12)
    return xr.DataArray(
        (weights * distance).sum(-1).mean(-1).numpy(),
        dims=("layer", "head"),
        coords={"layer": trace.layers(part, PATTERN)},
        name="attention_distance",
        attrs=method_attrs(trace, "Mean attention distance", "patches", "Dosovitskiy et al. 2021, arXiv:2010.11929"),
    )
