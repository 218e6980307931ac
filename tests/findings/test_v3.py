"""V3: untrained rows are told by others that are known, or not at all; nothing is told of equal rows."""

import numpy as np
import pytest
import torch
from planting import MOST, decided, verdicts
from sklearn.metrics import roc_auc_score
from tiny import tiny_language

from vlm_probe.errors import VlmProbeError
from vlm_probe.evidence import Verdict, judge_all
from vlm_probe.findings import run
from vlm_probe.findings.v3_trained import FINDING, LIKE, in_order, judged_rows, trained_rows
from vlm_probe.hooked.anatomy import unembedding
from vlm_probe.scenes import scene_items

TOLD = FINDING.claims[0]
MANY = 19
"""Rows for each pair: few of all are untrained."""


def vocabulary(rng, *, pairs=TOLD.least, width=23, drift=0.0, longer=1.0, swapped=False):
    """The tables of random rows of no particular shape; some are known to be untrained and drifted all one way."""
    n = MANY * pairs
    # One direction stands out, as in vocabularies: it is taken out before rows are compared.
    strongest, away = np.linalg.qr(rng.normal(size=(width, 2)))[0].T
    rows = rng.normal(size=(n, width)) + 5 * np.outer(rng.normal(size=n), strongest) + rng.normal(size=width)
    ids = rng.permutation(n)
    known, used = ids[: 2 * pairs], ids[2 * pairs : 3 * pairs]
    if swapped:  # what the text uses looks like what is told, what is judged does not
        told = np.array_split(np.random.default_rng(0).permutation(np.unique(known)), 2)[0]
        rows[told] += drift * away
        rows[used] += drift * away
    else:
        rows[known] = longer * (rows[known] + drift * away)
    return {"model": judged_rows(torch.tensor(rows).float(), known.tolist(), used.tolist())}


def test_of_equal_rows_nothing_is_told():
    shares = decided(FINDING, vocabulary)
    assert shares == {"told": pytest.approx(0, abs=MOST)}


@pytest.mark.parametrize(
    ("planted", "expected"),
    [
        ({"drift": 4.0}, Verdict.SUPPORTED),
        # As in the replicas, where nothing ever shrank them: by their norm they would pass for the best trained.
        ({"drift": 4.0, "longer": 3.0}, Verdict.SUPPORTED),
        ({"drift": 4.0, "swapped": True}, Verdict.CONTRADICTED),
        ({"drift": 0.0, "pairs": 911}, Verdict.EQUIVALENT),
    ],
)
def test_planted_rows_are_told_and_their_opposite_is_contradicted(planted, expected):
    assert verdicts(FINDING, lambda rng: vocabulary(rng, **planted))["told"] == expected


def test_the_statistic_is_the_area_under_the_curve():
    pairs = vocabulary(np.random.default_rng(3), drift=0.3)["model"]["pairs"].assign(
        known=lambda t: t["known"].round(1)
    )
    both = np.concatenate([pairs["used"], pairs["known"]])
    assert in_order(pairs) == pytest.approx(roc_auc_score([1] * len(pairs) + [0] * len(pairs), both))


def test_who_is_told_is_not_judged_and_all_rows_are_there():
    tables = vocabulary(np.random.default_rng(5), drift=4.0)["model"]
    rows, pairs, n = tables["rows"], tables["pairs"], TOLD.least
    assert rows["what"].value_counts().to_dict() == {
        "other": (MANY - 3) * n,
        "known_told": n,
        "known_judged": n,
        "used": n,
    }
    assert set(pairs["known_id"]) == set(rows.query("what == 'known_judged'")["token_id"])
    assert set(pairs["used_id"]) == set(rows.query("what == 'used'")["token_id"])
    judged = rows.query("what == 'known_judged'")["looks_untrained"]
    assert judged.to_numpy().mean() == pytest.approx(LIKE, abs=1 / n)
    shares = tables["shares"].iloc[0]
    for name in ("used", "other"):
        assert shares[name] == rows.loc[rows["what"] == name, "looks_untrained"].to_numpy().mean()
    assert (shares["known"], shares["rows"]) == (2 * n, MANY * n)


def test_without_rows_known_to_be_untrained_it_is_refused():
    """It used to fall back to the norm, which is the wrong way round in the replicas."""
    model = tiny_language("llama")
    with pytest.raises(VlmProbeError) as caught:
        trained_rows(model, list(scene_items(2)))
    assert str(caught.value) == (
        "0 ids of model are known to be untrained, of which half are told and half judged: give ids that its training "
        "text never has, trained_rows(model, items, reference=ids); the norm of a row does not tell"
    )
    # With ids of the user's own it goes on.
    tables = trained_rows(model, list(scene_items(2)), reference=[5, 7, 11, 13, 17])
    assert tables["shares"]["known"].tolist() == [5]
    assert sorted(tables["rows"].query("what.str.startswith('known')")["token_id"]) == [5, 7, 11, 13, 17]


def test_on_a_replica_it_is_found_where_the_norm_points_the_wrong_way(replica):
    result = run(["V3"], ["replica/small-clip"], list(scene_items(40)))
    evidence = result.evidence.set_index("claim")
    told = evidence.loc["told"]
    assert told["verdict"] == Verdict.SUPPORTED
    assert told["value"] > 0.9
    assert told["clusters"] >= TOLD.least
    bare = judge_all(FINDING.claims, {"bare": result.untrained["V3"]["replica/small-clip"]})[0]
    assert bare.verdict in (Verdict.UNDECIDED, Verdict.EQUIVALENT)
    assert (bare.difference, bare.clusters) == (told["untrained"], told["clusters"])
    rows = result.measured["V3"]["replica/small-clip"]["rows"]
    asked = rows[rows["what"].isin(["known_judged", "used"])]
    assert roc_auc_score(asked["what"] == "used", asked["norm"]) < 0.5
    assert len(rows) == len(unembedding(replica))
    shown = result.shown(FINDING)
    assert set(shown.tables) == {"curves", "shares"}
    assert len(set(shown.tables["curves"]["rows"])) == 3
