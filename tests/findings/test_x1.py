"""X1: the paper's table, read as differences of differences."""

import numpy as np
import planting
import pytest
from crossed import by_runs, of_grids

from vlm_probe import findings
from vlm_probe.findings.interactions import PAPER
from vlm_probe.findings.x1_size_pretraining import FINDING, size_by_pretraining
from vlm_probe.studies import published_gaps, published_interactions
from vlm_probe.studies.published import MEASURES, NAMES


@pytest.fixture(scope="module")
def paper():
    return findings.run(["x1"], []).evidence.query("models == 'the paper'").set_index("claim")


def test_the_designs_examples_by_the_table(paper):
    """The 7B gains 3.4 points on VQAv2 without connector pretraining, loses 2.0 with it; GQA -5.9, ScienceQA +6.1."""
    vqa = paper.loc["vqav2, CLIP"]
    assert (vqa["control"], vqa["value"]) == pytest.approx((65.09 - 61.74, 68.7 - 70.65))
    assert (vqa["control"], vqa["value"]) == pytest.approx((3.4, -2.0), abs=0.0501)
    assert vqa["difference"] == pytest.approx(-5.3)
    assert paper.loc["gqa, CLIP", "value"] == pytest.approx(-5.9)
    assert paper.loc["gqa, CLIP", "difference"] == pytest.approx(-5.9 + 0.9)
    assert paper.loc["scienceqa_image, CLIP", "value"] == pytest.approx(6.1)
    # Gained with pretraining, and more without: the difference of differences has the other sign than the gain.
    assert paper.loc["scienceqa_image, CLIP", "difference"] == pytest.approx(6.1 - 8.7)
    assert vqa["sentence"] == (
        "VQAv2 (accuracy, %), CLIP: what the 7B adds with connector pretraining, beside what it adds without"
    )
    assert vqa["against"] == "what it adds without"


def test_every_number_that_is_there_is_read_and_no_other(paper):
    assert paper.index.tolist() == [f"{name}, CLIP" for name in MEASURES if name != "textvqa"]
    assert paper["difference"].notna().all()
    summary = FINDING.shown(size_by_pretraining(), []).summary[0]
    assert summary == (
        "Of the paper's 20 differences of differences 9 can be computed: the 7B adds more with connector pretraining "
        "than without in 1, less in 7, as much in 1. Each number is one run."
    )
    (gap,) = [text for text in FINDING.caveats if text.startswith("Not at hand")]
    for model, names in published_gaps().items():
        assert f"{model} ({'all' if len(names) == len(NAMES) else ', '.join(names)})" in gap


def test_it_is_the_same_read_the_other_way_round():
    """What pretraining adds to the 7B, less what it adds to the 2B."""
    one = size_by_pretraining()[PAPER]["published"].set_index(["benchmark", "fixed"])["difference"]
    other = published_interactions("connector", "size").set_index(["benchmark", "fixed"])["difference"]
    np.testing.assert_allclose(one, other.loc[one.index], atol=1e-9)


def test_with_nothing_there_little_is_decided():
    """Changes that add up have no interaction, however much each of them does."""
    simulated = by_runs(FINDING, planting.RUNS)
    rates = planting.decided(of_grids(FINDING), lambda rng: next(simulated))
    print(rates)
    assert max(rates.values()) <= planting.MOST
