"""E1 and E2: do two encoders encode different things, and does one miss what the other sees?

E1: probes of color, shape, count, position and existence layer by layer, and CKA between layers. Control
of CKA: the same encoder one layer apart. E2: twins, images that differ in one visual fact (MMVP's idea, made
instead of mined): how alike each encoder finds them among all pairs, and whether the model behind it answers
both right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
import xarray as xr

from vlm_probe.embedding import cka, features, image_embeddings, probe_layers, similarity_matrix
from vlm_probe.embedding.blind_pairs import unit_rows
from vlm_probe.errors import VlmProbeError
from vlm_probe.evidence import Evidence, evidence_table
from vlm_probe.findings.probed import POOL_OF, probe_items, same_items
from vlm_probe.hooked import HookedVLM
from vlm_probe.items.item import Item
from vlm_probe.running.evaluation import evaluate

LABELS = tuple(POOL_OF)


@dataclass
class Encoded:
    """What `measure_encoder` measured of one model."""

    model: str
    probes: pd.DataFrame
    """`probe_layers` at the embedding and every encoder layer that feeds the connector; column model."""
    right: pd.DataFrame
    """`probe_items` at what the connector reads."""
    layers: xr.Dataset
    """Mean over patches at every encoder layer, per item."""
    twins: pd.DataFrame
    """One row a pair of twins: id, percentile (share of pairs of different images that are less alike), and
    both_right (the model answers both)."""


def _twin_rows(model: HookedVLM, twins: Sequence[Item]) -> pd.DataFrame:
    """How alike twins are for the encoder, and whether the model tells them apart."""
    groups: dict[str, list[Item]] = {}
    for item in twins:
        groups.setdefault(item.group, []).append(item)
    pairs = [pair for pair in groups.values() if len(pair) == 2]
    if not pairs:
        raise VlmProbeError("there are no twins among the items; give items of the family mmvp")
    pictures: list[Any] = [model.picture(i) for pair in pairs for i in pair]
    rows = unit_rows(image_embeddings(model, pictures))
    likeness = rows @ rows.T
    n = len(pairs)
    which = torch.arange(2 * n) // 2
    others = likeness[which[:, None] < which[None, :]].sort().values
    own = likeness[torch.arange(n) * 2, torch.arange(n) * 2 + 1]
    answers = evaluate(model, [i for pair in pairs for i in pair]).set_index("id")["correct"]
    return pd.DataFrame(
        {
            "id": [pair[0].group for pair in pairs],
            "percentile": (torch.searchsorted(others, own) / len(others)).numpy(),
            "both_right": [float(all(answers.loc[i.id] for i in pair)) for pair in pairs],
        }
    )


def measure_encoder(
    model: HookedVLM,
    items: Sequence[Item],
    twins: Sequence[Item],
    *,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Encoded:
    """Measure one model's encoder.

    Parameters
    ----------
    items: generated scenes with a box each (family gqa, say), for probes and CKA.
    twins: pairs of items (family mmvp).
    progress: called with 1 after each of the four parts.

    Raises VlmProbeError for items without boxes, too few of a label, and no twins.
    """
    done = progress or (lambda n: None)
    points = ["vision.hook_embed", *_read_layers(model)]
    probes = []
    for pool in ("box", "mean"):
        data = features(model, items, points, pool=pool)
        labels = [label for label, where in POOL_OF.items() if where == pool]
        # The control gives every kind of object one random label: is color more than any grouping of kinds?
        probes.append(probe_layers(data, labels, types="object" if pool == "box" else None, seed=seed))
        done(1)
    # What the last pass left is the mean over patches, which CKA compares.
    layers = data[_read_layers(model)]
    right = probe_items(model, items, ["connector.hook_in"], LABELS, seed=seed)
    done(1)
    table = pd.concat(probes, ignore_index=True).assign(model=model.name)
    order = {point: i for i, point in enumerate(data.data_vars)}
    table = table.sort_values("point", key=lambda c: c.map(order), kind="stable", ignore_index=True)
    twin_rows = _twin_rows(model, twins)
    done(1)
    return Encoded(str(model.name), table, right, layers, twin_rows)


PARTS = 4
"""How often `measure_encoder` reports progress."""


def _read_layers(model: HookedVLM) -> list[str]:
    """The encoder's layers that feed the connector."""
    return [f"vision.blocks.{i}.hook_resid_post" for i in range(model.vision_layers_read)]


def layer_likeness(first: Encoded, second: Encoded, *, measure: str = "cka") -> pd.DataFrame:
    """One measure between all layers of two encoders, see `similarity_matrix`."""
    return similarity_matrix(first.layers, second.layers, measure=measure)


def encoder_verdicts(first: Encoded, second: Encoded) -> pd.DataFrame:
    """E1 and E2 for the second encoder against the first, columns of `evidence.COLUMNS`.

    Raises VlmProbeError where they were measured on different items.
    """
    names = (first.model, second.model)
    same_items([first.right, second.right], names)
    same_items([first.twins, second.twins], names)
    a, b = names
    images = first.right["image"].to_numpy()
    rows = [
        Evidence.paired(
            "E1",
            f"{b} holds {label} better than {a}, linearly",
            second.right[label].to_numpy(),
            first.right[label].to_numpy(),
            images,
        )
        for label in LABELS
    ]
    mine, other = (list(one.layers.data_vars.values()) for one in (first, second))
    top, below, theirs = mine[-1].values, mine[-2 if len(mine) > 1 else -1].values, other[-1].values
    rows.append(
        Evidence.jackknifed(
            "E1",
            f"{a} is less like {b} than like itself one layer below (CKA of neighbours; of the two)",
            lambda kept: cka(top[kept], below[kept]),
            lambda kept: cka(top[kept], theirs[kept]),
            images,
        )
    )
    pairs = first.twins["id"].to_numpy()
    rows.append(
        Evidence.paired(
            "E2",
            f"twins are more alike for {a} than for {b} (percentile among all pairs)",
            first.twins["percentile"].to_numpy(),
            second.twins["percentile"].to_numpy(),
            pairs,
        )
    )
    rows.append(
        Evidence.paired(
            "E2",
            f"the model behind {b} answers both twins right more often than {a}",
            second.twins["both_right"].to_numpy(),
            first.twins["both_right"].to_numpy(),
            pairs,
        )
    )
    return evidence_table(rows, title=f"{b} against {a}", first=a, second=b)
