"""Attention maps over the image, and summaries of heads.

Raw attention is where a head looks, not why the model answers (Jain and Wallace 2019,
arXiv:1902.10186); `relevancy` asks the latter. Attention sinks, positions that collect attention
whatever is asked (Xiao et al. 2024, arXiv:2309.17453), are named and reported apart.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from vlm_probe.errors import VlmProbeError
from vlm_probe.layout.groups import Where, positions_of
from vlm_probe.trace import Trace

Query = Where
_PATTERN = "attn.hook_pattern"


def query_positions(trace: Trace, query: Query) -> list[int]:
    """Sequence positions a query names: "answer" (the last of the prompt), "question", another group, or positions.

    Raises VlmProbeError for what names no position here.
    """
    try:
        return positions_of(trace.layout, query).tolist()
    except VlmProbeError as error:
        raise VlmProbeError(f"query: {error}") from None


def _attrs(trace: Trace, title: str, units: str, citation: str, **more: object) -> dict[str, object]:
    method = {"method": "attention probabilities, exact softmax rows"}
    return {"title": title, "units": units, **method, "citation": citation, **more, **trace.provenance}


def image_attention(trace: Trace, query: Query = "answer", *, image: int = 0) -> xr.DataArray:
    """Attention of the query's positions to every patch of an image.

    Parameters
    ----------
    trace: holds `language.blocks.*.attn.hook_pattern` for one layer or more.
    query: "answer" (the last prompt position), "question" (mean over its tokens), or positions.
    image: which image of the prompt.

    Returns
    -------
    DataArray(layer, head, row, col): attention probability; what a row of attention gives to text is
    not in it, so it sums to the head's mass on the image.
    """
    span = trace.layout.image(image)
    rows = _rows(trace, query)
    on_image = rows[..., torch.as_tensor(span.positions)].unflatten(-1, span.grid)
    return xr.DataArray(
        on_image.numpy(),
        dims=("layer", "head", "row", "col"),
        coords={"layer": trace.layers("language", _PATTERN), **span.edges()},
        name="attention",
        attrs=_attrs(
            trace,
            f"Attention from {_name(query)} to the image",
            "attention probability",
            "Vaswani et al. 2017, arXiv:1706.03762",
            query=str(query),
        ),
    )


def _name(query: Query) -> str:
    return {"answer": "the answer position", "question": "the question"}.get(str(query), f"positions {query}")


def _stack(trace: Trace, part: str) -> Float[Tensor, "layer batch head query key"]:
    layers = trace.layers(part, _PATTERN)
    if not layers:
        raise VlmProbeError(
            f"the trace holds no {part} attention; capture {part}.blocks.*.{_PATTERN} (the default of model.trace)"
        )
    return torch.stack([trace[f"{part}.blocks.{i}.{_PATTERN}"] for i in layers]).float().cpu()


def _rows(trace: Trace, query: Query) -> Float[Tensor, "layer head key"]:
    """Attention rows of a query, mean over its positions."""
    return _stack(trace, "language")[:, 0, :, query_positions(trace, query)].mean(dim=2)


def encoder_attention(trace: Trace, query: str = "cls", *, image: int = 0) -> xr.DataArray:
    """Attention inside the vision encoder, from its CLS token or as the mean over patch queries.

    Returns
    -------
    DataArray(layer, head, row, col): attention probability to every patch (CLS and registers are
    left out, so rows sum to less than one).
    """
    if query not in ("cls", "mean"):
        raise VlmProbeError(f"the encoder's query must be 'cls' or 'mean', got {query!r}")
    span = trace.layout.image(image)
    patterns = _stack(trace, "vision")[:, image]
    if query == "cls" and span.leading == 0:
        raise VlmProbeError("this encoder has no CLS token; ask for the mean over its patches")
    patches = span.encoder_rows
    rows = patterns[:, :, 0] if query == "cls" else patterns[:, :, patches].mean(dim=2)
    return xr.DataArray(
        rows[..., patches].unflatten(-1, span.grid).numpy(),
        dims=("layer", "head", "row", "col"),
        coords={"layer": trace.layers("vision", _PATTERN), **span.edges()},
        name="attention",
        attrs=_attrs(
            trace,
            f"Encoder attention ({query} query)",
            "attention probability",
            "Dosovitskiy et al. 2021, arXiv:2010.11929",
            query=query,
        ),
    )


def sinks(trace: Trace, *, factor: float | int = 5.0) -> pd.DataFrame:
    """The language model's attention sinks: positions that collect attention from everywhere.

    A position is a sink of a layer if the attention it receives, averaged over heads and over all
    later queries, is more than `factor` times what even attention would give it. Deviation from
    Xiao et al. 2024, who call the first tokens sinks by position: here any position can be one,
    image patches included (as in Kang et al. 2025, arXiv:2503.03321, who find those by activation).

    Returns
    -------
    DataFrame with columns layer, position, token, kind ("image", "text", or "register" for a
    CLS or register token that the model keeps), received (mean attention
    probability), times_even (the ratio that `factor` bounds).
    """
    layout = trace.layout
    live = np.sort(
        np.concatenate(
            [layout.text_positions, *[np.concatenate([s.positions, s.extra_positions]) for s in layout.images]]
        )
    )
    patterns = _stack(trace, "language")[:, 0].mean(dim=1).numpy()[:, live][:, :, live]
    n = len(live)
    later = np.arange(n)[:, None] > np.arange(n)[None, :]
    image = set(layout.image_positions.tolist())
    extra = {int(p) for span in layout.images for p in span.extra_positions}
    records = []
    for layer, pattern in zip(trace.layers("language", _PATTERN), patterns, strict=True):
        # Even over what a query may look at in this layer: all before it, or a sliding window of it.
        may = pattern > 0
        even = may / np.maximum(may.sum(-1, keepdims=True), 1)
        counts = (later & may).sum(0)
        with np.errstate(invalid="ignore", divide="ignore"):
            received = np.where(counts > 0, (pattern * later).sum(0) / counts, 0.0)
            ratio = np.where(counts > 0, (pattern * later).sum(0) / (even * later).sum(0), 0.0)
        # The last few positions have almost no later query: their ratio is noise.
        for i in np.flatnonzero((ratio > factor) & (counts >= 3)):
            position = int(live[i])
            token = layout.tokens[position] if layout.tokens else ""
            kind = "image" if position in image else "register" if position in extra else "text"
            records.append((layer, position, token, kind, float(received[i]), float(ratio[i])))
    table = pd.DataFrame(records, columns=["layer", "position", "token", "kind", "received", "times_even"])
    table.attrs.update(_attrs(trace, "Attention sinks", "attention probability", "Xiao et al. 2024, arXiv:2309.17453"))
    return table


def head_summary(trace: Trace, query: Query = "answer", *, sink_factor: float | int = 5.0) -> xr.Dataset:
    """What every head of the language model does from a query; the mean, where it has several positions.

    Returns
    -------
    Dataset over (layer, head):
    image_mass: attention probability on image patches.
    sink_mass: attention probability on that layer's sinks, wherever they are (see `sinks`).
    image_mass_without_sinks: on patches that are no sinks.
    entropy: of the attention row, in nats; log(n) if even.
    mean_distance: attention-weighted distance to what is attended, in positions.
    """
    layout = trace.layout
    positions = query_positions(trace, query)
    rows = _stack(trace, "language")[:, 0, :, positions]
    found = sinks(trace, factor=sink_factor)
    is_image = torch.zeros(layout.length)
    is_image[torch.as_tensor(layout.image_positions)] = 1.0
    layers = trace.layers("language", _PATTERN)
    is_sink = torch.zeros(len(layers), 1, 1, layout.length)
    for layer, position in zip(found["layer"], found["position"], strict=True):
        is_sink[layers.index(layer), 0, 0, position] = 1.0
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
        attrs=_attrs(
            trace, f"Heads, seen from {_name(query)}", "mixed", "Vaswani et al. 2017", sink_factor=sink_factor
        ),
    )


def encoder_distance(trace: Trace, *, image: int = 0) -> xr.DataArray:
    """Mean attention distance of every encoder head: how far, in patches, patches look for patches.

    Dosovitskiy et al. 2021 (arXiv:2010.11929), figure 7; deviation: attention among patches is
    renormalised first, since CLS and registers have no place.

    Returns DataArray(layer, head), in patch widths.
    """
    span = trace.layout.image(image)
    rows, columns = span.grid
    patterns = _stack(trace, "vision")[:, image, :, span.encoder_rows, span.encoder_rows]
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    places = torch.stack([y.flatten(), x.flatten()], dim=-1).float()
    distance = torch.cdist(places, places)
    weights = patterns / patterns.sum(-1, keepdim=True).clamp_min(1e-12)
    return xr.DataArray(
        (weights * distance).sum(-1).mean(-1).numpy(),
        dims=("layer", "head"),
        coords={"layer": trace.layers("vision", _PATTERN)},
        name="attention_distance",
        attrs=_attrs(trace, "Mean attention distance", "patches", "Dosovitskiy et al. 2021, arXiv:2010.11929"),
    )
