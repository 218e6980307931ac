"""What `leakage_by_layer` draws: means over items with 1.96 standard errors of them, per model and layer."""

import numpy as np
import pandas as pd
import pytest

from vlm_probe.errors import VlmProbeError
from vlm_probe.vocabulary import summarize_leakage

TABLE = pd.DataFrame(
    {
        "model": ["b"] * 5 + ["a"] * 2,
        "id": ["x", "y", "z", "x", "y", "x", "y"],
        "layer": [1, 1, 1, 0, 0, 0, 0],
        "unused_mass": [0.1, 0.2, 0.6, 0.5, 0.7, 0.25, 0.25],
        "entropy": [1.0, 2.0, 3.0, 4.0, 4.0, 0.0, 2.0],
    }
)


def test_means_and_intervals_worked_by_hand():
    found = summarize_leakage(TABLE)
    assert found.columns.tolist() == ["model", "layer", "mean", "low", "high", "n"]
    assert found[["model", "layer", "n"]].values.tolist() == [["b", 1, 3], ["b", 0, 2], ["a", 0, 2]]
    # Standard deviations of the samples: sqrt(0.07), sqrt(0.02) and 0.
    reach = 1.96 * np.sqrt([0.07 / 3, 0.02 / 2, 0.0])
    np.testing.assert_allclose(found["mean"], [0.3, 0.6, 0.25])
    np.testing.assert_allclose(found["low"], found["mean"] - reach)
    np.testing.assert_allclose(found["high"], found["mean"] + reach)
    assert found.attrs["column"] == "unused_mass"


def test_another_column():
    found = summarize_leakage(TABLE, "entropy")
    assert found["mean"].tolist() == [2.0, 4.0, 1.0]
    assert found.attrs["column"] == "entropy"


def test_an_unknown_column_is_named():
    with pytest.raises(VlmProbeError) as error:
        summarize_leakage(TABLE, "mass")
    assert str(error.value) == "no column 'mass'; there are model, id, layer, unused_mass, entropy"
