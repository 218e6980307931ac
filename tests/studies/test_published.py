"""The paper's numbers: what was published, what is missing, and the differences by hand."""

import numpy as np
import pandas as pd
import pytest
from tiny import SHARED

from vlm_probe.findings import FACTORS, published_effects, published_results
from vlm_probe.studies.published import MEASURES, MODEL


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
