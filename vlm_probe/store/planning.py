"""What a capture would take, of a model that need not be here: bytes on disk and hours of a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import pandas as pd

from vlm_probe import names
from vlm_probe.errors import VlmProbeError, nearest
from vlm_probe.hooked.families import families_of
from vlm_probe.hooked.joined import connector_of, connector_width, encoders_of, patch_grid
from vlm_probe.layout.patch_grid import PatchGrid
from vlm_probe.store.describing import VALUES
from vlm_probe.store.picking import Pick
from vlm_probe.store.records import DTYPES
from vlm_probe.vocabulary.budget import budget

TEXT_TOKENS = 48
"""Of a prompt: a chat template and a question."""
TFLOPS, UTILISATION = 989.0, 0.4
"""An H100's dense bfloat16 (NVIDIA's data sheet), and the share of it that a forward pass of billions of parameters
reaches. The share is assumed: measure yours with `vlm-probe capture --limit 500`, which says how long it takes."""


def points_of(config: Any) -> list[str]:
    """The hook points of a model of this configuration, in the order in which they fire.

    Raises VlmProbeError for a family that is not supported.
    """
    (_, language), connector = families_of(config), connector_of(config)
    text = config.get_text_config()
    found: list[str] = []
    for part, (family, own, _) in encoders_of(config).items():
        block = [name for name in names.BLOCK if name not in (*names.ROTARY, *family.blocks.absent)]
        found += [f"{part}.{name}" for name in names.VISION]
        found += [f"{part}.blocks.{layer}.{name}" for layer in range(own.num_hidden_layers) for name in block]
    if connector is not None:
        found += [f"connector.{name}" for name in names.CONNECTOR if name in connector.points]
    first, *behind = names.LANGUAGE
    found.append(f"language.{first}")
    block = [name for name in names.BLOCK if name not in language.blocks.absent]
    found += [f"language.blocks.{layer}.{name}" for layer in range(text.num_hidden_layers) for name in block]
    return [*found, *(f"language.{name}" for name in behind)]


def _features(name: str, config: Any) -> int:
    """Numbers that one position has at a point."""
    text, encoders = config.get_text_config(), encoders_of(config)
    part, sights = names.part_of(name), [one.config for one in encoders.values()]
    tower: Any = text if part == "language" else sights[0] if part == "connector" else encoders[part].config
    heads = tower.num_attention_heads
    if name.endswith(("hook_k", "hook_v", "hook_rot_k")):
        heads = getattr(tower, "num_key_value_heads", None) or heads
    width = {
        "head": heads,
        "d_head": getattr(tower, "head_dim", None) or tower.hidden_size // tower.num_attention_heads,
        "d_model": text.hidden_size,
        "d_vision": sum(one.hidden_size for one in sights) if part == "connector" else tower.hidden_size,
        "d_hidden": connector_width(config) if part == "connector" else 0,
        "d_mlp": getattr(tower, "intermediate_size", None) or int(tower.hidden_size * getattr(tower, "mlp_ratio", 4)),
    }
    return int(np.prod([width[dim] for dim in names.dimensions(name)[2:]]))


def plan(
    config: Any,
    points: str | Sequence[str],
    positions: str = "mean",
    images: int = 1_000_000,
    *,
    dtype: str = "float32",
    text_tokens: int = TEXT_TOKENS,
    tflops: float = TFLOPS,
    utilisation: float = UTILISATION,
) -> pd.DataFrame:
    """Bytes and GPU-hours of a capture, a row; nothing is loaded, and nothing is run.

    Parameters
    ----------
    config: a Hugging Face configuration: a LlavaConfig, or a language model's.
    points, positions, dtype: as of `capture`. text_tokens: of a prompt, beside the image's; questions are counted as a
        third of them, boxes as the whole image (they are compressed: this is the most).
    tflops, utilisation: of the GPU, 10^12 operations a second in the model's dtype, and the share that is reached.

    Returns
    -------
    One row: points, item_bytes and bytes (before compression; activations of a model in half precision take about half
    of float32's), flops_per_item, gpu_hours. Operations are those of `vocabulary.budget`, up to the last layer that is
    kept. Disk and decoding are not in it: with `readers` threads they run beside the GPU.

    Raises
    ------
    VlmProbeError: as `capture` for points and positions; a configuration that is none.
    """
    pick, every = Pick.of(positions), points_of(config)
    wanted = [points] if isinstance(points, str) else list(points)
    for pattern in wanted:
        if not any(fnmatchcase(name, pattern) for name in every):
            raise VlmProbeError(f"no hook point {pattern!r}; nearest are {nearest(pattern, every)}")
    chosen = [name for name in every if any(fnmatchcase(name, pattern) for pattern in wanted)]
    pick.check(chosen)
    if dtype not in VALUES:
        raise VlmProbeError(f"values are kept as {' or '.join(VALUES)}, got {dtype!r}")
    grid = patch_grid(config)
    if grid is not None and grid.resolutions:
        raise VlmProbeError(
            f"a {config.model_type} model cuts pictures into tiles by their shape: how much a capture takes cannot be "
            "planned without them (vlm-probe capture --limit 500 says how much it was)"
        )
    patches = kept = 0
    if grid is not None:
        kept, patches = grid.kept, (config.vision_config.image_size // (grid.patch_size * grid.pooled)) ** 2
    sequence = patches + kept + text_tokens
    rows = {
        name: 1
        if pick.single
        else patches
        if pick.patches_only
        else pick.longest(sequence, text_tokens // 3, patches + kept)
        if name.startswith("language.")
        else _seen(grid, patches, name)
        for name in chosen
    }
    item_bytes = sum(DTYPES[dtype] * rows[name] * _features(name, config) for name in chosen)
    flops = _operations(config, chosen[-1], sequence)
    table = pd.DataFrame(
        [
            {
                "points": len(chosen),
                "positions": positions,
                "images": images,
                "item_bytes": item_bytes,
                "bytes": item_bytes * images,
                "flops_per_item": flops,
                "gpu_hours": images * flops / (tflops * 1e12 * utilisation) / 3600,
            }
        ]
    )
    table.attrs = {
        "title": f"capture of {images:,} images",
        "units": "bytes, operations, hours",
        "dtype": dtype,
        "text_tokens": text_tokens,
        "tflops": tflops,
        "utilisation": utilisation,
    }
    return table


def _seen(grid: PatchGrid | None, patches: int, name: str) -> int:
    """Rows of an image's activation in an encoder or the connector."""
    assert grid is not None
    before = grid.kept if name.startswith("connector.") else grid.before(name)
    several = grid.pooled**2 if name.startswith("vision.") or name.endswith("hook_in") else 1
    return patches * several + before


def _operations(config: Any, last: str, sequence: int) -> float:
    """Of one item's forward pass up to a point."""
    parts = budget(config, context=max(1, sequence // 2))  # on average a token sees half of them
    image = float(parts["flops_per_image"].to_numpy().sum())
    if not last.startswith("language."):
        return image
    layers, layer = config.get_text_config().num_hidden_layers, names.layer_of(last)
    share = 0.0 if last == "language.hook_embed" else 1.0 if layer is None else (layer + 1) / layers
    blocks = float(parts.loc[parts["part"] != "unembedding", "flops_per_token"].to_numpy().sum())
    return image + share * blocks * sequence
