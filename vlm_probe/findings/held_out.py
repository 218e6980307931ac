"""Which labels of images a linear probe has right, item by item, while what it is asked about is held out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import t as student_t

from vlm_probe.embedding.probe import STRENGTHS
from vlm_probe.embedding.transfer import dealt, transferred_predictions
from vlm_probe.evidence import Estimate, PairedMean, Tables
from vlm_probe.settings import TAIL

FOLDS = 5
"""Parts that items are dealt to where what is held out has many values, and the fewest items of a label."""


def parts_of(y: np.ndarray, held_out: np.ndarray, images: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """The part of every item, which is held out whole: the values of `held_out`, dealt to folds where there are many.

    Images are dealt where there are fewer than three values, or some are not known ("").
    """
    values = len(np.unique(held_out))
    if values < 3 or (held_out == "").any():
        return dealt(y, images, parts=FOLDS, seed=seed)
    return held_out if values < 2 * FOLDS else dealt(y, held_out, parts=FOLDS, seed=seed)


def probed(
    views: Mapping[str, np.ndarray],
    label: np.ndarray,
    held_out: np.ndarray,
    images: np.ndarray,
    *,
    seed: int = 0,
    strengths: Sequence[float] = STRENGTHS,
) -> dict[str, np.ndarray]:
    """Whether a probe of each view has each item's label right while its part is held out, and whether a guess has.

    views: by name, [item, feature] or [point, item, feature]. label: [item], "" where it is not known.

    Returns by name 1, 0, or NaN where the label is not known or too rare to be probed; "common" is the guess, which
    always says the most frequent label.
    """
    asked = label != ""
    for view in views.values():
        asked &= np.isfinite(view).all(axis=-1).reshape(-1, len(label)).all(axis=0)
    y, parts, asked = _askable(label, held_out, images, asked, seed)
    found: dict[str, np.ndarray] = {name: np.full(view.shape[:-1], np.nan) for name, view in views.items()}
    found |= {"common": np.full(len(label), np.nan)}
    if len(y) == 0:
        return found
    for name, view in views.items():
        layers = view[..., asked, :].reshape(-1, len(y), view.shape[-1])
        right = transferred_predictions(layers.astype(np.float32), y, parts, strengths=strengths) == y
        found[name][..., asked] = right.reshape(*view.shape[:-2], len(y))
    names, counts = np.unique(y, return_counts=True)
    found["common"][asked] = y == names[counts.argmax()]
    return found


def _askable(
    label: np.ndarray, held_out: np.ndarray, images: np.ndarray, asked: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels and parts of the items that can be probed, and which those are: nothing where too few are left.

    A label must have `FOLDS` items, and stand in two parts, or no probe that did not see it could name it.
    """
    nothing = np.zeros(0, dtype=label.dtype), np.zeros(0), np.zeros(len(label), dtype=bool)
    while True:
        names, counts = np.unique(label[asked], return_counts=True)
        rare = names[counts < FOLDS]
        if len(rare) == 0:
            if len(names) < 2 or len(np.unique(images[asked])) < 2 * FOLDS:
                return nothing
            parts = parts_of(label[asked], held_out[asked], images[asked], seed=seed)
            rare = np.asarray([one for one in names if len(np.unique(parts[label[asked] == one])) < 2])
            if len(rare) == 0:
                return label[asked], parts, asked
        asked = asked & ~np.isin(label, rare)


@dataclass(frozen=True)
class OfProbes:
    """A paired mean of what two probes found, as sure as their training allows.

    Items are independent, and the probes that are asked about them are not: each was trained on most of what the others
    were. Of two views that hold a label alike, the mean over items then differs "significantly" in 7 to 9 % of runs,
    however many there are. The variance is that of the items times 1 + k n_test / n_train, for k parts 1 + k / (k - 1)
    (Nadeau and Bengio 2003, Machine Learning 52, equation 8, for the parts of a cross-validation).
    """

    of: PairedMean

    def __call__(self, tables: Sequence[Tables]) -> Estimate:
        found = self.of(tables)
        if math.isnan(found.low):
            return found
        middle, reach = (found.low + found.high) / 2, (found.high - found.low) / 2
        reach *= math.sqrt(1 + FOLDS / (FOLDS - 1))
        degrees = found.clusters - 1
        error = reach / float(student_t.ppf(1 - TAIL, degrees))
        p = 2 * float(student_t.sf(abs(found.difference) / error, degrees)) if error > 0 else found.p
        return replace(found, low=middle - reach, high=middle + reach, p=max(found.p, p))
