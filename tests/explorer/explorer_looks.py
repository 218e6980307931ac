"""Looks for the tests of the explorer: random ones of any size, which need no model."""

from typing import Any

import numpy as np
import xarray as xr
from PIL import Image

from vlm_probe.explorer import packed
from vlm_probe.explorer.packing import Words, narrow, picture
from vlm_probe.explorer.parts import attention, context_layers, drawn_map

HOSTILE = '</script><script>window.bad=1</script><!--<img src=x onerror="window.bad=1">&amp;\'`\u2028\ud83d'
"""A text that would be markup, a comment or an error wherever it is not taken as text; it ends in half a letter."""


def random_look(
    *,
    grid: tuple[int, int] = (5, 7),
    depth: int = 3,
    heads: int = 2,
    tokens: int = 3,
    vocabulary: int = 11,
    k: int = 3,
    side: int = 20,
    seed: int = 0,
    text: str = "",
) -> dict[str, Any]:
    """A look with all its parts, of random numbers. text: stands in every text that comes from outside."""
    rng = np.random.default_rng(seed)
    patches = grid[0] * grid[1]
    words = Words()
    known = np.asarray([f"w{i}{text}" for i in range(vocabulary)], dtype=object)

    def one(*shape: int) -> xr.DataArray:
        dims = ("token", "layer", "head")[: len(shape)]
        return xr.DataArray(
            rng.normal(size=(*shape, *grid)) if len(shape) == 1 else rng.random((*shape, *grid)),
            dims=(*dims, "row", "col"),
            coords={"layer": np.arange(depth)} if len(shape) > 1 else {},
            attrs={"title": "t", "units": "logits", "method": "m", "citation": "c"},
        )

    def pick(*shape: int) -> dict[str, Any]:
        return words.numbers(rng.choice(known, shape))

    width, height = side * grid[1], side * grid[0]
    photo = Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8))
    across, down = np.arange(grid[1]) * float(side), np.arange(grid[0]) * float(side)
    layers = context_layers(depth)
    numbers = {
        "before": 0.9,
        "cut": rng.random((2, depth + 1)).tolist(),
        "control": rng.random((2, depth + 1, 3)).tolist(),
    }
    firsts = [*range(depth), 0]
    size = {
        "size": 1,
        "first": firsts,
        "last": [*range(depth), depth - 1],
        "edges": [[13] * (depth + 1)] * 2,
        "probability": numbers,
        "lead": numbers,
    }
    return {
        "model": f"model {seed}{text}",
        "name": f"picture{text}",
        "question": f"What is it?{text}",
        "prompt": f"Q{text}",
        "answer": f"yes{text}",
        "notes": [f"note{text}"] if text else [],
        "image": picture(photo),
        "grid": list(grid),
        "edges": {
            "left": across.tolist(),
            "right": (across + side).tolist(),
            "top": down.tolist(),
            "bottom": (down + side).tolist(),
        },
        "depth": depth,
        "tokens": [{"text": f" t{i}{text}", "id": i, "probability": 0.5} for i in range(tokens)],
        "maps": {name: drawn_map(one(tokens)) for name in ("relevancy", "relevancy through the encoder", "gradient")},
        "attention": attention(one(tokens, depth, heads)),
        "norm": {
            "title": "n",
            "units": "activation",
            "method": "m",
            "citation": "",
            "layers": list(range(-1, depth)),
            "values": packed(rng.random((depth + 1, patches))),
        },
        "sinks": {
            "patches": [{"layer": 1, "patch": 2, "times": 7.5}],
            "texts": [{"layer": 0, "token": f"<bos>{text}", "times": 13.0}],
            "caveat": "one question",
            "factor": 5.0,
        },
        "lens": {
            "title": "lens",
            "citation": "c",
            "layers": list(range(depth)),
            "k": k,
            "words": pick(depth, patches * k),
            "probability": packed(rng.random((depth, patches * k))),
        },
        "nearest": {"units": "cosine", "k": 5, "words": pick(patches * 5), "score": packed(rng.random(patches * 5))},
        "contexts": {
            "title": "contexts",
            "citation": "c",
            "layers": layers,
            "k": k,
            "words": pick(len(layers), patches * k),
            "before": pick(len(layers), patches * k),
            "bank_layers": narrow(rng.integers(0, depth + 1, len(layers) * patches * k)),
            "score": packed(rng.random((len(layers), patches * k))),
            "turned": packed(rng.random((len(layers), patches))),
        },
        "knockout": {
            "citation": "c",
            "depth": depth,
            "routes": [f"a{text}", "b"],
            "draws": 3,
            "sizes": [size],
            "token": f" t{text}",
        },
        "words": words.texts,
        "provenance": {"model": f"m{text}"},
        "missing": {},
    }
