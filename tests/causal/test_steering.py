"""Directions are differences of means and steer towards what they were made of; back-patching equals single runs."""

from itertools import islice

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import tiny_vlm, untyped

from vlm_probe import VlmProbeError, causal
from vlm_probe.causal import Replace, Steer
from vlm_probe.causal.outcomes import Sought, outcomes
from vlm_probe.causal.steering import back_patch, direction_between, restored, steer_sweep
from vlm_probe.scenes import scene_items

POINT = "language.blocks.2.hook_resid_post"


def colored(color: str, n: int):
    items = (item for item in scene_items(2000, seed=3) if item.kind == "color" and item.answer == color)
    return list(islice(items, n))


def some(n: int, seed: int = 5):
    return list(scene_items(n, seed=seed))


def lead(model, item, output) -> float:
    return outcomes(output.logits[:, -1].float(), [Sought.of(model, item)])["logit_difference"].tolist()[0]


@torch.no_grad()
@pytest.mark.parametrize(("point", "positions"), [(POINT, "answer"), ("connector.hook_out", "image")])
def test_a_direction_is_the_difference_of_means(replica, point, positions):
    groups = some(5), some(3, seed=6)
    done = []
    found = direction_between(replica, *groups, point, positions, batch_size=2, progress=done.append)
    assert done == [2, 2, 1, 2, 1]
    means = []
    for items in groups:
        rows = []
        for item in items:
            inputs = replica.prepare(replica.picture(item), item.question)
            row = replica.run_with_cache(inputs)[1][point][0]
            rows.append(row[-1] if positions == "answer" else row.mean(0))
        means.append(torch.stack(rows).mean(0))
    torch.testing.assert_close(found, means[0] - means[1], atol=1e-4, rtol=1e-4)
    unit = direction_between(replica, *groups, point, positions, unit=True)
    torch.testing.assert_close(unit, found / found.norm(), atol=1e-5, rtol=0)


def test_a_color_steers_to_itself_and_random_directions_do_not(replica):
    red, yellow = colored("red", 7), colored("yellow", 10)
    direction = direction_between(replica, red, yellow[:5], POINT)
    table = untyped(steer_sweep(replica, yellow[5:], direction, POINT, [1], target="red", draws=5))
    assert len(table) == 5 * (1 + 5)
    mean = table.groupby("control")["probability"].mean()
    assert mean[False] > 0.9
    assert mean[True] < 0.1
    assert (table["probability_before"] < 0.1).all()
    assert table.attrs["left_out"] == []


def test_steering_equals_single_runs(replica):
    items, direction = some(5), torch.randn(112, generator=torch.Generator().manual_seed(3))
    where = "question | answer"
    table = steer_sweep(replica, items, direction, POINT, [-1.5, 2], positions=where, draws=1, batch_size=3)
    assert len(table) == 5 * 2 * 2
    for row in table.loc[~table["control"]].to_dict("records"):
        item = next(one for one in items if one.id == row["id"])
        inputs = replica.prepare(replica.picture(item), item.question)
        steered = Steer(POINT, direction, row["strength"], positions=where)
        with torch.no_grad():
            after, before = causal.run(replica, inputs, [steered])[0], replica(inputs)
        assert row["change_logit"] == pytest.approx(lead(replica, item, after) - lead(replica, item, before), abs=1e-3)
    alone = steer_sweep(replica, items[4:], direction, POINT, [-1.5, 2], positions=where, draws=1)
    np.testing.assert_allclose(alone["change_logit"], table.query(f"id == '{items[4].id}'")["change_logit"], atol=1e-3)


def test_a_random_direction_does_not_differ_from_random_directions():
    model, items = tiny_vlm(), some(3)
    ranks = []
    for seed in range(13):
        direction = torch.randn(42, generator=torch.Generator().manual_seed(100 + seed))
        table = steer_sweep(model, items, direction, "language.blocks.1.hook_resid_post", [3], draws=3, seed=seed)
        mean = -untyped(table).groupby(["control", "draw"])["change_logit"].mean()
        ranks.append(int((mean[True] < float(mean[False].iloc[0])).sum()))
    # Of four that are alike each is as likely the worst: ranks 0 to 3, mean 1.5.
    assert 0.7 < np.mean(ranks) < 2.3


@torch.no_grad()
def test_back_patching_equals_single_runs(replica):
    items = some(5)
    done = []
    table = untyped(back_patch(replica, items, batch_size=3, progress=done.append))
    assert done == [3, 2]
    depth = replica.layers["language"]
    assert len(table) == 5 * depth * (depth - 1) // 2 * 2
    assert (table["source"] > table["target"]).all()
    for row in table.loc[~table["control"]].iloc[::7].to_dict("records"):
        item = next(one for one in items if one.id == row["id"])
        inputs = replica.prepare(replica.picture(item), item.question)
        before, cache = replica.run_with_cache(inputs)
        point, later = (f"language.blocks.{row[one]}.hook_resid_post" for one in ("target", "source"))
        after = causal.run(replica, inputs, [Replace(point, "answer", cache[later])])[0]
        assert row["change_logit"] == pytest.approx(lead(replica, item, after) - lead(replica, item, before), abs=1e-3)
        says = [int(one.logits[0, -1].argmax()) for one in (before, after)]
        assert [row["right_before"], row["right"]] == [one == Sought.of(replica, item).token for one in says]
        assert row["flipped"] == (says[0] != says[1])
    alone = back_patch(replica, items[3:4])
    np.testing.assert_allclose(alone["change_logit"], table.query(f"id == '{items[3].id}'")["change_logit"], atol=1e-3)


def test_a_layer_given_to_itself_changes_nothing_and_another_positions_state_does(replica):
    table = back_patch(replica, some(7), layers=[(layer, layer) for layer in range(4)])
    own, random = (table.loc[table["control"] == control] for control in (False, True))
    np.testing.assert_allclose(own["change_logit"], 0, atol=1e-4)
    assert not own["flipped"].any()
    assert (own["right"] == own["right_before"]).all()
    assert random["change_logit"].abs().mean() > 1
    shares = untyped(restored(table))
    assert (shares.query("not control")["kept"] == 1).all()
    assert shares["right"].tolist() == [own.query("source == 0")["right_before"].sum()] * 8


def test_shares_by_hand():
    rows = [
        (3, 1, False, False, True),
        (3, 1, False, False, False),
        (3, 1, False, True, False),
        (3, 1, True, False, False),
    ]
    table = pd.DataFrame(rows, columns=["source", "target", "control", "right_before", "right"])
    table.attrs["left_out"] = ["item a: why"]
    shares = restored(table)
    assert shares.to_dict("list") == {
        "source": [3, 3],
        "target": [1, 1],
        "control": [False, True],
        "wrong": [2, 1],
        "restored": [0.5, 0.0],
        "right": [1, 0],
        "kept": [0.0, pytest.approx(np.nan, nan_ok=True)],
    }
    assert shares.attrs["left_out"] == ["item a: why"]


def test_what_cannot_be_done_is_said(replica):
    items = some(2)
    row = torch.ones(112)
    name = "language.blocks.1.attn.hook_z"
    cases = {
        f"there is no direction at {POINT}: both groups have the same mean": lambda: direction_between(
            replica, items, items, POINT
        ),
        "no item can be run; there is none": lambda: direction_between(replica, items, [], POINT),
        "a direction is of one point, '*.hook_resid_post' names 9": lambda: direction_between(
            replica, items, items, "*.hook_resid_post"
        ),
        f"a direction is of rows of features, {name} has batch, position, head, d_head": lambda: steer_sweep(
            replica, items, row, name
        ),
        "there is no strength to steer with": lambda: steer_sweep(replica, items, row, POINT, []),
        f"the direction has 3 features, {POINT} has 112": lambda: steer_sweep(replica, items, torch.ones(3), POINT),
        "layers are 0 to 3, the source not below the target, got 1, 2": lambda: back_patch(
            replica, items, layers=[(1, 2)]
        ),
        "layers are 0 to 3, the source not below the target, got 4, 2": lambda: back_patch(
            replica, items, layers=[(4, 2)]
        ),
    }
    for said, call in cases.items():
        with pytest.raises(VlmProbeError) as caught:
            call()
        assert str(caught.value) == said
    without = [item for item in some(20) if not item.boxes][:1]
    table = steer_sweep(replica, [*without, items[0]], row, "connector.hook_out", [1], positions="box", draws=0)
    assert table.attrs["left_out"] == [
        f"item {without[0].id}: positions 'box' need the item's boxes, and there is none"
    ]
