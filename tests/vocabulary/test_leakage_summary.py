"""What `leakage_by_layer` draws: means over items with intervals over images, per measure, model and layer."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t as student_t

from vlm_probe.errors import VlmProbeError
from vlm_probe.vocabulary import summarize_leakage

N = 7
TABLE = pd.DataFrame(
    {
        "model": ["b"] * N + ["a"] * 2,
        "id": [*(f"x{i}" for i in range(N)), "x0", "x1"],
        "image": [*(f"image {i}" for i in range(N)), "image 0", "image 0"],
        "layer": [1] * N + [0] * 2,
        "unused_mass": [0.1, 0.2, 0.6, 0.3, 0.3, 0.4, 0.2, 0.25, 0.35],
        "entropy": [1.0, 2.0, 3.0, 4.0, 4.0, 0.0, 2.0, 5.0, 6.0],
    }
)


def test_means_and_intervals_worked_by_hand():
    found = summarize_leakage(TABLE)
    assert found.columns.tolist() == ["model", "layer", "measure", "mean", "low", "high", "n", "images"]
    assert found[["model", "layer", "measure", "n", "images"]].values.tolist() == [
        ["b", 1, "unused_mass", N, N],
        ["a", 0, "unused_mass", 2, 1],
    ]
    np.testing.assert_allclose(found["mean"], [0.3, 0.3])
    reach = student_t.ppf(0.975, N - 1) * TABLE["unused_mass"].head(N).std() / np.sqrt(N)
    np.testing.assert_allclose(found.loc[0, ["low", "high"]].to_numpy(dtype=float), [0.3 - reach, 0.3 + reach])
    assert found.loc[1, ["low", "high"]].isna().all()  # of one image nothing is known


def test_items_of_one_image_are_no_more_than_one():
    """Every item twice: it used to narrow the interval by the root of two."""
    own = TABLE.head(N)
    twice = pd.concat([own, own.assign(id=own["id"] + " again")], ignore_index=True)
    columns = ["mean", "low", "high"]
    np.testing.assert_allclose(summarize_leakage(twice)[columns], summarize_leakage(own)[columns])
    assert summarize_leakage(twice)[["n", "images"]].values.tolist() == [[2 * N, N]]


def test_other_columns():
    found = summarize_leakage(TABLE, "entropy", "unused_mass")
    assert found["measure"].tolist() == ["entropy", "entropy", "unused_mass", "unused_mass"]
    assert found["mean"].tolist()[:2] == [pytest.approx(16 / N), 5.5]


def test_an_unknown_column_is_named():
    with pytest.raises(VlmProbeError) as error:
        summarize_leakage(TABLE, "mass")
    assert str(error.value) == "no column 'mass'; there are model, id, image, layer, unused_mass, entropy"
