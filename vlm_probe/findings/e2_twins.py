"""E2: does one encoder miss what the other sees?

Twins: two images that differ in one fact, and the same question about both (MMVP). How alike an encoder finds them
among all pairs of images, beside a random encoder; and whether the model behind it has both right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from vlm_probe.embedding.blind_pairs import image_embeddings, twin_percentiles
from vlm_probe.errors import VlmProbeError
from vlm_probe.evidence import Claim, OfAllRows, PairedMean, Tables, summarize
from vlm_probe.findings.finding import SHARES, FigureOf, Finding, Section, Shown, TableOf
from vlm_probe.findings.shared import Shared, about, clusters_of
from vlm_probe.hooked import HookedVLM
from vlm_probe.hooked.anatomy import one_encoder
from vlm_probe.items import Item, twins_among

LEAST, LEAST_SPLIT = 20, 60
"""Pairs that decide at least, and where they are split in halves."""
SHARE = 0.05
"""Of pairs that are right: one in twenty. Of less, nobody would change an encoder."""
RANK = 0.02
"""Of other pairs: one in fifty, several times what another seed moves a random encoder by."""


def _picked(items: Sequence[Item]) -> list[Item]:
    pairs = twins_among(items)
    kept = {item.id for pair in pairs for item in pair}
    # Of one pair there is no other to compare it with.
    return [item for item in items if item.id in kept] if len(pairs) > 1 else []


def twins_apart(
    model: HookedVLM, items: Sequence[Item], *, shared: Shared | None = None, seed: int = 0
) -> dict[str, pd.DataFrame]:
    """How alike twins are for one model's encoder and for a random one, and whether the model has both right.

    Returns one table, twins, a row a pair: id (its group), image (the first), cluster, kind, percentile and
    percentile_random (share of the other pairs of images that are less alike; 1: none is more alike than the twins),
    right (share of the two questions) and both_right.

    Raises VlmProbeError for a model without an encoder, and items with fewer than two pairs of twins.
    """
    if model.vision_config is None:
        raise VlmProbeError(f"{model.name} is a language model without an encoder, and E2 is about encoders")
    one_encoder(model, "E2")
    pairs = twins_among(items)
    if len(pairs) < 2:
        raise VlmProbeError(f"there are {len(pairs)} pairs of twins among {len(items)} items; E2 needs {FINDING.wants}")
    shared = shared or Shared(model, items)
    both = [item for pair in pairs for item in pair]
    pictures = [model.picture(item) for item in both]
    own, bare = (
        twin_percentiles(image_embeddings(one, pictures), seed=seed).numpy().astype(float)
        for one in (model, shared.random_encoder)
    )
    right = shared.answers(both)["correct"].to_numpy(dtype=float).reshape(-1, 2)
    table = about([pair[0] for pair in pairs]).assign(
        id=[pair[0].group for pair in pairs],
        cluster=clusters_of(both)[::2],  # pairs that share an image are no two
        percentile=own,
        percentile_random=bare,
        right=right.mean(1),
        both_right=(right == 1).all(1).astype(float),
    )
    return {"twins": table}


def _blind(rows: pd.DataFrame) -> np.ndarray:
    """The half of the pairs that the first encoder finds more alike, measured by how much more than the second."""
    gap = (rows["percentile_a"] - rows["percentile_b"]).to_numpy(dtype=float)
    return gap > np.median(gap)


def _gain(rows: pd.DataFrame, chosen: np.ndarray) -> float:
    gain = (rows["both_right_b"] - rows["both_right_a"]).to_numpy(dtype=float)
    return float(gain[chosen].mean()) if chosen.any() else float("nan")


def gain_where_blind(rows: pd.DataFrame) -> float:
    """By how much the second model has more pairs right, of those that are blind for the first encoder."""
    return _gain(rows, _blind(rows))


def gain_elsewhere(rows: pd.DataFrame) -> float:
    """The same, of the other pairs."""
    return _gain(rows, ~_blind(rows))


CLAIMS = (
    Claim(
        "apart",
        "{model}'s encoder finds twins less alike than a random encoder does (share of other pairs that are less "
        "alike)",
        PairedMean("twins", "percentile", "percentile_random"),
        control="a random encoder",
        unit="pairs of twins",
        margin=RANK,
        least=LEAST,
        more=False,
    ),
    Claim(
        "apart_more",
        "{second}'s encoder finds twins less alike than {first}'s does (share of other pairs that are less alike)",
        PairedMean("twins", "percentile"),
        control="{first}'s encoder",
        unit="pairs of twins",
        of="pair",
        margin=RANK,
        least=LEAST,
        more=False,
    ),
    Claim(
        "both_right",
        "{second} has both twins right more often than {first}",
        PairedMean("twins", "both_right", right_or_wrong=True),
        control="{first}",
        unit="pairs of twins",
        of="pair",
        margin=SHARE,
        least=LEAST,
    ),
    Claim(
        "where_blind",
        "{second} has more twins right than {first} above all where {first}'s encoder finds them more alike than "
        "{second}'s",
        OfAllRows("twins", gain_where_blind, gain_elsewhere),
        control="the same gain on the other half of the twins",
        unit="pairs of twins",
        of="pair",
        margin=2 * SHARE,
        least=LEAST_SPLIT,
    ),
)


def shown(measured: Mapping[str, Tables], items: Sequence[Item]) -> Shown:
    """Tables twins (means with intervals) and pairs (as measured); a sentence a model."""
    whole = pd.concat([tables["twins"].assign(model=model) for model, tables in measured.items()], ignore_index=True)
    table = summarize(whole, list(_MEASURES), ["model"])
    said = []
    for model in measured:
        own = table.query("model == @model").set_index("measure")["mean"]
        said.append(
            f"{model}'s encoder finds twins more alike than {own['percentile']:.1%} of other pairs (a random encoder "
            f"{own['percentile_random']:.1%}), and {model} has both right of {own['both_right']:.1%}."
        )
    words = [_MEASURES[measure] for measure in table["measure"].tolist()]
    return Shown(tables={"twins": table.assign(measure=words), "pairs": whole}, summary=said)


_MEASURES = {
    "percentile": "other pairs less alike",
    "percentile_random": "the same for a random encoder",
    "both_right": "both questions right",
    "right": "questions right",
}


FINDING = Finding(
    id="E2",
    question="Does one encoder miss what the other sees?",
    explains="encoder",
    claims=CLAIMS,
    measure=twins_apart,
    picks=_picked,
    wants="twins (two pairs or more of the family mmvp: two images a group)",
    shown=shown,
    methods=(
        "Twins: two images that differ in one fact, with the same question and different answers (Tong et al. 2024, "
        "arXiv:2401.06209). Deviation: generated twins are made and not mined, so they are not chosen to be close "
        "for any encoder.",
        "How alike: the cosine of the two images' mean patches at what the connector reads, centred over all "
        "images, as a percentile of the cosines of all pairs that are no twins. Deviation: MMVP takes cosines of "
        "CLIP's projected CLS row above 0.95 and of DINOv2's below 0.6, cutoffs that fit two encoders.",
        "Both right: both questions of a pair, by greedy decoding, seed {seed}. Where blind: the gain of the second "
        "model on the half of the pairs whose percentile is higher for the first encoder than for the second by "
        "more than the median, less its gain on the other half; delete-a-group jackknife (Tukey 1958).",
    ),
    caveats=(
        "An average over patches says little of one small object: twins that are alike in it need not be alike in "
        "every patch, which the language model reads one by one.",
        "Percentiles are of these images: other pairs would rank the same twins otherwise.",
        "What the models answer depends on everything behind the encoder too.",
    ),
    sections=(
        Section(
            "Twins",
            (
                FigureOf(
                    "twins",
                    "twin_likeness",
                    "pairs",
                    "Every pair of twins: how alike a model's encoder finds it, as a percentile of other pairs, and "
                    "how alike a random encoder does (the axes begin where the data do). Full: it has both right.",
                    "how alike encoders find twins",
                    says="Twins are less alike than for a random encoder",
                    claims=("apart",),
                ),
                TableOf("twins", SHARES),
            ),
        ),
    ),
)
