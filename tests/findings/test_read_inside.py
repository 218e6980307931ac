"""S6, E3 and C3: something planted inside arms that differ, nothing planted, too few seeds; and what is committed."""

import numpy as np
import pandas as pd
import planting
import pytest
from tiny import untyped

from vlm_probe import findings
from vlm_probe.causal.knockout import ROUTES
from vlm_probe.errors import VlmProbeError
from vlm_probe.evidence import judge_all
from vlm_probe.findings.c3_inside_pretraining import COMPARED as PRETRAINING
from vlm_probe.findings.c3_inside_pretraining import FINDING as C3
from vlm_probe.findings.e3_inside_encoder import COMPARED as ENCODER
from vlm_probe.findings.e3_inside_encoder import FINDING as E3
from vlm_probe.findings.interactions import GRID
from vlm_probe.findings.read_inside import inside
from vlm_probe.findings.s6_inside_size import COMPARED as SIZE
from vlm_probe.findings.s6_inside_size import FINDING as S6
from vlm_probe.studies import reading_differences, readings, result_tables
from vlm_probe.studies.effects import FEWEST_RUNS
from vlm_probe.studies.inside import ANSWER, OTHER_PICTURE, SCORED, cut
from vlm_probe.studies.study import STUDIES

OF = {"S6": (S6, SIZE), "E3": (E3, ENCODER), "C3": (C3, PRETRAINING)}
EITHER = cut("image to both")
PROBED = ("encoder", "connector", "last layer")
BETWEEN = dict.fromkeys(PROBED, 0.07)
"""How much a reading varies from seed to seed, all else alike (the standard deviation); of answers 0.011."""
PLACES = {
    ("all", SCORED): 0.6,
    ("all", ANSWER): 0.6,
    ("all", OTHER_PICTURE): 0.4,
    **{("shape", place): 0.4 for place in PROBED},
    **{("all", cut(route)): 0.4 for route in ROUTES},
    **{("all", cut(route, random=True)): 0.55 for route in ROUTES},
}


def table_of(seed, seeds, second=(), gains=None):
    """Readings of every arm of the grid: those named in second have gains[(kind, place)] more."""
    rng, study = np.random.default_rng(seed), STUDIES["grid"]
    runs = pd.MultiIndex.from_product(
        [study.arms, range(seeds), ("heldout", "novel"), range(len(PLACES))], names=["arm", "seed", "split", "which"]
    ).to_frame(index=False)
    kinds, places = zip(*PLACES, strict=True)
    runs["kind"], runs["place"] = ([names[which] for which in runs["which"].tolist()] for names in (kinds, places))
    both = runs.groupby(["seed", "split", "which"])["which"].transform(lambda of: rng.normal(0, 0.03))
    spread = np.asarray([BETWEEN.get(place, 0.011) for place in runs["place"].tolist()])
    level = np.asarray([PLACES[key] for key in zip(runs["kind"].tolist(), runs["place"].tolist(), strict=True)])
    gain = [
        (gains or {}).get((kind, place), 0.0) * (arm in second)
        for arm, kind, place in zip(runs["arm"].tolist(), runs["kind"].tolist(), runs["place"].tolist(), strict=True)
    ]
    runs["n"] = np.where(np.isin(runs["place"], PROBED), 449, 701)
    share = level + both.to_numpy(dtype=float) + rng.normal(0, 1, len(runs)) * spread + np.asarray(gain)
    runs["share"] = (share * runs["n"]).round() / runs["n"]
    about = pd.DataFrame([{"arm": arm, **result_tables.factors_of(study.arms[arm], study)} for arm in study.arms])
    return about.merge(runs.drop(columns="which"), on="arm")


def number_of(compared):
    """How many claims: of two kinds of scenes."""
    return 2 * (len(compared.pairs) * len(compared.words) + len(compared.once))


def verdicts(id, table):
    finding, compared = OF[id]
    rows = judge_all(finding.claims, inside(compared, table), finding=id)
    return {row.claim: str(row.verdict) for row in rows}


@pytest.mark.parametrize("id", OF)
def test_what_is_planted_at_a_place_is_found_there_and_its_opposite_contradicted(id):
    _, compared = OF[id]
    second = {name for _, name in compared.pairs} - ({"small-clip"} if id == "S6" else set())
    planted = {("shape", "connector"): 0.4, ("all", EITHER): -0.1}
    for sign, called in ((1, "supported"), (-1, "contradicted")):
        table = table_of(3, 8, second, {key: sign * by for key, by in planted.items()})
        said = verdicts(id, table)
        for claim, verdict in said.items():
            there = "from the connector" in claim or "from either" in claim
            assert (verdict == called) == there, claim


def test_with_nothing_there_little_is_decided():
    """Of E3, whose claims are those of the others, and one more: five seeds each, those of one great study."""
    runs = inside(ENCODER, table_of(11, planting.RUNS * FEWEST_RUNS))[GRID]["runs"]
    simulated = iter([{GRID: {"runs": some}} for _, some in runs.groupby(runs["seed"] // FEWEST_RUNS)])
    assert {*SIZE.words, *PRETRAINING.words} < {*ENCODER.words, *ENCODER.once}
    rates = planting.decided(E3, lambda rng: next(simulated))
    # Pairs of arms and kinds of scenes are alike here: so many more runs of what they are compared in.
    words = {claim.partition(": ")[2] for claim in rates}
    by_words = {one: np.mean([rate for claim, rate in rates.items() if claim.endswith(one)]) for one in words}
    print(by_words)
    assert max(by_words.values()) <= planting.MOST
    assert max(by_words.values()) > 0, "a control that never fails is none"


def test_an_arm_that_is_hurt_by_any_cut_does_not_need_the_image_more():
    """It loses more without attention to the image, and as much more without as many random edges."""
    fragile = {("all", EITHER): -0.1, ("all", cut("image to both", random=True)): -0.1}
    said = verdicts("S6", table_of(3, 8, {"large-clip"}, fragile))
    assert {said[claim] for claim in said if "from either" in claim} == {"undecided"}


def test_claims_say_what_is_tested():
    first = S6.claims[: len(SIZE.words)]
    probe = "a probe reads more objects' shapes (share) from"
    assert [claim.sentence.removeprefix("On held-out scenes, ") for claim in first] == [
        f"{probe} the connector of large-clip than of small-clip",
        f"{probe} the last layer of large-clip than of small-clip",
        "large-clip loses more answers (share) with another picture than small-clip",
        "large-clip loses more answers (share) without attention from either to image than small-clip",
    ]
    assert all("On held-out scenes, " in claim.sentence for claim in first)
    assert [claim.control for claim in first] == [*["of small-clip"] * 3, "of small-clip, and as many random edges"]
    assert all("novel kinds" in claim.sentence for claim in S6.claims[len(SIZE.words) :])
    for finding, compared in OF.values():
        assert len(finding.claims) == number_of(compared)
        for claim in finding.claims:
            assert (claim.unit, claim.least, claim.margin, claim.more, claim.untrained) == (
                "training seeds",
                FEWEST_RUNS,
                0.02,
                True,
                False,
            )
    pairs = [pair for _, compared in OF.values() for pair in compared.pairs]
    assert pairs == [
        ("small-clip", "large-clip"),
        ("small-clip", "small-dino"),
        ("large-clip", "large-dino"),
        ("small-clip-nopre", "small-clip"),
        ("large-clip-nopre", "large-clip"),
    ]


def exact_table(gains):
    """Readings without any noise: large-clip has so many items more than all others, seed by seed."""
    table = table_of(3, FEWEST_RUNS)
    level = [PLACES[key] for key in zip(table["kind"].tolist(), table["place"].tolist(), strict=True)]
    more = [
        gains.get((kind, place), 0) * (arm == "large-clip")
        for arm, kind, place in zip(table["arm"].tolist(), table["kind"].tolist(), table["place"].tolist(), strict=True)
    ]
    return table.assign(share=((np.asarray(level) * table["n"]).round() + more) / table["n"])


def test_seeds_that_agree_to_the_item_are_no_proof():
    """One item more in every seed is no certain difference, and is none that matters."""
    said = verdicts("S6", exact_table({("shape", "connector"): 1, ("all", ANSWER): 1}))
    assert set(said.values()) == {"equivalent"}
    # Nor is what is lost beyond random edges by one item, whatever is lost by itself.
    hurt = {("all", EITHER): -71, ("all", cut("image to both", random=True)): -70}
    said = verdicts("S6", exact_table(hurt))
    assert {said[claim] for claim in said if "from either" in claim} == {"undecided"}
    said = verdicts("S6", exact_table({**hurt, ("all", cut("image to both", random=True)): 0}))
    assert {said[claim] for claim in said if "from either" in claim} == {"supported"}


def test_few_seeds_decide_nothing():
    said = verdicts("E3", table_of(3, FEWEST_RUNS - 1, {"small-dino", "large-dino"}, {("shape", "connector"): 0.4}))
    assert set(said.values()) == {"undecided"}


@pytest.mark.parametrize("id", OF)
def test_what_is_committed_is_read_as_it_stands(id):
    finding, compared = OF[id]
    run = findings.run([id], [])
    evidence, differences = run.evidence, reading_differences(readings("grid"))
    assert len(evidence) == len(finding.claims) == number_of(compared)
    for row in evidence.to_dict("records"):
        pair, _, words = str(row["claim"]).partition(": ")
        arms, _, split = pair.partition(", ")
        named = untyped(differences)
        own = named.loc[(named["first"] + " to " + named["second"] == arms) & (named["split"] == split)]
        own = own.loc[[" ".join(kind.split()) == words for kind in own["kind"].tolist()]]
        assert row["clusters"] == own["seed"].nunique()
        assert row["difference"] == pytest.approx(own["difference"].mean(), nan_ok=True)
    tables = run.shown(finding).tables
    told = tables["over seeds"]
    names = [
        ": ".join([f"{a} to {b}, {split}", kind]) for a, b, split, kind in told.iloc[:, :4].itertuples(index=False)
    ]
    rows = evidence.set_index("claim").loc[names]
    said = {"a": "control", "b": "value", "seeds": "clusters"} | {name: name for name in ("difference", "low", "high")}
    for shown, judged in said.items():
        np.testing.assert_allclose(told[shown].to_numpy(dtype=float), rows[judged].to_numpy(dtype=float))
    held_out = untyped(told.query("split == 'heldout'"))
    for row in tables["measures"].to_dict("records"):
        own = held_out.loc[held_out["kind"] == row["measure"]]
        arm = str(row["model"]).removeprefix("replica/")
        shares = [*own.loc[own["first"] == arm, "a"], *own.loc[own["second"] == arm, "b"]]
        assert row["mean"] == pytest.approx(shares[0])
    arms = {arm for pair in compared.pairs for arm in pair}
    assert len(tables["measures"]) == len(compared.words) * len(arms) + 2 * len(compared.once)


def test_arms_that_nobody_looked_into_are_said():
    table = table_of(3, 2).query("arm == 'small-clip'")
    with pytest.raises(VlmProbeError, match="nothing can be compared"):
        inside(SIZE, table)
