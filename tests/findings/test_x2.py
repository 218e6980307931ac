"""X2: what the paper's table can say of encoder and size, and what it cannot."""

import planting
import pytest
from crossed import by_runs, of_grids

from vlm_probe.findings.interactions import PAPER
from vlm_probe.findings.x2_encoder_size import FINDING, encoder_by_size


def test_half_of_the_designs_example_is_there():
    """DINOv2 helps the 2B; of the 7B with DINOv2 no number is at hand, so that nothing is said of it."""
    table = encoder_by_size()[PAPER]["published"]
    pretrained = table.query("fixed == 'connector pretrained'").set_index("benchmark")
    known = pretrained["at_start"].dropna()
    assert known.to_dict() == pytest.approx(
        {
            "gqa": 5.6,
            "mme_cognition": 307.143 - 236.071,
            "mme_perception": 1132.970 - 1130.492,
            "mm_vet": 19.128 - 17.706,
            "pope_accuracy": 0.3,
            "pope_f1": -0.1,
        }
    )
    assert table[["at_end", "difference", "relative"]].isna().to_numpy().all()
    assert (table["missing"].str.contains("gemma-7b-it, DINOv2")).all()
    assert [claim for claim in FINDING.claims if PAPER in claim.about] == []
    assert FINDING.shown(encoder_by_size(), []).summary[0] == (
        "Of the paper's 20 differences of differences 0 can be computed; in 6 more, what DINOv2 in place of CLIP adds "
        "to the 2B is known (it helps in 5), and what it adds to the 7B is not. Each number is one run."
    )
    drawn = FINDING.shown(encoder_by_size(), []).tables["forest"].query("series == 'paper'")
    assert drawn["name"].tolist() == ["all 20 of the paper's"], "one empty line, and not ten"
    assert any("Of the 7B with DINOv2 no number is at hand" in caveat for caveat in FINDING.caveats)


def test_with_nothing_there_little_is_decided():
    """Changes that add up have no interaction, however much each of them does."""
    simulated = by_runs(FINDING, planting.RUNS)
    rates = planting.decided(of_grids(FINDING), lambda rng: next(simulated))
    print(rates)
    assert max(rates.values()) <= planting.MOST
