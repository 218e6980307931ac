"""S3, S4 and S5 on tables whose truth is known, and on replicas: what an answer rests on, and where."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from connecting import called_equivalent
from planting import MOST, decided, verdicts
from tiny import tiny_language

from vlm_probe.errors import VlmProbeError
from vlm_probe.evidence import Verdict
from vlm_probe.findings import FINDINGS
from vlm_probe.findings.s3_language_alone import from_language_alone
from vlm_probe.findings.s4_routes import AT_OBJECTS, ON, routes_of
from vlm_probe.findings.s5_decided import crossing, where_decided
from vlm_probe.scenes import family_items, scene_items

S3, S4, S5 = (FINDINGS[name] for name in ("S3", "S4", "S5"))


def known(n, rng):
    """Items in clusters, every second of which has two."""
    cluster = np.repeat(np.arange(n), 1 + np.arange(n) % 2)
    ease = rng.normal(size=n)[cluster]
    return pd.DataFrame({"id": range(len(cluster)), "cluster": cluster}), ease


def s3_tables(rng, n, more=(0.0, 0.0)):
    """Whether answers change: by how easily an item's does, and by how much more with what the claim names."""
    found = {}
    for name, plus in zip(("first", "second"), more, strict=True):
        table, ease = known(n, rng)
        for what, by in (("asked", plus), ("other", 0.0), ("swapped", plus), ("blurred", 0.0), ("blank", 0.0)):
            table[f"changed_{what}"] = (ease + rng.normal(size=len(ease)) + by > 0.5).astype(float)
        found[name] = {"items": table.assign(kept_blank=1 - table["changed_blank"], yes_blank=0.5)}
    return found


def costs(rng, ease, by):
    """Losses of probability: of most items next to nothing, of some nearly all."""
    return np.clip(0.3 * rng.normal(size=len(ease)) ** 3 + 0.1 * ease + by, -0.5, 1)


def s4_tables(rng, n, more=(0.0, 0.0), later=0.0):
    found = {}
    for name, plus in zip(("first", "second"), more, strict=True):
        table, ease = known(n, rng)
        objects = [
            table.assign(route=route, asked=costs(rng, ease, plus), other=costs(rng, ease, 0)) for route in AT_OBJECTS
        ]
        routes = table.assign(route=ON, cost=costs(rng, ease, plus), random=costs(rng, ease, 0))
        through = rng.beta(2, 5, size=len(table))
        flow = table.assign(through=through, on=rng.beta(2, 5, size=len(table)) + later)
        found[name] = {"objects": pd.concat(objects), "routes": routes, "flow": flow}
    return found


def s5_tables(rng, n, more=(0.0, 0.0), beside=0.0):
    """Depths in steps of a few layers, between which a straight line is taken; some pairs are decided late by both."""
    found, late = {}, 0.1 * rng.normal(size=n)
    for name, plus in zip(("first", "second"), more, strict=True):
        depths = {
            column: np.clip(np.round(4 * rng.beta(3, 3, size=n)) / 4 + late + 0.1 * rng.normal(size=n) + by, 0, 1)
            for column, by in (("answer", plus), ("random_answer", beside), ("image", plus), ("random_image", -beside))
        }
        found[name] = {"decided": pd.DataFrame({"id": range(n), "cluster": range(n), **depths})}
    return found


@pytest.mark.parametrize(
    ("finding", "make"), [(S3, s3_tables), (S4, s4_tables), (S5, s5_tables)], ids=["S3", "S4", "S5"]
)
def test_nothing_is_rarely_called_at_the_smallest_n(finding, make):
    least = max(claim.least for claim in finding.claims if not claim.descriptive)
    rates = decided(finding, lambda rng: make(rng, least))
    print(f"{finding.id}, decided with nothing there:", rates)
    assert set(rates) == {claim.id for claim in finding.claims if not claim.descriptive}
    assert max(rates.values()) <= MOST, rates


def test_planted_effects_are_found_and_their_opposites_contradicted():
    def calls(finding, make, **given):
        found = verdicts(finding, lambda rng: make(rng, 211, **given))
        return {verdict for verdict in found.values() if verdict != Verdict.DESCRIPTIVE}

    assert calls(S3, s3_tables, more=(0.7, 1.6)) == {Verdict.SUPPORTED}
    assert calls(S3, s3_tables, more=(-0.7, -2.0)) == {Verdict.CONTRADICTED}
    assert calls(S4, s4_tables, more=(0.2, 0.5), later=0.3) == {Verdict.SUPPORTED}
    late = verdicts(S4, lambda rng: s4_tables(rng, 211, more=(0.5, 0.2), later=-0.2))
    assert late["early_then_late"] == Verdict.CONTRADICTED
    assert late["image_to_answer_more"] == Verdict.CONTRADICTED
    assert calls(S5, s5_tables, more=(0.0, 0.2), beside=0.5) == {Verdict.SUPPORTED}
    late = verdicts(S5, lambda rng: s5_tables(rng, 211, more=(0.3, 0.0), beside=-0.3))
    assert set(late.values()) == {Verdict.CONTRADICTED}


def test_what_matters_is_rarely_called_equivalent():
    def of_shares(rng, n, margin):
        table, _ = known(n, rng)
        other = (rng.random(len(table)) < 0.2).astype(float)
        more = np.where((other == 0) & (rng.random(len(table)) < margin / 0.8), 1.0, other)
        named = {"changed_asked": more, "changed_other": other, "changed_swapped": more, "changed_blurred": other}
        return {"model": {"items": table.assign(**named)}}

    def of_costs(rng, n, margin):
        table, _ = known(n, rng)
        few = (rng.random(len(table)) < margin / 0.8) * rng.uniform(0.6, 1.0, len(table))  # of few nearly all
        objects = pd.concat([table.assign(route=route, asked=few, other=0.0) for route in AT_OBJECTS])
        return {"model": {"objects": objects, "routes": table.assign(route=ON, cost=few, random=0.0)}}

    alone = [claim for claim in S3.claims if claim.of == "model" and not claim.descriptive]
    rates = called_equivalent(alone, {claim.id: of_shares for claim in alone}, alone[0].least)
    alone = [claim for claim in S4.claims if claim.of == "model" and claim.id != "early_then_late"]
    for n in (alone[0].least, 120):
        rates |= {f"{k} {n}": v for k, v in called_equivalent(alone, {c.id: of_costs for c in alone}, n).items()}
    print("S3 and S4, equivalent though it matters:", rates)
    assert max(rates.values()) <= MOST, rates


def test_where_a_course_crosses_a_half():
    course = np.array([0.0, 0.6, 0.25, 0.75, 1.0])
    assert crossing(course, upward=True) == (2 + 0.5) / 4  # for the last time
    assert crossing(1 - course, upward=False) == (2 + 0.5) / 4
    assert crossing(np.array([0, 0.1, 0.2]), upward=True) == 1
    assert crossing(np.array([0.9, 1]), upward=True) == 0
    assert crossing(np.array([0.3, 0.1, 0.2]), upward=False) == 0
    assert crossing(np.array([1, 0.9]), upward=False) == 1


@pytest.fixture(scope="module")
def items():
    return [*scene_items(12, seed=2), *family_items(12, families=("mmvp",), seed=2)]


def test_on_a_replica_answers_rest_on_what_is_asked_about(replica, items):
    table = from_language_alone(replica, items)["items"]
    assert len(table) == 24
    assert not table["kl_swapped"].isna().any()
    assert table["changed_asked"].isna().sum() == table["changed_other"].isna().sum() > 0  # scenes of one object
    mean = table.mean(numeric_only=True)
    assert mean["changed_asked"] > mean["changed_other"] + 0.3
    assert mean["changed_swapped"] > mean["changed_blurred"] + 0.3
    assert (table["kl_asked"].dropna() >= 0).all()
    assert mean["kl_asked"] > mean["kl_other"]
    polar = [item.answer in ("yes", "no") for item in items]
    assert (table["yes_blank"].notna() == polar).all()
    assert set(table["yes_blank"].dropna()) <= {0.0, 1.0}


def test_on_a_replica_routes_carry_and_their_windows_add_up(replica, items):
    items = items[::3]
    tables = routes_of(replica, items)
    whole = tables["routes"].groupby("route")[["cost", "random"]].mean()
    assert whole.loc[ON, "cost"] > whole.loc[ON, "random"] + 0.3
    objects = tables["objects"]
    asked = sum(0 < len(item.boxes) <= len(item.others) for item in items)
    assert len(objects) == 2 * asked
    assert objects["asked"].mean() > objects["other"].mean()
    assert len(tables["windows"]) == 8 * 4 * 4
    assert tables["windows"]["depth"].between(0, 1).all()
    assert len(tables["flow"]) == 8
    assert tables["flow"]["on"].dropna().between(0, 1).all()


def test_on_a_replica_twins_are_decided_behind_where_the_image_is_needed(replica, items):
    tables = where_decided(replica, items)
    decided = tables["decided"]
    assert decided["answer"].mean() > decided["image"].mean() > decided["random_image"].mean()
    assert decided["random_answer"].mean() > 0.9
    ends = tables["layers"].query("not control and depth == 1").groupby("positions")["effect"].mean()
    assert ends["answer"] == pytest.approx(1, abs=1e-4)
    assert ends["box"] == pytest.approx(0, abs=1e-4)


def test_what_cannot_be_measured_is_said(replica, items):
    model = tiny_language()
    for measure in (from_language_alone, routes_of, where_decided):
        with pytest.raises(VlmProbeError, match="is a language model without an encoder"):
            measure(model, items)
    alone = [replace(items[0], source=None)]
    for finding, measure in ((S3, from_language_alone), (S4, routes_of), (S5, where_decided)):
        assert finding.picks(alone) == []
        with pytest.raises(VlmProbeError, match=f"^it needs {finding.wants.split('(')[0].split(',')[0].strip()}"):
            measure(replica, alone)
    unknown = replace(items[0], id="odd", answer=" ")
    with pytest.raises(VlmProbeError, match="item odd: target"):
        from_language_alone(replica, [unknown, *items[1:3]])
