"""The grid's effects: pairs that differ in one factor, seeds paired, intervals against scipy and by hand."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_1samp

from vlm_probe.errors import VlmProbeError
from vlm_probe.findings import grid_differences, grid_effects
from vlm_probe.studies.grid import grid_scores
from vlm_probe.zoo.cells import CELLS

SEEDS = (0, 1, 2)


def scores_of(values):
    """A table of scores from {(cell, seed): share right}."""
    rows = [
        (name, seed, c.size, c.encoder, c.steps.connector > 0, c.vocabulary, "heldout", "all", 113, value)
        for (name, seed), value in values.items()
        for c in [CELLS[name]]
    ]
    columns = [
        "cell",
        "seed",
        "size",
        "encoder",
        "connector_pretrained",
        "vocabulary",
        "split",
        "kind",
        "n",
        "accuracy",
    ]
    return pd.DataFrame(rows, columns=columns)


@pytest.fixture
def whole():
    """Every cell and seed, each with a number of its own."""
    rng = np.random.default_rng(3)
    return scores_of({(name, seed): rng.uniform(0.5, 1) for name in CELLS for seed in SEEDS})


def test_pairs_differ_in_one_factor_alone(whole):
    pairs = grid_differences(whole).drop_duplicates(["first", "second"])
    # The paper's eight cells are the corners of a cube with four edges each way; four vocabularies
    # have three steps and the whole way.
    assert pairs["factor"].value_counts().to_dict() == {"size": 4, "encoder": 4, "connector": 4, "vocabulary": 4}
    cells = [(CELLS[one], CELLS[other]) for one, other in zip(pairs["first"], pairs["second"], strict=True)]
    for a, b in cells:
        differ = [a.size != b.size, a.encoder != b.encoder, a.steps != b.steps, a.vocabulary != b.vocabulary]
        assert sum(differ) == 1
    assert set(pairs.query("factor == 'size'")["second"].str.split("-").str[0]) == {"large"}
    assert set(pairs.query("factor == 'encoder'")["second"].str.split("-").str[1]) == {"dino"}
    assert not pairs.query("factor == 'connector'")["second"].str.contains("nopre").any()
    vocabulary = [(a.vocabulary, b.vocabulary) for a, b in cells][-4:]
    assert vocabulary == [(320, 704), (704, 4096), (4096, 20480), (320, 20480)]


def test_effects_by_hand():
    """Differences of 0.1, 0.2 and 0.3: mean 0.2, standard error 0.1 / sqrt(3), t 4.303 at two degrees of freedom."""
    table = scores_of(
        {("small-clip", s): 0.5 for s in SEEDS}
        | {("large-clip", s): 0.6 + 0.1 * s for s in SEEDS}
        | {("small-dino", 0): 0.25}
    )
    effects = grid_effects(grid_differences(table)).set_index("factor")
    assert list(effects.index) == ["size", "encoder"]
    size = effects.loc["size"]
    assert (size["a"], size["b"], size["difference"]) == pytest.approx((0.5, 0.7, 0.2))
    reach = 4.302653 * 0.1 / 3**0.5
    assert (size["low"], size["high"]) == pytest.approx((0.2 - reach, 0.2 + reach), abs=1e-6)
    assert (size["seeds"], size["n"], size["verdict"]) == (3, 113, "undecided (interval includes 0)")
    encoder = effects.loc["encoder"]
    assert encoder["difference"] == pytest.approx(-0.25)
    assert np.isnan([encoder["low"], encoder["high"]]).all()
    assert (encoder["seeds"], encoder["verdict"]) == (1, "undecided (too few)")


def test_intervals_equal_scipy_and_cover(whole):
    for _, group in grid_differences(whole).groupby(["first", "second"]):
        effect = grid_effects(group).iloc[0]
        interval = ttest_1samp(group["difference"], 0).confidence_interval(0.95)
        assert (effect["low"], effect["high"]) == pytest.approx((interval.low, interval.high), abs=1e-12)


def test_few_seeds_and_seeds_that_agree_by_chance_decide_little():
    two = scores_of({("small-clip", s): 0.5 for s in (0, 1)} | {("large-clip", s): 0.6 for s in (0, 1)})
    effect = grid_effects(grid_differences(two)).iloc[0]
    assert (effect["seeds"], effect["verdict"]) == (2, "undecided (too few)")
    assert np.isnan([effect["low"], effect["high"]]).all()
    # One item of 113 more in each of three seeds: no width, were the shares not counted in items.
    three = scores_of({("small-clip", s): 0.5 for s in SEEDS} | {("large-clip", s): 0.5 + 1 / 113 for s in SEEDS})
    effect = grid_effects(grid_differences(three)).iloc[0]
    assert effect["high"] - effect["difference"] == pytest.approx(4.302653 / 113 / 3**0.5)
    assert effect["verdict"] == "undecided (interval includes 0)"


def test_seeds_are_paired(whole):
    """What a seed does to both cells alike is no part of an effect, nor of its interval."""
    shifted = whole.assign(accuracy=whole["accuracy"] + 0.1 * whole["seed"])
    before, after = (grid_effects(grid_differences(table)) for table in (whole, shifted))
    numbers = ["difference", "low", "high"]
    np.testing.assert_allclose(before[numbers], after[numbers], atol=1e-12)


def test_cells_without_a_common_seed_are_an_error():
    table = scores_of({("small-clip", 0): 0.5, ("large-clip", 1): 0.75})
    with pytest.raises(VlmProbeError) as error:
        grid_differences(table)
    assert str(error.value) == (
        "no two cells differ in one factor and share a seed and its items, so that nothing can be compared; there "
        "are small-clip (seed 0, 113 items), large-clip (seed 1, 113 items)"
    )


def test_the_committed_scores_give_every_effect_between_their_cells():
    scores = grid_scores()
    effects = grid_effects(grid_differences(scores))
    assert set(effects["first"]) | set(effects["second"]) == set(scores["cell"])
    both = scores.query("split == 'novel' and kind == 'count' and seed == 0").set_index("cell")["accuracy"]
    one = effects.query("split == 'novel' and kind == 'count' and first == 'small-clip' and second == 'small-dino'")
    assert one["a"].iloc[0] <= 1
    if one["seeds"].iloc[0] == 1:
        assert one["difference"].iloc[0] == pytest.approx(both["small-dino"] - both["small-clip"])
