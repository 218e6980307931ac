"""Ranks and dimensions, planted."""

import numpy as np
import pytest
import torch
from sklearn.datasets import make_swiss_roll

from vlm_probe.embedding.dimension import anisotropy, effective_rank, intrinsic_dimension, participation_ratio
from vlm_probe.errors import VlmProbeError

NAN = "the representation has NaN or infinite values in 5 of 5 items"


def noise(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("measure", [effective_rank, participation_ratio])
def test_equal_directions_count_alike(measure):
    orthogonal = torch.linalg.qr(noise(97, 7) - noise(97, 7).mean(0))[0]
    orthogonal = torch.linalg.qr(orthogonal - orthogonal.mean(0))[0]
    assert measure(orthogonal @ torch.linalg.qr(noise(7, 7, 1))[0] + 3) == pytest.approx(7, abs=1e-9)
    assert measure(orthogonal[:, :1] @ noise(1, 19)) == pytest.approx(1, abs=1e-9)


def test_by_hand():
    # Two directions with singular values 3 and 1.
    x = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    p = np.array([0.75, 0.25])
    assert effective_rank(x) == pytest.approx(np.exp(-(p * np.log(p)).sum()))
    assert participation_ratio(x) == pytest.approx((9 + 1) ** 2 / (81 + 1))


@pytest.mark.parametrize("d", [1, 2, 5])
def test_intrinsic_dimension_of_spheres(d):
    sphere = torch.nn.functional.normalize(noise(2500, d + 1, d), dim=1)
    # Bent into more dimensions, which changes nothing.
    assert intrinsic_dimension(sphere @ noise(d + 1, 31)) == pytest.approx(d, rel=0.12)


def test_intrinsic_dimension_of_a_swiss_roll():
    roll, _ = make_swiss_roll(2500, random_state=0)
    assert intrinsic_dimension(roll) == pytest.approx(2, rel=0.1)
    assert intrinsic_dimension(np.concatenate([roll, roll])) == pytest.approx(intrinsic_dimension(roll))


def test_anisotropy_of_a_cone_and_of_a_ball():
    assert anisotropy(noise(2000, 41)) == pytest.approx(0, abs=0.005)
    assert anisotropy(torch.ones(5, 3) * torch.arange(1, 6)[:, None]) == pytest.approx(1)
    x = noise(23, 7) + 1
    unit = x / x.norm(dim=1, keepdim=True)
    pairs = (unit @ unit.T)[~torch.eye(23, dtype=torch.bool)]
    assert anisotropy(x) == pytest.approx(float(pairs.mean()))


@pytest.mark.parametrize(
    ("measure", "x", "message"),
    [
        (effective_rank, torch.ones(5, 3), "the representation is the same for every item: it has no direction"),
        (participation_ratio, torch.full((5, 3), torch.nan), NAN),
        (intrinsic_dimension, torch.ones(50, 3), "1 different items are too few for TwoNN, give at least 10"),
        (intrinsic_dimension, noise(9, 3), "9 items are too few, give at least 10"),
        (anisotropy, torch.zeros(5, 3), "5 of 5 items are zero and point nowhere"),
        (anisotropy, torch.ones(5), "a representation must be [item, feature], got shape [5]"),
    ],
)
def test_what_has_no_dimension(measure, x, message):
    with pytest.raises(VlmProbeError) as caught:
        measure(x)
    assert str(caught.value) == message
