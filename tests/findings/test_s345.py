"""S3, S4 and S5 on tables whose truth is known, and on replicas: what an answer rests on, and where."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from connecting import called_equivalent
from planting import MOST, decided, verdicts
from tiny import tiny_language, untyped

from vlm_probe.causal.knockout import ROUTES
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


def s4_tables(rng, n, more=(0.0, 0.0)):
    """Whether answers change: most do not, whatever is cut."""
    found = {}
    for name, plus in zip(("first", "second"), more, strict=True):
        table, ease = known(n, rng)

        def changes(by, ease=ease):
            return (0.5 * ease + rng.normal(size=len(ease)) + by > 1.2).astype(float)

        objects = [table.assign(route=route, asked=changes(plus), other=changes(0.0)) for route in AT_OBJECTS]
        routes = [table.assign(route=route, changed=changes(0.0), random=changes(0.0)) for route in ROUTES]
        found[name] = {"objects": pd.concat(objects), "routes": pd.concat(routes)}
    return found


def s5_tables(rng, n, more=(0.0, 0.0), depths=(5, 5), needed=0.4, steep=12.0):
    """Courses of effects along the layers of two models, read as the finding reads them.

    more: how much later each is decided, and needs its image, than halfway (shares of the layers).
    """
    found, late = {}, 0.1 * rng.normal(size=n)
    for name, plus, depth in zip(("first", "second"), more, depths, strict=True):
        at, noise = np.arange(depth + 1) / depth, rng.normal(size=(2, n)) / 10
        middle = 0.5 + late + plus + noise[0]
        answer = 1 / (1 + np.exp(-steep * (at[None] - middle[:, None])))
        answer[:, 0], answer[:, -1] = 0.0, 1.0
        image = 1 / (1 + np.exp(steep * (at[None] - (needed + late + plus + noise[1])[:, None])))
        image[:, 0], image[:, -1] = 1.0, 0.0
        table = pd.DataFrame({"id": range(n), "cluster": range(n), "step": 1 / depth})
        found[name] = {
            "decided": table.assign(
                answer=[crossing(course, upward=True) for course in answer],
                image=[crossing(course, upward=False) for course in image],
                random_image=0.0,
                before_last=answer[:, -2],
                question=0.2,
                random_question=0.1,
            )
        }
    return found


@pytest.mark.parametrize(
    ("finding", "make"), [(S3, s3_tables), (S4, s4_tables), (S5, s5_tables)], ids=["S3", "S4", "S5"]
)
def test_nothing_is_rarely_called_at_the_smallest_n(finding, make):
    least = max(claim.least for claim in finding.claims if not claim.descriptive)
    rates = decided(finding, lambda rng: make(rng, least))
    print(f"{finding.id}, decided with nothing there:", rates)
    tested = {claim.id for claim in finding.claims if not claim.descriptive}
    assert set(rates) == tested
    # Of courses that are there something is: the answer stands before the last layer, and the image is needed.
    there = {"before_last", "image"} if finding is S5 else set()
    assert max(rates[name] for name in tested - there) <= MOST, rates
    assert all(rates[name] == 1 for name in there)


def calls(finding, make, **given):
    found = verdicts(finding, lambda rng: make(rng, 211, **given))
    return {name: verdict for name, verdict in found.items() if verdict != Verdict.DESCRIPTIVE}


def test_planted_effects_are_found_and_their_opposites_contradicted():
    assert set(calls(S3, s3_tables, more=(0.7, 1.6)).values()) == {Verdict.SUPPORTED}
    assert set(calls(S3, s3_tables, more=(-0.7, -2.0)).values()) == {Verdict.CONTRADICTED}
    assert set(calls(S4, s4_tables, more=(0.7, 1.6)).values()) == {Verdict.SUPPORTED}
    fewer = calls(S4, s4_tables, more=(1.6, 0.7))
    assert {name: verdict for name, verdict in fewer.items() if name.endswith("_more")} == {
        "image_to_question_more": Verdict.CONTRADICTED,
        "image_to_answer_more": Verdict.CONTRADICTED,
        "image_to_both_more": Verdict.CONTRADICTED,
    }
    for depths in ((5, 5), (18, 28), (12, 5)):
        assert set(calls(S5, s5_tables, more=(-0.3, 0.1), depths=depths, needed=0.5).values()) == {Verdict.SUPPORTED}
    late = calls(S5, s5_tables, more=(0.1, -0.3), depths=(18, 28))
    assert late["answer_later"] == late["image_longer"] == Verdict.CONTRADICTED


@pytest.mark.parametrize("depths", [(4, 6), (6, 4), (4, 8), (18, 28), (4, 4)])
def test_models_of_different_depth_that_decide_alike_are_not_told_apart(depths):
    """A depth is known to a layer: steps of a fourth and of a sixth must not pass for another depth."""
    for middle in (-0.3, -0.2, 0.0, 0.13, 0.3):
        found = calls(S5, s5_tables, more=(middle, middle), depths=depths)
        assert not found["answer_later"].decided, middle
        assert not found["image_longer"].decided, middle


@pytest.mark.parametrize("depth", [4, 6, 28])
def test_a_model_that_decides_in_its_last_layer_alone_is_not_said_to_decide_before(depth):
    rng = np.random.default_rng(depth)
    last = np.zeros((40, depth + 1)) + 0.02 * rng.normal(size=(40, depth + 1))
    last[:, -1] = 1.0
    table = pd.DataFrame({"id": range(40), "cluster": range(40), "step": 1 / depth}).assign(
        answer=[crossing(course, upward=True) for course in last],
        image=[crossing(1 - course[::-1], upward=False) for course in last],
        random_image=0.0,
        before_last=last[:, -2],
        question=0.0,
        random_question=0.0,
    )
    assert set(table["answer"]) == {1.0}
    found = verdicts(S5, lambda _: {"first": {"decided": table}, "second": {"decided": table}})
    assert found["before_last"] == Verdict.CONTRADICTED
    assert not found["answer_later"].decided
    at_entry = 1 - last[:, ::-1]
    at_entry[:, 0], at_entry[:, 1:] = 1.0, 0.0
    table["image"] = [crossing(course, upward=False) for course in at_entry]
    found = verdicts(S5, lambda _: {"first": {"decided": table}, "second": {"decided": table}})
    assert found["image"] == Verdict.EQUIVALENT


def test_what_matters_is_rarely_called_equivalent():
    def of_shares(rng, n, margin):
        table, _ = known(n, rng)
        other = (rng.random(len(table)) < 0.2).astype(float)
        more = np.where((other == 0) & (rng.random(len(table)) < margin / 0.8), 1.0, other)
        named = {"changed_asked": more, "changed_other": other, "changed_swapped": more, "changed_blurred": other}
        return {"model": {"items": table.assign(**named)}}

    def of_routes(rng, n, margin):
        found = of_shares(rng, n, margin)["model"]["items"].rename(
            columns={"changed_asked": "asked", "changed_other": "other"}
        )
        return {"model": {"objects": pd.concat([found.assign(route=route) for route in AT_OBJECTS])}}

    rates = {}
    for finding, make in ((S3, of_shares), (S4, of_routes)):
        alone = [claim for claim in finding.claims if claim.of == "model" and not claim.descriptive]
        for n in (alone[0].least, 120):
            found = called_equivalent(alone, {claim.id: make for claim in alone}, n)
            rates |= {f"{finding.id} {name} {n}": rate for name, rate in found.items()}
    print("S3 and S4, equivalent though it matters:", rates)
    assert max(rates.values()) <= MOST, rates


def test_where_a_course_crosses_a_half():
    course = np.array([0.0, 0.6, 0.25, 0.75, 1.0])
    assert crossing(course, upward=True) == 3 / 4  # for the last time
    assert crossing(1 - course, upward=False) == 2 / 4
    assert crossing(np.array([0, 0.1, 0.2]), upward=True) == 1
    assert crossing(np.array([0.9, 1]), upward=True) == 0
    assert np.isnan(crossing(np.array([0.45, 0.45, 0.0]), upward=False))
    assert crossing(np.array([1, 0.9]), upward=False) == 1


@pytest.fixture(scope="module")
def items():
    return [*scene_items(12, seed=2), *family_items(12, families=("mmvp",), seed=2)]


def test_on_a_replica_answers_rest_on_what_is_asked_about(replica, items):
    table = untyped(from_language_alone(replica, items)["items"])
    assert len(table) == 24
    assert not table["kl_swapped"].isna().any()
    assert table["changed_asked"].isna().sum() == table["changed_other"].isna().sum() > 0  # scenes of one object
    mean = untyped(table.mean(numeric_only=True))
    assert mean["changed_asked"] > mean["changed_other"] + 0.3
    assert mean["changed_swapped"] > mean["changed_blurred"] + 0.3
    assert (table["kl_asked"].dropna() >= 0).all()
    assert mean["kl_asked"] > mean["kl_other"]
    polar = [item.answer in ("yes", "no") for item in items]
    assert (table["yes_blank"].notna() == polar).all()
    assert set(table["yes_blank"].dropna()) <= {0.0, 1.0}


def test_on_a_replica_the_image_reaches_the_answer_by_the_object_asked_about(replica, items):
    some = items[::2]
    tables = {name: untyped(table) for name, table in routes_of(replica, some).items()}
    whole = tables["routes"].groupby("route")[["changed", "random"]].mean()
    assert whole.loc["image to both", "changed"] > 0.3
    assert whole.loc[ON, "changed"] > whole.loc[ON, "random"] + 0.3
    objects = tables["objects"]
    assert len(objects) == 3 * sum(0 < len(item.boxes) <= len(item.others) for item in some)
    both = objects.query("route == 'image to both'")
    assert both["asked"].mean() > both["other"].mean()
    assert len(tables["windows"]) == len(some) * 4 * 4
    assert set(tables["windows"]["changed"]) <= {0.0, 1.0}


def test_on_a_replica_twins_are_decided_behind_where_the_image_is_needed(replica, items):
    tables = {name: untyped(table) for name, table in where_decided(replica, items).items()}
    decided = tables["decided"]
    assert decided["answer"].mean() > decided["image"].mean() > decided["random_image"].mean()
    assert decided["before_last"].mean() > 0.5
    ends = tables["layers"].query("not control and depth == 1").groupby("positions")["effect"].mean()
    assert ends["answer"] == pytest.approx(1, abs=1e-4)
    assert ends["box"] == pytest.approx(0, abs=1e-4)


def test_pairs_that_share_their_second_image_are_one_cluster(replica, items):
    """Whose first twins have pictures of their own."""
    twins = [item for item in items if item.family == "mmvp"]
    shared = [replace(item, image="one") if number % 2 else item for number, item in enumerate(twins)]
    assert len(set(where_decided(replica, shared)["decided"]["cluster"])) == 1


def test_what_is_not_there_is_not_said_of(replica, items):
    """Pictures from files lose no object, and are told of without a share of those."""
    tables = from_language_alone(replica, items[:6])["items"].assign(changed_asked=np.nan, changed_other=np.nan)
    shown = S3.shown({"model": {"items": tables}}, items)
    (said,) = shown.summary
    assert untyped(shown.tables["changed"])["n"].min() > 0
    assert "nan" not in said
    assert "without the object" not in said
    assert "of blank ones" in said


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
