"""Two dimensions of many: PCA, t-SNE and UMAP, with how far the picture can be trusted."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
import xarray as xr
from jaxtyping import Float

from vlm_probe.errors import VlmProbeError

METHODS = ("umap", "pca", "tsne")


def project(
    rows: xr.DataArray | np.ndarray, *, method: str = "umap", neighbors: int = 15, seed: int = 0
) -> pd.DataFrame:
    """Rows drawn in two dimensions: image and text tokens together, say.

    Parameters
    ----------
    rows: [row, feature]; a variable of `token_rows` or `features` keeps its coordinates.
    method: "umap" (McInnes et al. 2018, arXiv:1802.03426), "pca", or "tsne" (van der Maaten and Hinton 2008).
    neighbors: UMAP's neighbourhood, half of t-SNE's perplexity (which is at most a quarter of the rows),
        and the k of the trustworthiness.
    seed: one seed gives one picture (on one machine).

    Returns
    -------
    Columns x, y and the rows' coordinates; `attrs` carry method, trustworthiness (Venna and Kaski 2001,
    equation 1: 1 where every neighbour in the picture is one in the data; 0.5 by chance), and for PCA
    explained (the share of variance of each axis).

    Raises
    ------
    VlmProbeError: an unknown method, rows that are not finite, fewer than 3 * neighbors + 1 of them.
    """
    if method not in METHODS:
        raise VlmProbeError(f"no projection {method!r}; there are {', '.join(METHODS)}")
    x = np.asarray(rows, dtype=np.float32)
    if x.ndim != 2:
        raise VlmProbeError(f"rows must be [row, feature], got shape {list(x.shape)}")
    bad = int((~np.isfinite(x)).any(axis=1).sum())
    if bad:
        raise VlmProbeError(f"{bad} of {len(x)} rows have NaN or infinite values; leave those out")
    if len(x) <= 3 * neighbors:
        raise VlmProbeError(f"{len(x)} rows are too few for neighbors={neighbors}; give at least {3 * neighbors + 1}")
    attrs: dict[str, object] = {}
    # Slow to import.
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE, trustworthiness

    if method == "pca":
        fitted = PCA(2, random_state=seed)
        flat = fitted.fit_transform(x)
        attrs["explained"] = fitted.explained_variance_ratio_.round(4).tolist()
    elif method == "tsne":
        flat = TSNE(2, perplexity=min(2 * neighbors, len(x) / 4), init="pca", random_state=seed).fit_transform(x)
    else:
        flat = _umap(x, neighbors, seed)
    table = pd.DataFrame(np.asarray(flat, dtype=float), columns=["x", "y"])
    if isinstance(rows, xr.DataArray):
        along = {name: c.values for name, c in rows.coords.items() if c.dims == rows.dims[:1]}
        table = table.assign(**{str(name): values for name, values in along.items()})
        attrs |= {"title": str(rows.name), **rows.attrs}
    table.attrs = {
        **attrs,
        "method": method,
        "neighbors": neighbors,
        "seed": seed,
        "trustworthiness": float(trustworthiness(x, flat, n_neighbors=neighbors)),
    }
    return table


def _umap(x: Float[np.ndarray, "row feature"], neighbors: int, seed: int) -> Float[np.ndarray, "row 2"]:
    # Slow to import: it compiles.
    from umap import UMAP

    # Its compiler and torch share OpenMP, and it leaves all cores to the process: a model that was held to one thread
    # would share its small sums among all of them from here on, up to a hundred times slower.
    threads = torch.get_num_threads()
    try:
        return UMAP(n_neighbors=neighbors, random_state=seed, n_jobs=1).fit_transform(x)
    finally:
        torch.set_num_threads(threads)
