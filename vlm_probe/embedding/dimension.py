"""How many directions a representation uses: effective rank, participation ratio, TwoNN, anisotropy."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vlm_probe.errors import VlmProbeError


def _matrix(x: Tensor | np.ndarray, least: int) -> Float[Tensor, "item feature"]:
    m = torch.as_tensor(x).double()
    if m.ndim != 2:
        raise VlmProbeError(f"a representation must be [item, feature], got shape {list(m.shape)}")
    if len(m) < least:
        raise VlmProbeError(f"{len(m)} items are too few, give at least {least}")
    if not bool(m.isfinite().all()):
        bad = int((~m.isfinite()).any(dim=1).sum())
        raise VlmProbeError(f"the representation has NaN or infinite values in {bad} of {len(m)} items")
    return m


def _spectrum(x: Tensor | np.ndarray) -> Float[Tensor, " direction"]:
    """Singular values of the centred matrix, largest first."""
    m = _matrix(x, 2)
    s = torch.linalg.svdvals(m - m.mean(0, keepdim=True))
    if float(s.sum()) == 0:
        raise VlmProbeError("the representation is the same for every item: it has no direction")
    return s


def effective_rank(x: Tensor | np.ndarray) -> float:
    """exp of the entropy of the singular values' shares (Roy and Vetterli 2007, equation 4), after centring.

    Between 1 and the rank. It grows with the width and the number of items, so that two representations of different
    width differ in it though nothing else sets them apart: a description, no test.

    Raises VlmProbeError for fewer than 2 items, values that are not finite, or a representation that is the same for
    every item.
    """
    p = _spectrum(x)
    p = p / p.sum()
    return float(torch.exp(-(p * p.clamp(min=1e-300).log()).sum()))


def participation_ratio(x: Tensor | np.ndarray) -> float:
    """(sum of variances)^2 over the sum of their squares, along principal directions (Gao et al. 2017,
    equation 5). Between 1 and the rank. Raises as `effective_rank` does.
    """
    variance = _spectrum(x).square()
    return float(variance.sum().square() / variance.square().sum())


def intrinsic_dimension(x: Tensor | np.ndarray, *, discard: float = 0.1) -> float:
    """TwoNN (Facco et al. 2017, Scientific Reports 7): from each item's ratio of its second to its
    first neighbour's distance.

    The slope through the origin of -log(1 - F) over log(ratio), F the ratios' empirical distribution,
    the largest `discard` of them left out, as the paper does. Items that stand twice count once.

    Raises VlmProbeError for fewer than 10 different items, and values that are not finite.
    """
    m = torch.unique(_matrix(x, 10), dim=0)
    if len(m) < 10:
        raise VlmProbeError(f"{len(m)} different items are too few for TwoNN, give at least 10")
    nearest = []
    for rows in m.split(1024):
        distance = torch.cdist(rows, m, compute_mode="donot_use_mm_for_euclid_dist")
        # The nearest of all is the item itself.
        nearest.append(distance.topk(3, largest=False).values[:, 1:])
    first, second = torch.cat(nearest).unbind(1)
    ratio = (second / first).sort().values
    n = len(ratio)
    kept = min(int(n * (1 - discard)), n - 1)  # the last has F = 1, whose logarithm is infinite
    along = ratio[:kept].log()
    empirical = -torch.log1p(-torch.arange(1, kept + 1, dtype=torch.float64) / n)
    return float((along * empirical).sum() / along.square().sum())


def anisotropy(x: Tensor | np.ndarray) -> float:
    """Mean cosine between two different items (Ethayarajh 2019, arXiv:1909.00512, section 4.1), not centred.

    0 where directions are uniform, 1 where all items point one way. Exact over all pairs. Raises
    VlmProbeError for fewer than 2 items, values that are not finite, or an item that is zero.
    """
    m = _matrix(x, 2)
    norm = m.norm(dim=1, keepdim=True)
    if bool((norm == 0).any()):
        raise VlmProbeError(f"{int((norm == 0).sum())} of {len(m)} items are zero and point nowhere")
    total = (m / norm).sum(0)
    n = len(m)
    return float((total @ total - n) / (n * (n - 1)))
