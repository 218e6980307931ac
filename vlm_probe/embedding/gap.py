"""The modality gap: how far image rows lie from text rows, in every layer of the language model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float

from vlm_probe.embedding.probe import STRENGTHS, linear_probe
from vlm_probe.embedding.rows import token_rows
from vlm_probe.embedding.transfer import transferred_predictions
from vlm_probe.errors import VlmProbeError
from vlm_probe.hooked import HookedVLM
from vlm_probe.items.item import Item

_EMBED = "language.hook_embed"


def gap_measures(image: Float[np.ndarray, "row feature"], text: Float[np.ndarray, "other feature"]) -> dict[str, float]:
    """How two clouds of rows lie to each other.

    Returns centroid_distance (Liang et al. 2022, arXiv:2203.02053: between the mean unit vectors),
    cosine_within_image, cosine_within_text, cosine_between (means over pairs of different rows), and
    norm_ratio (median norm of image rows over that of text rows).

    Raises VlmProbeError for fewer than two rows of either, or rows that are zero or not finite.
    """
    for name, rows in (("image", image), ("text", text)):
        if len(rows) < 2:
            raise VlmProbeError(f"{len(rows)} {name} rows are too few, give at least 2")
        norms = np.linalg.norm(rows, axis=1)
        bad = int((~np.isfinite(norms) | (norms == 0)).sum())
        if bad:
            raise VlmProbeError(f"{bad} of {len(rows)} {name} rows are zero or not finite")
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (image, text)]
    total = [u.sum(0) for u in unit]
    n = [len(u) for u in unit]
    within = [float((t @ t - k) / (k * (k - 1))) for t, k in zip(total, n, strict=True)]
    return {
        "centroid_distance": float(np.linalg.norm(total[0] / n[0] - total[1] / n[1])),
        "cosine_within_image": within[0],
        "cosine_within_text": within[1],
        "cosine_between": float(total[0] @ total[1] / (n[0] * n[1])),
        "norm_ratio": float(np.median(np.linalg.norm(image, axis=1)) / np.median(np.linalg.norm(text, axis=1))),
    }


def gap_by_point(rows: xr.Dataset) -> pd.DataFrame:
    """`gap_measures` of `token_rows` at every point: columns point, n_image, n_text and the measures."""
    label, records = rows["modality"].values, []
    for point, values in rows.data_vars.items():
        image, text = (values.values[label == kind] for kind in ("image", "text"))
        records.append({"point": point, "n_image": len(image), "n_text": len(text), **gap_measures(image, text)})
    return pd.DataFrame(records)


def told_apart(
    first: Float[np.ndarray, "layer group row feature"],
    second: Float[np.ndarray, "layer group row feature"],
    *,
    parts: int = 5,
    strengths: Sequence[float] = STRENGTHS,
    seed: int = 0,
) -> Float[np.ndarray, "layer group"]:
    """How well rows of two sorts are told apart: the share of each group's rows that a linear classifier sorts rightly.

    It saw the groups of other parts only, dealt at random; every group has as many rows of both sorts, so that always
    saying one of them is right half the time. All layers (they may be any) are given the same parts and labels, and so
    as much to learn from: one of them can be the control of another.

    What it comes to for two halves of one sort is chance only where no row stands in several groups: rows of the same
    few words, item after item, are told apart by heart, which says nothing of where words lie.

    Raises VlmProbeError for fewer than twice as many groups as parts, and as `transferred_predictions` does.
    """
    layers, groups, count, _ = first.shape
    if groups < 2 * parts:
        raise VlmProbeError(f"{groups} groups of rows are too few to tell rows apart, give at least {2 * parts}")
    x = np.concatenate([first, second], axis=2).reshape(layers, groups * 2 * count, -1)
    sort = np.tile(np.repeat([0, 1], count), groups)
    part = np.repeat(np.random.default_rng(seed).permutation(groups) % parts, 2 * count)
    said = transferred_predictions(x.astype(np.float32), sort, part, strengths=strengths)
    return (said == sort).reshape(layers, groups, 2 * count).mean(2)


def modality_gap(
    model: HookedVLM,
    items: Sequence[Item],
    *,
    rows_per_item: int = 8,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> pd.DataFrame:
    """`gap_measures` and linear separability where block 0 receives the rows and behind every layer.

    Parameters
    ----------
    items: each with one image; the text rows are those of the question.
    rows_per_item: image rows, and text rows, drawn from every item at most.
    progress: called with the number of items just done.

    Returns
    -------
    One row a point ("language.hook_embed", "language.blocks.0.hook_resid_post", ...): columns point, n_image,
    n_text, those of `gap_measures`, separability (accuracy of a linear probe for image or text, grouped by item: it
    knows the questions' few words by heart, so that rows of other words are told from them as well; see `told_apart`)
    with low and high, and norm_ratio_other_scale: what the norm ratio at block 0 would be under the other
    embedding-scale policy ("text" where the model's is "all", and the other way round; NaN behind block 0, where it is
    no mere factor).

    Raises VlmProbeError as `gap_measures` and `linear_probe` do.
    """
    points = [_EMBED, *(f"language.blocks.{i}.hook_resid_post" for i in range(len(model.language.blocks)))]
    rows = token_rows(model, items, points, rows_per_item=rows_per_item, seed=seed, progress=progress)
    label, groups = rows["modality"].values, rows["item"].values
    other = model.token_scale if model.embed_scale == "text" else 1 / model.token_scale
    records: list[dict[str, Any]] = []
    for measures in gap_by_point(rows).to_dict("records"):
        point = str(measures["point"])
        probe = linear_probe(rows[point], label, groups=groups, seed=seed)
        records.append(
            {
                **{str(name): value for name, value in measures.items()},
                "separability": probe["score"],
                "low": probe["low"],
                "high": probe["high"],
                "norm_ratio_other_scale": measures["norm_ratio"] * other if point == _EMBED else float("nan"),
            }
        )
    table = pd.DataFrame(records)
    table.attrs = {"title": "modality gap", "items": len(items), "seed": seed, **model.provenance()}
    return table
