"""Similarity measures: planted rotations, noise, and independent formulas."""

import numpy as np
import pytest
import torch
import xarray as xr

from vlm_probe.embedding.similarity import (
    MEASURES,
    cka,
    minibatch_cka,
    mutual_neighbors,
    procrustes,
    similarity_matrix,
    svcca,
)
from vlm_probe.errors import VlmProbeError


def noise(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(d: int) -> torch.Tensor:
    return torch.linalg.qr(noise(d, d, 9))[0]


X = noise(101, 13) @ torch.diag(torch.arange(1, 14, dtype=torch.float64))

BAD = X.index_fill(0, torch.tensor([2, 5]), torch.nan)


@pytest.mark.parametrize("name", MEASURES)
def test_a_rotated_scaled_and_shifted_copy_is_the_same(name):
    assert MEASURES[name](X, 3.7 * X @ rotation(13) + 5) == pytest.approx(1, abs=1e-9)
    assert MEASURES[name](X, X) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("name", MEASURES)
def test_measures_are_symmetric_and_lie_between_noise_and_one(name):
    mixed = torch.cat([X[:, :5], noise(101, 17, 4)], dim=1)
    forth, back = MEASURES[name](X, mixed), MEASURES[name](mixed, X)
    assert forth == pytest.approx(back, abs=1e-9)
    assert MEASURES[name](X, noise(101, 17, 5)) < forth < 1


def test_linear_cka_against_the_direct_formula():
    y = noise(101, 7, 2) + X[:, :7]
    h = np.eye(101) - 1 / 101
    k, m = h @ (X @ X.T).numpy() @ h, h @ (y @ y.T).numpy() @ h
    direct = np.trace(k @ m) / np.sqrt(np.trace(k @ k) * np.trace(m @ m))
    assert cka(X, y, debiased=False) == pytest.approx(direct, abs=1e-12)


def test_debiased_cka_of_noise_is_zero_where_the_biased_one_is_not():
    found = [cka(noise(29, 211, s), noise(29, 197, 1000 + s)) for s in range(60)]
    assert np.mean(found) == pytest.approx(0, abs=0.02)
    assert cka(noise(29, 211), noise(29, 197, 7), debiased=False) > 0.8


def test_the_unbiased_estimate_by_its_definition():
    """Song et al. 2012: HSIC as averages over pairs, triples and quadruples of different items."""
    from itertools import permutations

    from vlm_probe.embedding.similarity import _hsic_unbiased

    x, y = noise(7, 3), noise(7, 2, 1)
    k, m = x @ x.T, y @ y.T
    pairs = np.mean([float(k[i, j] * m[i, j]) for i, j in permutations(range(7), 2)])
    triples = np.mean([float(k[i, j] * m[i, q]) for i, j, q in permutations(range(7), 3)])
    quads = np.mean([float(k[i, j] * m[q, r]) for i, j, q, r in permutations(range(7), 4)])
    assert float(_hsic_unbiased(k, m)) == pytest.approx(pairs + quads - 2 * triples, abs=1e-9)


def test_batches_estimate_the_whole():
    x = noise(3000, 11)
    y = torch.cat([x[:, :6], noise(3000, 7, 3)], dim=1)
    whole = cka(x, y)
    assert minibatch_cka(zip(x.split(50), y.split(50), strict=True)) == pytest.approx(whole, abs=0.01)
    assert minibatch_cka([(x, y)]) == pytest.approx(whole, abs=1e-12)
    with pytest.raises(VlmProbeError, match="^there was no batch to compare$"):
        minibatch_cka([])


def test_procrustes_against_scipy():
    from scipy.spatial import procrustes as reference

    y = noise(101, 13, 6) + X
    # scipy's disparity is 1 - s^2, with the same s.
    assert 1 - procrustes(X, y) ** 2 == pytest.approx(reference(X.numpy(), y.numpy())[2], abs=1e-9)


def test_svcca_ignores_any_invertible_map_and_finds_a_shared_part():
    assert svcca(X, X @ noise(13, 13, 8), variance=1.0) == pytest.approx(1, abs=1e-6)
    # Two of five directions shared, the others independent: two correlations of 1, three small.
    shared = noise(4001, 2)
    a, b = torch.cat([shared, noise(4001, 3, 1)], 1), torch.cat([shared, noise(4001, 3, 2)], 1)
    assert svcca(a, b, variance=1.0) == pytest.approx(2 / 5, abs=0.03)


def test_shared_neighbours_by_hand_and_by_chance():
    line = torch.tensor([[0.0, 1.0], [1.0, 1.1], [2.0, 0.1], [3.0, -1.0], [4.0, -1.4]])
    assert mutual_neighbors(line, line.flip(0), k=1) < 1
    found = np.mean([mutual_neighbors(noise(53, 5, s), noise(53, 5, 100 + s), k=8) for s in range(20)])
    assert found == pytest.approx(8 / 52, abs=0.02)
    with pytest.raises(VlmProbeError, match="^k must be between 1 and 4 for 5 items, got 5$"):
        mutual_neighbors(line, line, k=5)


def test_layers_against_layers():
    first = {"a": X, "b": noise(101, 5, 3)}
    second = {"c": X @ rotation(13), "d": noise(101, 3, 4), "e": X[:, :2]}
    table = similarity_matrix(first, second)
    assert table.shape == (2, 3)
    assert table.loc["a", "c"] == pytest.approx(1)
    assert table.loc["b", "d"] == pytest.approx(cka(first["b"], second["d"]))
    assert table.attrs["items"] == 101
    with pytest.raises(VlmProbeError, match="^no measure 'cca'; there are cka, svcca"):
        similarity_matrix(first, second, measure="cca")


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (X, X[:50], "the representations have 101 and 50 items; they must be the same items"),
        (X[:3], X[:3], "3 items are too few to compare representations; give at least 4"),
        (X, BAD, "the second representation has NaN or infinite values in 2 of 101"),
        (torch.ones(101, 3), X, "the first representation is the same for every item"),
        (X[0], X, "the first representation must be [item, feature], got shape [13]"),
    ],
)
@pytest.mark.parametrize("name", MEASURES)
def test_what_cannot_be_compared(name, x, y, message):
    with pytest.raises(VlmProbeError) as caught:
        MEASURES[name](x, y)
    assert str(caught.value).startswith(message)


def test_features_of_different_items_are_not_compared():
    def data(ids):
        values = np.random.default_rng(0).normal(size=(len(ids), 3))
        return xr.Dataset({"point": (("item", "f"), values)}, coords={"id": ("item", ids)})

    alike = similarity_matrix(data(list("abcde")), data(list("abcde")))
    assert alike.iloc[0, 0] == pytest.approx(1)
    with pytest.raises(VlmProbeError) as caught:
        similarity_matrix(data(list("abcde")), data(list("abxde")))
    assert str(caught.value) == (
        "the features are of different items: number 2 is 'c' in the first (5 items) and 'x' in the second (5); take "
        "both from one list of items"
    )
    with pytest.raises(VlmProbeError, match=r"number 4 is 'e' in the first \(5 items\) and nothing in the second"):
        similarity_matrix(data(list("abcde")), data(list("abcd")))
