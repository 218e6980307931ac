"""C1, C2 and S2: does the connector land on the language manifold, what does pretraining it change, and is
the answer in the image tokens although the model gets it wrong?

C1, for one model: the nearest vocabulary row's cosine, against rows whose features are shuffled one by one
(the same distribution of every feature, no row that was ever seen); how well a linear classifier tells image
rows from text rows; their norms. C2, for two models: the same measures and probes, one against the other. S2:
a probe in the object's box against the model's own answer to the same question.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
import xarray as xr

from vlm_probe.embedding import (
    anisotropy,
    effective_rank,
    held_out_predictions,
    intrinsic_dimension,
    modality_gap,
    nearest_rows,
    participation_ratio,
    patch_rows,
    token_rows,
    used_rows,
)
from vlm_probe.evidence import Evidence, evidence_table
from vlm_probe.findings.probed import probe_items, same_items
from vlm_probe.hooked import HookedVLM
from vlm_probe.hooked.anatomy import embedding
from vlm_probe.items.item import Item
from vlm_probe.running.evaluation import evaluate

ASKED = ("color", "shape")
"""The kinds of question that S2 compares: those about a property of one object in a box."""
OUT, EMBED = "connector.hook_out", "language.hook_embed"
PARTS = 5
"""How often `measure_connector` reports progress."""


@dataclass
class Connected:
    """What `measure_connector` measured of one model."""

    model: str
    gap: pd.DataFrame
    """`modality_gap`, with a column model."""
    stages: pd.DataFrame
    """One row a point from the connector's input to the last layer: effective_rank, participation_ratio,
    intrinsic_dimension, anisotropy, n (patches), model."""
    items: pd.DataFrame
    """One row an item: id, image, kind, nearest and nearest_shuffled (mean cosine to the nearest vocabulary
    row), log_norm_ratio (of its image rows to all text rows, base 2), told_apart (share of its rows that a
    linear classifier assigns to image or text rightly), right (the model's own answer), and for
    every property of ASKED whether a probe at the connector's output finds it."""
    in_layers: pd.DataFrame
    """`probe_items` for ASKED behind every language layer: id, image, point, and a column each."""
    patches: xr.Dataset
    """`patch_rows` at the connector's output."""


def _stages(model: HookedVLM, items: Sequence[Item], seed: int) -> tuple[pd.DataFrame, xr.Dataset]:
    last = len(model.language.blocks) - 1
    points = ["connector.hook_in", "connector.hook_pre", "connector.hook_post", OUT, EMBED]
    points += [f"language.blocks.{i}.hook_resid_post" for i in range(last + 1)]
    rows = patch_rows(model, items, points, seed=seed)
    measures = {
        "effective_rank": effective_rank,
        "participation_ratio": participation_ratio,
        "intrinsic_dimension": intrinsic_dimension,
        "anisotropy": anisotropy,
    }
    table = pd.DataFrame(
        [
            {"point": point, **{name: m(rows[point].values) for name, m in measures.items()}, "n": rows.sizes["patch"]}
            for point in points
        ]
    )
    return table.assign(model=model.name), rows[[OUT]]


def _nearest_cosine(model: HookedVLM, vectors: np.ndarray) -> np.ndarray:
    table = embedding(model)
    rows = torch.as_tensor(vectors, dtype=torch.float32, device=table.device)
    return nearest_rows(rows, table, k=1, keep=used_rows(model)).scores[:, 0].cpu().numpy()


def _shuffled(vectors: np.ndarray, seed: int) -> np.ndarray:
    """Every feature permuted over the rows, each on its own."""
    return np.random.default_rng(seed).permuted(vectors, axis=0)


def _by_item(values: np.ndarray, owners: np.ndarray, n: int) -> np.ndarray:
    return np.bincount(owners, weights=values, minlength=n) / np.bincount(owners, minlength=n)


def _rows_of_items(model: HookedVLM, items: Sequence[Item], patches: xr.Dataset, seed: int) -> pd.DataFrame:
    """The per-item measures of image and text rows."""
    n, owners = len(items), patches["item"].values
    vectors = patches[OUT].values
    both = token_rows(model, items, EMBED, seed=seed)
    modality, of = both["modality"].values, both["item"].values
    found = held_out_predictions(both[EMBED], modality, groups=of, seed=seed)
    norms = np.linalg.norm(both[EMBED].values, axis=1)
    image = modality == "image"
    longer = np.log2(norms[image]) - np.log2(np.median(norms[~image]))
    return pd.DataFrame(
        {
            "id": [i.id for i in items],
            "image": [i.image for i in items],
            "kind": [i.kind for i in items],
            "nearest": _by_item(_nearest_cosine(model, vectors), owners, n),
            "nearest_shuffled": _by_item(_nearest_cosine(model, _shuffled(vectors, seed)), owners, n),
            "log_norm_ratio": _by_item(longer, of[image], n),
            "told_apart": _by_item((found == modality).astype(float), of, n),
        }
    )


def measure_connector(
    model: HookedVLM, items: Sequence[Item], *, seed: int = 0, progress: Callable[[int], None] | None = None
) -> Connected:
    """Measure one model's connector.

    Parameters
    ----------
    items: generated scenes with a box each (family gqa), those of the kinds `ASKED` among them.
    progress: called with 1 after each of the five parts.

    Raises VlmProbeError for items without boxes, and too few of a label.
    """
    done = progress or (lambda n: None)
    gap = modality_gap(model, items, seed=seed).assign(model=model.name)
    done(1)
    stages, patches = _stages(model, items, seed)
    done(1)
    table = _rows_of_items(model, items, patches, seed)
    done(1)
    table["right"] = evaluate(model, items).set_index("id").loc[table["id"], "correct"].to_numpy(dtype=float)
    done(1)
    layers = [f"language.blocks.{i}.hook_resid_post" for i in range(len(model.language.blocks))]
    found = probe_items(model, items, [OUT, *layers], ASKED, seed=seed)
    done(1)
    at_connector = (found["point"] == OUT).to_numpy()
    table = table.merge(found[at_connector].drop(columns=["image", "point"]), on="id")
    behind = found.loc[~at_connector].reset_index(drop=True)
    return Connected(str(model.name), gap, stages, table, behind, patches)


def connector_verdicts(one: Connected) -> pd.DataFrame:
    """C1 and S2 for one model, columns of `evidence.COLUMNS`."""
    items, name = one.items, one.model
    images = items["image"].to_numpy()
    claims = [
        (
            "C1",
            f"{name}: image rows are nearer to vocabulary rows than shuffled ones (cosine)",
            "nearest",
            items["nearest_shuffled"].to_numpy(),
        ),
        ("C1", f"{name}: image rows can be told from text rows (share right; control 0.5)", "told_apart", 0.5),
        ("C1", f"{name}: image rows are longer than text rows (log2 of the norm ratio)", "log_norm_ratio", 0.0),
    ]
    rows = [
        Evidence.paired(h, claim, items[column].to_numpy(), control, images) for h, claim, column, control in claims
    ]
    for asked in ASKED:
        own = items.query("kind == @asked")
        last = one.in_layers["point"].iloc[-1]
        behind = one.in_layers.query("point == @last").set_index("id")
        # Image rows stand before the question: what they hold in any layer is about the image alone.
        places = {OUT: own[asked].to_numpy(), str(last): behind.loc[own["id"], asked].to_numpy()}
        for point, found in places.items():
            claim = f"{name}: a probe at {point} finds the {asked} more often than the model answers it"
            rows.append(Evidence.paired("S2", claim, found, own["right"].to_numpy(), own["image"].to_numpy()))
    return evidence_table(rows, title=name, first=name)


def pretraining_verdicts(first: Connected, second: Connected) -> pd.DataFrame:
    """C2: the second model's connector against the first's, on the same items; columns of `COLUMNS`.

    Raises VlmProbeError where they were measured on different items.
    """
    same_items([first.items, second.items], [first.model, second.model])
    a, b = first.model, second.model
    images = first.items["image"].to_numpy()
    claims = {
        "nearest": f"{b}: image rows are nearer to vocabulary rows than in {a} (cosine)",
        "told_apart": f"{b}: image rows are easier to tell from text rows than in {a}",
        "log_norm_ratio": f"{b}: image rows are longer than in {a} (log2, against text rows)",
        **{asked: f"{b}: a probe at {OUT} finds the {asked} more often than in {a}" for asked in ASKED},
        "right": f"{b}: the model answers more questions than {a}",
    }
    rows = [
        Evidence.paired("C2", claim, second.items[column].to_numpy(), first.items[column].to_numpy(), images)
        for column, claim in claims.items()
    ]
    owners = first.patches["item"].values
    other, mine = first.patches[OUT].values, second.patches[OUT].values
    rows.append(
        Evidence.jackknifed(
            "C2",
            f"{b}: the connector's output has a higher effective rank than in {a}",
            lambda kept: effective_rank(mine[kept]),
            lambda kept: effective_rank(other[kept]),
            images[owners],
        )
    )
    return evidence_table(rows, title=f"{b} against {a}", first=a, second=b)
