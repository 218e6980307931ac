"""The grid's effects: pairs that differ in one factor, seeds paired, intervals against scipy and by hand."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t as student_t
from scipy.stats import ttest_1samp

from vlm_probe.errors import VlmProbeError
from vlm_probe.evidence import holm
from vlm_probe.studies import grid_differences, grid_effects, grid_interactions, grid_scores
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
    assert (size["seeds"], size["n"]) == (3, 113)
    assert (size["verdict"], size["reason"]) == ("undecided", "3 training seeds, 5 would do")
    assert size["p"] == pytest.approx(2 * student_t.sf(0.2 / (0.1 / 3**0.5), 2))
    encoder = effects.loc["encoder"]
    assert encoder["difference"] == pytest.approx(-0.25)
    assert np.isnan([encoder["low"], encoder["high"]]).all()
    assert (encoder["seeds"], encoder["verdict"], encoder["reason"]) == (
        1,
        "undecided",
        "1 training seeds, 5 would do",
    )
    assert np.isnan(effects["p_holm"].to_numpy(dtype=float)).all(), "nothing is tested of so few"


def test_intervals_equal_scipy_and_cover(whole):
    for _, group in grid_differences(whole).groupby(["first", "second"]):
        effect = grid_effects(group).iloc[0]
        interval = ttest_1samp(group["difference"], 0).confidence_interval(0.95)
        assert (effect["low"], effect["high"]) == pytest.approx((interval.low, interval.high), abs=1e-12)


def test_few_seeds_and_seeds_that_agree_by_chance_decide_little():
    two = scores_of({("small-clip", s): 0.5 for s in (0, 1)} | {("large-clip", s): 0.6 for s in (0, 1)})
    effect = grid_effects(grid_differences(two)).iloc[0]
    assert (effect["seeds"], effect["reason"]) == (2, "2 training seeds, 5 would do")
    assert np.isnan([effect["low"], effect["high"]]).all()
    # One item of 113 more in each of three seeds: no width, were the shares not counted in items.
    three = scores_of({("small-clip", s): 0.5 for s in SEEDS} | {("large-clip", s): 0.5 + 1 / 113 for s in SEEDS})
    effect = grid_effects(grid_differences(three)).iloc[0]
    assert effect["high"] - effect["difference"] == pytest.approx(4.302653 / 113 / 3**0.5)
    # Nor do three that agree well: what three say is 2.5 standard deviations wide each way.
    far = scores_of({("small-clip", s): 0.5 for s in SEEDS} | {("large-clip", s): 0.8 + s / 113 for s in SEEDS})
    effect = grid_effects(grid_differences(far)).iloc[0]
    assert effect["low"] > 0.2
    assert (effect["verdict"], effect["reason"]) == ("undecided", "3 training seeds, 5 would do")


def test_five_seeds_decide_and_are_corrected_over_all_pairs():
    rng = np.random.default_rng(3)
    values = {}
    for seed in range(5):
        for name, share in (("small-clip", 0.5), ("large-clip", 0.7), ("small-dino", 0.25), ("small-clip-nopre", 0.5)):
            values[name, seed] = share + rng.normal(0, 0.02)
    # Scored from three seeds alone: neither tested, nor counted among the tests.
    values |= {("small-clip-v320", seed): 0.1 + rng.normal(0, 0.02) for seed in SEEDS}
    effects = grid_effects(grid_differences(scores_of(values))).set_index("factor")
    tested = effects.loc[["size", "encoder", "connector"]]
    assert tested["p_holm"].tolist() == holm(tested["p"].tolist())
    assert effects["verdict"].to_dict() == {
        "size": "supported",
        "encoder": "contradicted",
        "connector": "undecided",
        "vocabulary": "undecided",
    }
    assert effects.loc["connector", "reason"] == "the interval includes 0"
    assert np.isnan(effects.loc["vocabulary", "p_holm"])


def test_seeds_are_paired(whole):
    """What a seed does to both cells alike is no part of an effect, nor of its interval."""
    shifted = whole.assign(accuracy=whole["accuracy"] + 0.1 * whole["seed"])
    before, after = (grid_effects(grid_differences(table)) for table in (whole, shifted))
    numbers = ["difference", "low", "high"]
    np.testing.assert_allclose(before[numbers], after[numbers], atol=1e-12)


def test_interactions_by_hand():
    """Size adds 0.3 without pretraining and 0.05 with it: -0.25; and so does pretraining by size."""
    shares = {"small-clip-nopre": 0.4, "large-clip-nopre": 0.7, "small-clip": 0.6, "large-clip": 0.65}
    table = scores_of({(name, seed): share + 0.01 * seed for name, share in shares.items() for seed in SEEDS})
    found = grid_interactions(table, "size", "connector")
    assert found["seed"].tolist() == [0, 1, 2]
    assert set(zip(found["factor"], found["first"], found["second"], strict=True)) == {
        ("size by connector", "small-clip-nopre", "large-clip")
    }
    assert found[["a", "b", "difference"]].to_numpy() == pytest.approx(np.tile([0.3, 0.05, -0.25], (3, 1)))
    assert found["reference"].tolist() == pytest.approx([0.4, 0.41, 0.42])
    assert found["step"].tolist() == [1 / 113] * 3
    first = found.iloc[0]
    odds = {name: np.log((113 * share + 0.5) / (113 - 113 * share + 0.5)) for name, share in shares.items()}
    by_hand = (odds["large-clip"] - odds["small-clip"]) - (odds["large-clip-nopre"] - odds["small-clip-nopre"])
    assert first["log_odds"] == pytest.approx(by_hand)
    slope = np.mean([[(s + 0.01 * k) * (1 - s - 0.01 * k) for s in shares.values()] for k in SEEDS])
    assert found["by_odds"].to_numpy() == pytest.approx(found["log_odds"].to_numpy() * slope)
    other = grid_interactions(table, "connector", "size")
    assert other["difference"].tolist() == pytest.approx(found["difference"].tolist())
    assert other["a"].tolist() == pytest.approx([0.2] * 3)
    effect = grid_effects(found).iloc[0]
    assert (effect["a"], effect["b"], effect["difference"], effect["seeds"]) == pytest.approx((0.3, 0.05, -0.25, 3))
    assert grid_interactions(table, "encoder", "size").empty
    assert grid_effects(grid_interactions(table, "encoder", "size")).empty


def test_an_interaction_in_shares_alone_shows_in_log_odds_that_it_is_the_ceilings():
    """Each change triples the odds of being right, whatever else was done: near 1 that is ever less of a share."""
    odds = {"small-clip-nopre": 3.0, "large-clip-nopre": 9.0, "small-clip": 9.0, "large-clip": 27.0}
    table = scores_of({(name, 0): o / (1 + o) for name, o in odds.items()}).assign(n=1_000_003)
    found = grid_interactions(table, "size", "connector").iloc[0]
    assert found["difference"] < -0.05
    assert found["log_odds"] == pytest.approx(0, abs=1e-4)


def test_every_four_cells_cross_once(whole):
    """The eight cells hold two squares of each kind; other vocabularies are small alone."""
    for factor, by in (("size", "connector"), ("encoder", "size"), ("connector", "encoder")):
        found = grid_interactions(whole, factor, by)
        assert found["seed"].value_counts().tolist() == [2, 2, 2]
        assert len(found.drop_duplicates(["first", "second"])) == 2
    assert grid_interactions(whole, "vocabulary", "size").empty
    # With two large cells more there is one: the vocabularies that both sizes have.
    more = [
        whole.query("cell == @cell").assign(cell=cell.replace("small", "large"), size="large", accuracy=0.25)
        for cell in ("small-clip-v320", "small-clip-v20480")
    ]
    found = grid_interactions(pd.concat([whole, *more]), "vocabulary", "size")
    pairs = found[["first", "second"]].drop_duplicates().to_numpy().tolist()
    assert ["small-clip-v320", "large-clip-v20480"] in pairs
    # 704 is there at both sizes: up to it, and from the smallest to the largest.
    assert ["small-clip-v320", "large-clip"] in pairs
    whole_way = found.query("first == 'small-clip-v320' and second == 'large-clip-v20480'")
    assert whole_way["b"].tolist() == [0.0] * 3


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
