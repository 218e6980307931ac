"""E2 on twins whose truth is known: encoders that see the same of them, or not, and pairs that share their images."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from connecting import called_equivalent
from planting import MOST, decided, verdicts
from tiny import tiny_language, tiny_vlm

from vlm_probe.embedding.blind_pairs import twin_percentiles
from vlm_probe.errors import VlmProbeError
from vlm_probe.evidence import Verdict, judge_all
from vlm_probe.findings import FINDINGS
from vlm_probe.findings.e2_twins import LEAST, LEAST_SPLIT, twins_apart
from vlm_probe.scenes import family_items

E2 = FINDINGS["E2"]
SPLIT = tuple(claim for claim in E2.claims if claim.least == LEAST_SPLIT)
WHOLE = tuple(claim for claim in E2.claims if claim.least == LEAST)
WIDTH = 17


def pictured(rng, n):
    """Twins, one behind the other, and the cluster of every pair: every second cluster has two pairs of one image."""
    cluster = np.repeat(np.arange(n), 1 + np.arange(n) % 2)
    image = rng.gamma(0.7, size=(n, WIDTH))[cluster]
    # Some differ by more than others.
    change = np.exp(0.7 * rng.normal(size=(len(cluster), 1))) * rng.normal(size=(len(cluster), WIDTH)) / 3
    return np.stack([image, image + change], axis=1), cluster


def percentiles(rng, twins, change=1.0):
    """What an encoder makes of them: a rotation, noise of its own, and the change larger or smaller."""
    turn = np.linalg.qr(rng.normal(size=(WIDTH, WIDTH)))[0]
    x = twins.copy()
    x[:, 1] = x[:, 0] + change * (x[:, 1] - x[:, 0])
    x = (x @ turn + 0.3 * rng.normal(size=x.shape)).reshape(-1, WIDTH)
    return twin_percentiles(torch.tensor(x).float()).numpy().astype(float)


def table(cluster, **columns):
    return {"twins": pd.DataFrame({"id": range(len(cluster)), "cluster": cluster, **columns})}


def two(rng, n, own=(1.0, 1.0), random=1.0, better=0.0, where_blind=0.0):
    """Both models' tables: changes as their encoders see them, and how much more often the second has both right."""
    twins, cluster = pictured(rng, n)
    seen = [percentiles(rng, twins, change) for change in own]
    gap = seen[0] - seen[1]
    ease = rng.normal(size=n)[cluster] + rng.normal(size=len(cluster))
    more = (0.0, better + np.where(gap > np.median(gap), where_blind, -where_blind))
    return {
        name: table(
            cluster,
            percentile=seen[number],
            percentile_random=percentiles(rng, twins, random),
            both_right=(ease + rng.normal(size=len(cluster)) + more[number] > 0).astype(float),
        )
        for number, name in enumerate(("first", "second"))
    }


def test_nothing_is_rarely_called_at_the_smallest_n():
    rates = decided(replace(E2, claims=WHOLE), lambda rng: two(rng, LEAST, own=(3.0, 3.0), random=3.0))
    rates |= decided(replace(E2, claims=SPLIT), lambda rng: two(rng, LEAST_SPLIT, own=(3.0, 3.0)))
    print("E2, decided with nothing there:", rates)
    assert set(rates) == {claim.id for claim in E2.claims}
    assert max(rates.values()) <= MOST, rates


def test_planted_effects_are_found_and_their_opposites_contradicted():
    found = verdicts(E2, lambda rng: two(rng, 211, own=(1.5, 3.0), random=0.5, better=1.5, where_blind=1.5))
    assert set(found.values()) == {Verdict.SUPPORTED}, found
    opposite = verdicts(E2, lambda rng: two(rng, 211, own=(1.5, 0.8), random=5.0, better=-1.5, where_blind=-1.5))
    assert set(opposite.values()) == {Verdict.CONTRADICTED}, opposite


def alike(rng, n):
    """Percentiles as of the replicas' twins: almost all near 1, and a long tail."""
    return 1 - rng.gamma(0.3, 0.05, n) * np.exp(0.5 * rng.normal(size=(2, n)))


def less_alike(rng, n, margin):
    """Few twins by much."""
    other, own = alike(rng, n)
    own = own - margin * rng.gamma(0.4, 1 / 0.4, n)
    return [table(np.arange(n), percentile=values, percentile_random=other) for values in (other, own)]


def right_by_a_margin(rng, n, margin, blind_alone=False):
    """All that differ differ one way: a share of the pairs that the first has not right, which are half of them."""
    gap = rng.permutation(n)
    right = rng.random(n) < 0.5
    more = rng.random(n) < 2 * margin
    if blind_alone:
        more &= gap > np.median(gap)
    columns = ({"both_right": right, "percentile": gap}, {"both_right": right | more, "percentile": np.zeros(n)})
    tables = [table(np.arange(n), **{key: value.astype(float) for key, value in own.items()}) for own in columns]
    return dict(zip(("first", "second"), tables, strict=True))


MADE = {
    "apart": lambda rng, n, margin: {"model": less_alike(rng, n, margin)[1]},
    "apart_more": lambda rng, n, margin: dict(zip(("first", "second"), less_alike(rng, n, margin), strict=True)),
    "both_right": right_by_a_margin,
    "where_blind": lambda rng, n, margin: right_by_a_margin(rng, n, margin, blind_alone=True),
}


@pytest.mark.parametrize("n", [LEAST, LEAST_SPLIT])
def test_what_matters_is_rarely_called_equivalent(n):
    claims = [claim for claim in E2.claims if claim.least <= n]
    rates = called_equivalent(claims, {claim.id: MADE[claim.id] for claim in claims}, n)
    print(f"E2, equivalent though it matters, {n} pairs:", rates)
    assert max(rates.values()) <= MOST, rates


def test_pairs_that_share_their_images_are_no_replicates():
    """Four pairs of images under five names each counted as twenty pairs."""
    items = list(family_items(8, families=("mmvp",)))
    again = [replace(item, id=f"{item.id} {time}", group=f"{item.group} {time}") for time in range(5) for item in items]
    tables = twins_apart(tiny_vlm(), again)
    twins = tables["twins"]
    assert len(set(twins["id"])) == len(twins) == 20
    assert len(set(twins["cluster"])) == len(set(zip(twins["image"], twins["cluster"], strict=True))) == 4
    assert {row.clusters for row in judge_all(E2.claims, {"first": tables, "second": tables})} == {4}
    alone = twins_apart(tiny_vlm(), items)["twins"]
    assert len(set(alone["cluster"])) == len(alone) == 4
    assert set(alone.columns) >= {"percentile", "percentile_random", "right", "both_right"}


def test_a_language_model_alone_and_one_pair_are_refused():
    items = list(family_items(2, families=("mmvp",)))
    model = tiny_language()
    with pytest.raises(VlmProbeError) as caught:
        twins_apart(model, items)
    assert str(caught.value) == f"{model.name} is a language model without an encoder, and E2 is about encoders"
    assert E2.picks(items) == []
    with pytest.raises(VlmProbeError, match=r"^there are 1 pairs of twins among 2 items; E2 needs twins "):
        twins_apart(tiny_vlm(), items)
