"""The parts of a look, each read off a method of the package and made small: nothing is computed here.

Every function gives what stands in a look (`looking.look`) under one name, as plain values and packed arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr
from PIL import Image

from vlm_probe.attention import MAPS, image_attention, sink_positions
from vlm_probe.attention.answer_maps import MakesMap, map_named
from vlm_probe.attention.patterns import PATTERN
from vlm_probe.causal import knockout_sweep
from vlm_probe.causal.knockout import default_window
from vlm_probe.embedding import nearest_tokens
from vlm_probe.errors import VlmProbeError
from vlm_probe.explorer.packing import Words, narrow, packed
from vlm_probe.hooked import HookedVLM, ModelInputs
from vlm_probe.items import Item
from vlm_probe.layout import ImageSpan
from vlm_probe.lens.contextual_lens import EMBEDDING, Bank, contextual_lens, point_of
from vlm_probe.lens.logit_lens import lens
from vlm_probe.settings import SEED
from vlm_probe.trace import Trace

HEADS_BYTES = 600_000
"""Maps of single heads are kept of as many answer tokens, from the first, as this holds (of one at least)."""
CONTEXT = 48
"""Letters of a context that are kept: those before the token."""
CONTEXT_LAYERS = 6
"""Contextual neighbours are looked for at so many layers, spread evenly; they differ little from one to the next."""
RECEIVED = "connector.hook_out"
_OF_ANY_IMAGE = ("relevancy", "relevancy through the encoder")


def geometry(span: ImageSpan) -> dict[str, Any]:
    """`grid` (rows, columns), and `edges`: pixels of the original image at which columns begin and end (left, right)
    and rows do (top, bottom), as lists; None where the original image is not known."""
    edges = {name: np.round(np.asarray(values, dtype=float), 4).tolist() for name, (_, values) in span.edges().items()}
    return {"grid": list(span.grid), "edges": edges or None}


def drawn_map(found: xr.DataArray) -> dict[str, Any]:
    """A map of every token: what it is, and `values` (token, patch)."""
    values = found.transpose("token", "row", "col").to_numpy()
    return {
        **_said(found.attrs),
        "signed": bool(values.min() < 0),
        "values": packed(values.reshape(len(values), -1).astype(np.float64)),
    }


def attention(found: xr.DataArray) -> dict[str, Any]:
    """Attention from the position that predicts each token: `layers`, `heads`, `mean` over heads (token, layer, patch),
    and `each` (token, layer, head, patch), of as many tokens as fit into `HEADS_BYTES`."""
    values = found.transpose("token", "layer", "head", "row", "col").to_numpy().astype(np.float64)
    values = values.reshape(*values.shape[:3], -1)
    kept = max(1, HEADS_BYTES // values[0].size)
    return {
        **_said(found.attrs),
        "layers": found.layer.to_numpy().tolist(),
        "heads": values.shape[2],
        "mean": packed(values.mean(2)),
        "each": packed(values[:kept]),
    }


def map_of(name: str, image: int) -> MakesMap:
    """A map of `attention.MAPS`, over one of the prompt's pictures.

    Raises VlmProbeError for a name that is none, and a later picture with a map that knows the first alone.
    """
    if image and name in MAPS and name not in _OF_ANY_IMAGE:
        raise VlmProbeError(f"the map {name!r} is of a prompt's first picture alone, and this is picture {image}")
    made: Any = map_named(name)
    return partial(made, image=image) if image else made


def attention_of(image: int, known: ModelInputs, trace: Trace) -> Callable[..., xr.DataArray]:
    """A map for `per_token`: attention of the answer position, layers and heads apart.

    known, trace: inputs that have been run, and what was captured of them.
    """

    def make(model: HookedVLM, inputs: ModelInputs, /, *, target: int) -> xr.DataArray:
        run = trace if inputs is known else model.trace(inputs, capture=[f"language.blocks.*.{PATTERN}"])
        return image_attention(run, image=image)

    return make


def _said(attrs: dict[Any, Any]) -> dict[str, Any]:
    """Title, units, method and citation of a map."""
    return {name: str(attrs.get(name) or "").replace("_", " ") for name in ("title", "units", "method", "citation")}


def norms(trace: Trace, span: ImageSpan) -> dict[str, Any]:
    """Length of what stands at every patch: `layers` (-1: what block 0 receives) and `values` (layer, patch)."""
    layers = [i for i in range(EMBEDDING, trace.depth["language"]) if point_of(i) in trace]
    if not layers:
        raise VlmProbeError(f"the trace holds no residual stream; capture {point_of(0).replace('.0.', '.*.')}")
    at = torch.as_tensor(span.positions)
    rows = [trace[point_of(i)][0].float().cpu()[at].norm(dim=-1).double().numpy() for i in layers]
    return {
        "title": "Length of the residual stream",
        "units": "activation",
        "method": "Euclidean norm of the row behind the layer",
        "citation": "",
        "layers": layers,
        "values": packed(np.stack(rows)),
    }


def found_sinks(trace: Trace, span: ImageSpan, found: pd.DataFrame) -> dict[str, Any]:
    """Sinks as `attention.sinks` or `attention.find_sinks` tells them: `patches`, a list of layer, patch, times (the
    attention received over an even share); `texts`, a list of layer, token, times; `caveat`, `factor`."""
    patch_at = {int(position): patch for patch, position in enumerate(span.positions)}
    patches, texts = [], []
    for i, row in enumerate(found.to_dict("records")):
        (position,) = sink_positions(found.iloc[[i]], trace.layout)
        about = {"layer": int(row["layer"]), "times": round(float(row["times_even"]), 2)}
        if position in patch_at:
            patches.append({**about, "patch": patch_at[position]})
        elif row["kind"] != "image":
            texts.append({**about, "token": str(row["token"]).encode(errors="replace").decode()})
    said = {name: found.attrs.get(name) for name in ("caveat", "factor", "prompts")}
    return {"patches": patches, "texts": texts, **said}


def lens_words(model: HookedVLM, inputs: ModelInputs, span: ImageSpan, words: Words, k: int) -> dict[str, Any]:
    """What the logit lens reads at every patch: `layers`, `k`, `words` and `probability`, (layer, patch and rank)."""
    read = lens(model, inputs, positions=span.positions.tolist(), k=k, divergences=False)
    texts = np.asarray(read["top_token"])
    return {
        **_said(read.attrs),
        "units": "probability",
        "layers": np.asarray(read["layer"]).tolist(),
        "k": k,
        "words": words.numbers(texts.reshape(len(texts), -1)),
        "probability": packed(
            np.exp(np.asarray(read["top_log_probability"], dtype=np.float64)).reshape(len(texts), -1)
        ),
    }


def nearest_words(model: HookedVLM, trace: Trace, image: int, words: Words, k: int) -> dict[str, Any]:
    """The vocabulary rows nearest to what the connector gives: `k`, `words` and `score`, (patch and rank)."""
    table = nearest_tokens(model, trace, point=RECEIVED, k=k)
    own = table.loc[table["image"] == image]
    return {
        "title": f"Nearest tokens at {RECEIVED}",
        "units": str(table.attrs["units"]),
        "k": k,
        "words": words.numbers(own["token"].tolist()),
        "score": packed(own["score"].to_numpy(dtype=np.float64)),
    }


def context_layers(depth: int) -> list[int]:
    """At which layers contextual neighbours are looked for."""
    every = np.linspace(EMBEDDING, depth - 1, min(CONTEXT_LAYERS, depth + 1)).round().astype(int)
    return np.unique(every).tolist()


def contexts(model: HookedVLM, trace: Trace, bank: Bank, image: int, words: Words, k: int) -> dict[str, Any]:
    """The contextual lens: `layers`, `k`; `words`, `before` (the text before the token), `bank_layers` and `score`,
    (layer, patch and rank); `turned` (layer, patch), its control."""
    layers = context_layers(trace.depth["language"])
    table = contextual_lens(model, trace, bank, k=k, layers=layers)
    own = table.loc[table["image"] == image]
    shape = (len(layers), -1)

    def column(name: str) -> np.ndarray:
        return np.asarray(own[name].tolist()).reshape(shape)

    before = ["…" + text[-CONTEXT:] if len(text) > CONTEXT else text for text in own["context"]]
    return {
        **_said(table.attrs),
        "contexts": len(bank),
        "layers": layers,
        "k": k,
        "words": words.numbers(column("token")),
        "before": words.numbers(np.asarray(before, dtype=object).reshape(shape)),
        # From the layer before the first on: bytes have no sign.
        "bank_layers": {"shape": [len(layers), own.shape[0] // len(layers)], **narrow(column("bank_layer") + 1)},
        "score": packed(column("similarity").astype(np.float64)),
        "turned": packed(column("turned")[:, ::k].astype(np.float64)),
    }


@dataclass(frozen=True)
class _Shown:
    """A picture that is there, for an item."""

    picture: Image.Image

    def image(self, size: int) -> Image.Image:
        return self.picture


def knockout(
    model: HookedVLM,
    picture: Image.Image,
    question: str,
    *,
    windows: Iterable[int] | None = None,
    draws: int = 1,
    seed: int = SEED,
) -> dict[str, Any]:
    """Attention knockout by windows of layers, beside draws of as many random edges (`causal.knockout_sweep`).

    Parameters
    ----------
    windows: sizes, in layers; a quarter of the model if None.
    draws: of the control.

    Returns `depth`, `routes`, `draws`, and `sizes`: for every size of a window its `size`, and `first`, `last` (layers)
    of every window, the last of which is all layers; for `probability` and `lead` (logits, over any other token), of
    the first token that the model says: `before`, `cut` (route, window) and `control` (route, window, draw); `edges`
    (route, window).

    Raises VlmProbeError as `knockout_sweep` does.
    """
    if draws < 1:
        raise VlmProbeError(f"the control is drawn once at least, got draws={draws}")
    depth = model.layers["language"]
    # Its seed of drawing is made of the id, so that of two models the same edges are drawn.
    item = Item("looked at", "scenes", "own", "looked at", "picture", question, "", source=_Shown(picture))
    sizes, routes = [], list[str]()
    for size in dict.fromkeys([default_window(depth)] if windows is None else windows):
        table = knockout_sweep(model, [item], window=size, own=True, draws=draws, seed=seed)
        routes = list(dict.fromkeys(table["route"]))
        cut, control = table.loc[~table["control"]], table.loc[table["control"]]
        drawn = [control] if draws == 1 else [control.loc[control["draw"] == draw] for draw in range(draws)]
        span = cut.loc[cut["route"] == routes[0]]
        about = {"size": size, "first": span["first"].tolist(), "last": span["last"].tolist()}
        about["edges"] = [cut.loc[cut["route"] == route, "edges"].tolist() for route in routes]
        for name, column in (("probability", "probability"), ("lead", "logit_difference")):
            about[name] = {
                "before": round(float(cut[f"{column}_before"].to_list()[0]), 6),
                "cut": [_numbers(cut, route, column) for route in routes],
                "control": [
                    [list(own) for own in zip(*(_numbers(t, route, column) for t in drawn), strict=True)]
                    for route in routes
                ],
            }
        sizes.append(about)
    said = {"citation": "Geva et al. 2023, arXiv:2304.14767", "seed": seed}
    return {**said, "depth": depth, "routes": routes, "draws": draws, "sizes": sizes}


def _numbers(table: pd.DataFrame, route: str, column: str) -> list[float]:
    return [round(float(value), 6) for value in table.loc[table["route"] == route, column]]


def tokens(texts: Sequence[str], ids: Sequence[int], probability: Sequence[float]) -> list[dict[str, Any]]:
    """The answer's tokens: text, id, probability."""
    return [
        {"text": text.encode(errors="replace").decode(), "id": int(id_), "probability": round(float(p), 6)}
        for text, id_, p in zip(texts, ids, probability, strict=True)
    ]
