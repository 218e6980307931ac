"""How alike two representations of the same inputs are: CKA, SVCCA, Procrustes, shared neighbours.

Each takes two matrices [item, feature] whose rows are the same items in the same order, and gives
one number, 1 where the representations are the same up to what the measure ignores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from vlm_probe.errors import VlmProbeError

Matrix = Float[Tensor, "item _"]


def _pair(x: Tensor | np.ndarray, y: Tensor | np.ndarray) -> tuple[Matrix, Matrix]:
    """Both as float64, checked: as many rows, at least four, all finite, none constant throughout."""
    first, second = (torch.as_tensor(m).double() for m in (x, y))
    for name, m in (("the first", first), ("the second", second)):
        if m.ndim != 2:
            raise VlmProbeError(f"{name} representation must be [item, feature], got shape {list(m.shape)}")
        if not bool(m.isfinite().all()):
            bad = int((~m.isfinite()).any(dim=1).sum())
            raise VlmProbeError(f"{name} representation has NaN or infinite values in {bad} of {len(m)} items")
        if bool((m == m[:1]).all()):
            raise VlmProbeError(f"{name} representation is the same for every item: nothing can be compared")
    if len(first) != len(second):
        sizes = f"{len(first)} and {len(second)}"
        raise VlmProbeError(f"the representations have {sizes} items; they must be the same items")
    if len(first) < 4:
        raise VlmProbeError(f"{len(first)} items are too few to compare representations; give at least 4")
    return first, second


def _centered(x: Matrix) -> Matrix:
    return x - x.mean(0, keepdim=True)


def _hsic_unbiased(a: Float[Tensor, "item item"], b: Float[Tensor, "item item"]) -> Float[Tensor, ""]:
    """Unbiased HSIC of two Gram matrices (Song et al. 2012, equation 5); their diagonals are left out."""
    return _with_themselves(a, b)[0]


def _with_themselves(a: Float[Tensor, "item item"], b: Float[Tensor, "item item"]) -> Float[Tensor, "3"]:
    """`_hsic_unbiased` of two Gram matrices, of the first with itself and of the second with itself."""
    n, grams = len(a), [m - torch.diag(m.diagonal()) for m in (a, b)]
    columns, totals = [m.sum(0) for m in grams], [m.sum() for m in grams]
    found = []
    for i, j in ((0, 1), (0, 0), (1, 1)):
        sums = totals[i] * totals[j] / ((n - 1) * (n - 2))
        cross = 2 * (columns[i] @ columns[j]) / (n - 2)
        found.append(((grams[i] * grams[j]).sum() + sums - cross) / (n * (n - 3)))
    return torch.stack(found)


def cka(x: Tensor | np.ndarray, y: Tensor | np.ndarray, *, debiased: bool = True) -> float:
    """Linear centred kernel alignment (Kornblith et al. 2019, arXiv:1905.00414, equation 4).

    1 for representations equal up to rotation and scale. `debiased` uses the unbiased HSIC (Nguyen
    et al. 2021, arXiv:2010.15327, equation 3): without it, few items with many features look alike
    whatever they are. Debiased values may be slightly negative.

    Raises VlmProbeError for different numbers of items, fewer than 4, values that are not finite, or
    a representation that is the same for every item.
    """
    first, second = _pair(x, y)
    if debiased:
        xy, xx, yy = _with_themselves(first @ first.T, second @ second.T)
        return float(xy / (xx * yy).clamp(min=1e-300).sqrt())
    first, second = _centered(first), _centered(second)
    return float((first.T @ second).square().sum() / ((first.T @ first).norm() * (second.T @ second).norm()))


def minibatch_cka(batches: Iterable[tuple[Tensor | np.ndarray, Tensor | np.ndarray]]) -> float:
    """Debiased CKA from batches, never holding all items: the mean of each batch's unbiased HSICs
    (Nguyen et al. 2021, arXiv:2010.15327, equation 2).

    Its expectation for HSIC does not depend on the batch size. Raises as `cka` does, and without a batch.
    """
    sums = torch.zeros(3, dtype=torch.float64)
    for x, y in batches:
        first, second = _pair(x, y)
        sums += _with_themselves(first @ first.T, second @ second.T)
    if not bool(sums.any()):
        raise VlmProbeError("there was no batch to compare")
    return float(sums[0] / (sums[1] * sums[2]).clamp(min=1e-300).sqrt())


def svcca(x: Tensor | np.ndarray, y: Tensor | np.ndarray, *, variance: float = 0.99) -> float:
    """Mean canonical correlation after keeping the directions that hold `variance` of each
    representation (Raghu et al. 2017, arXiv:1706.05806, section 2). 1 for equal up to any invertible map.

    Raises as `cka` does.
    """
    bases = []
    for m in _pair(x, y):
        u, s, _ = torch.linalg.svd(_centered(m), full_matrices=False)
        share = s.square().cumsum(0) / s.square().sum()
        bases.append(u[:, : int((share < variance).sum()) + 1])
    correlations = torch.linalg.svdvals(bases[0].T @ bases[1])
    return float(correlations.clamp(max=1.0).mean())


def procrustes(x: Tensor | np.ndarray, y: Tensor | np.ndarray) -> float:
    """Similarity under the best rotation: the nuclear norm of the cross-covariance of both, each centred
    and scaled to norm 1 (Schönemann 1966; Williams et al. 2021, arXiv:2110.14739, as a cosine).

    1 for representations equal up to rotation, shift and scale; the squared Procrustes distance is
    2 minus twice this. Raises as `cka` does.
    """
    first, second = (_centered(m) / _centered(m).norm() for m in _pair(x, y))
    return float(torch.linalg.svdvals(first.T @ second).sum())


def mutual_neighbors(x: Tensor | np.ndarray, y: Tensor | np.ndarray, *, k: int = 10) -> float:
    """Share of each item's `k` nearest neighbours (cosine) that both representations agree on
    (Huh et al. 2024, arXiv:2405.07987, mutual nearest neighbours). Chance is k over the other items.

    Deviation: both are centred first, since of features that share a large mean all cosines are alike.

    Raises as `cka` does, and for `k` that leaves no other item.
    """
    first, second = _pair(x, y)
    if not 1 <= k < len(first):
        raise VlmProbeError(f"k must be between 1 and {len(first) - 1} for {len(first)} items, got {k}")
    near = []
    for m in (first, second):
        unit = _centered(m) / _centered(m).norm(dim=1, keepdim=True).clamp(min=1e-12)
        near.append((unit @ unit.T).fill_diagonal_(-torch.inf).topk(k, dim=1).indices)
    shared = (near[0][:, :, None] == near[1][:, None, :]).any(-1)
    return float(shared.double().mean())


MEASURES: dict[str, Callable[..., float]] = {
    "cka": cka,
    "svcca": svcca,
    "procrustes": procrustes,
    "mutual_neighbors": mutual_neighbors,
}
"""Name -> measure of two matrices."""


Points = xr.Dataset | dict[str, Any]


def _same_items(first: xr.Dataset, second: xr.Dataset) -> None:
    if "id" not in first.coords or "id" not in second.coords:
        return
    one, two = first["id"].values.tolist(), second["id"].values.tolist()
    if one == two:
        return
    at = next((i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))
    a, b = (repr(x[at]) if at < len(x) else "nothing" for x in (one, two))
    raise VlmProbeError(
        f"the features are of different items: number {at} is {a} in the first ({len(one)} items) and {b} in the "
        f"second ({len(two)}); take both from one list of items"
    )


def similarity_matrix(first: Points, second: Points, *, measure: str = "cka") -> pd.DataFrame:
    """One measure between every point of one list and every point of another, of one or of two models.

    first, second: from `features` (pooled), or point name -> [item, feature]; the same items throughout.

    Returns one row a point of `first`, one column a point of `second`; `attrs` name the measure.

    Raises VlmProbeError for an unknown measure, features of different items, and as the measure does.
    """
    if measure not in MEASURES:
        raise VlmProbeError(f"no measure {measure!r}; there are {', '.join(MEASURES)}")
    if isinstance(first, xr.Dataset) and isinstance(second, xr.Dataset):
        _same_items(first, second)
    one, two = ({str(name): np.asarray(x) for name, x in points.items()} for points in (first, second))
    values = [[MEASURES[measure](x, y) for y in two.values()] for x in one.values()]
    table = pd.DataFrame(values, index=list(one), columns=list(two))
    table.attrs = {"title": measure, "units": measure, "items": len(next(iter(one.values())))}
    return table
