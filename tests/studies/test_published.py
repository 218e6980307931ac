"""The paper's numbers: what was published, what is missing, and the differences by hand."""

import numpy as np
import pandas as pd
import pytest
from tiny import SHARED

from vlm_probe.studies import (
    FACTORS,
    published_effects,
    published_gaps,
    published_interactions,
    published_results,
)
from vlm_probe.studies.published import MEASURES, MODEL, NAMES


def test_the_table_is_the_shared_one_and_missing_stays_missing():
    results = published_results()
    assert len(results) == 10 * len(MEASURES)
    source = SHARED / "paper" / "llava_gemma_results.csv"
    if not source.exists():
        pytest.skip(f"no {source}")
    wide = pd.read_csv(source)
    ours = results.pivot(index=MODEL, columns="benchmark", values="value").sort_index()
    printed = wide.set_index(MODEL).sort_index()
    assert ours.index.equals(printed.index)
    for name, (_, factor) in MEASURES.items():
        np.testing.assert_allclose(ours[name], printed[name] * factor, rtol=1e-12)  # equal where missing, too
    assert results["source"].str.len().min() > 5


def test_effects_by_hand():
    effects = published_effects().set_index(["factor", "fixed", "benchmark"])
    size = effects.loc[("size", "CLIP, connector pretrained", "gqa")]
    assert (size["before"], size["after"]) == pytest.approx((53.1, 47.2))
    assert size["difference"] == pytest.approx(-5.9)
    assert size["relative"] == pytest.approx(-100 * 5.9 / 53.1)
    connector = effects.loc[("connector", "gemma-2b-it, CLIP", "mmvp")]
    assert connector["difference"] == pytest.approx(28.7 - 18.0)
    encoder = effects.loc[("encoder", "gemma-2b-it, connector pretrained", "mme_cognition")]
    assert encoder["difference"] == pytest.approx(307.143 - 236.071)


def test_no_number_is_invented():
    effects = published_effects()
    assert set(effects["factor"]) == set(FACTORS)
    gone = effects["missing"] != ""
    assert effects.loc[gone, ["difference", "relative"]].isna().all().all()
    assert effects.loc[~gone, ["before", "after", "difference", "relative"]].notna().all().all()
    lone = effects.query("factor == 'size' and benchmark == 'textvqa' and fixed == 'CLIP, connector pretrained'")
    assert lone["missing"].tolist() == ["gemma-7b-it, CLIP, connector pretrained"]
    assert np.isfinite(lone["before"]).all(), "the number that was published is shown"


def test_interactions_by_hand():
    """MMVP with CLIP: 18.0, 24.0 without connector pretraining, 28.7 and 32.7 with it."""
    found = published_interactions("size", "connector").set_index(["benchmark", "fixed"])
    mmvp = found.loc[("mmvp", "CLIP")]
    assert (mmvp["at_start"], mmvp["at_end"], mmvp["difference"]) == pytest.approx((6.0, 4.0, -2.0))
    assert mmvp["relative"] == pytest.approx(-100 * 2.0 / 18.0)
    assert (mmvp["name"], mmvp["unit"], mmvp["missing"]) == ("MMVP", "accuracy, %", "")
    mme = found.loc[("mme_perception", "CLIP")]
    assert mme["difference"] == pytest.approx((894.910 - 1130.492) - (857.274 - 934.611))
    # Half of it is at hand: that half is shown, and nothing is made of it.
    half = published_interactions("encoder", "size").set_index(["benchmark", "fixed"])
    gqa = half.loc[("gqa", "connector pretrained")]
    assert gqa["at_start"] == pytest.approx(5.6)
    assert np.isnan([gqa["at_end"], gqa["difference"], gqa["relative"]]).all()
    assert gqa["missing"] == "gemma-7b-it, DINOv2, connector pretrained"


@pytest.mark.parametrize("factor", list(FACTORS))
def test_an_interaction_is_the_difference_of_two_effects(factor):
    effects = published_effects().query("factor == @factor")
    for by in set(FACTORS) - {factor}:
        found = published_interactions(factor, by)
        assert len(found) == 2 * len(MEASURES)
        known = found.query("missing == ''")
        assert known["difference"].to_numpy() == pytest.approx((known["at_end"] - known["at_start"]).to_numpy())
        there = set(np.round(effects["difference"].dropna(), 6))
        assert set(np.round(known["at_start"], 6)) | set(np.round(known["at_end"], 6)) <= there
        assert np.isnan(found.query("missing != ''")["difference"].to_numpy(dtype=float)).all()


def test_what_is_not_at_hand_is_named():
    gaps = published_gaps()
    wide = published_results().query("language_model.str.startswith('gemma')")
    assert sum(map(len, gaps.values())) == np.isnan(wide["value"].to_numpy(dtype=float)).sum()
    assert gaps["gemma-7b-it, CLIP, connector pretrained"] == ["TextVQA"]
    assert list(NAMES) == list(MEASURES)
