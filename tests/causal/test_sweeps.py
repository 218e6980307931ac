"""Sweeps equal a loop of single runs, find what is known of generated twins, and say what they leave out."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import untyped

from vlm_probe import VlmProbeError, causal
from vlm_probe.causal import Knockout, Replace, knockout_sweep, patch, patch_sweep
from vlm_probe.causal.knockout import ROUTES, windows
from vlm_probe.causal.outcomes import Sought, outcomes
from vlm_probe.items import twins_among
from vlm_probe.scenes import family_items, scene_items


@pytest.fixture(scope="module")
def pairs():
    return twins_among(list(family_items(12, families=("mmvp",))))


@pytest.fixture(scope="module")
def patched(replica, pairs):
    return patch_sweep(replica, pairs, points=["connector.hook_out", "language.blocks.*.hook_resid_post"], batch_size=4)


def test_windows_slide_over_all_layers():
    assert windows(6, 2) == [range(i, i + 2) for i in range(5)] + [range(6)]
    assert windows(3, 3) == [range(3)]
    assert windows(18)[0] == range(4)
    assert windows(18, 4, 3) == [range(4), range(7, 11), range(14, 18), range(18)]
    assert windows(6, 2, 9) == windows(6, 2)
    with pytest.raises(VlmProbeError, match="a window takes 1 to 4 layers, got 5"):
        windows(4, 5)


@torch.no_grad()
def test_a_knockout_sweep_equals_single_runs(replica):
    items = list(scene_items(5, seed=3))
    done = []
    table = knockout_sweep(replica, items, window=2, batch_size=3, progress=done.append)
    assert done == [3, 2]
    assert len(table) == 5 * 4 * 4 * 2
    assert table.attrs["left_out"] == []
    assert not table.isna().any().any()
    kept = table.loc[~table["control"]]
    for row in kept.iloc[:: len(kept) // 7].to_dict("records"):
        item = next(one for one in items if one.id == row["id"])
        inputs = replica.prepare(replica.picture(item), item.question)
        queries, keys = ROUTES[row["route"]]
        cut = Knockout(queries, keys, range(row["first"], row["last"] + 1))
        sought = [Sought.of(replica, item)]
        after = outcomes(causal.run(replica, inputs, [cut])[0].logits[:, -1].float(), sought).iloc[0]
        before = outcomes(replica(inputs).logits[:, -1].float(), sought).iloc[0]
        assert row["probability"] == pytest.approx(after["probability"], abs=1e-5)
        assert row["change"] == pytest.approx(after["probability"] - before["probability"], abs=1e-5)
        assert row["change_logit"] == pytest.approx(after["logit_difference"] - before["logit_difference"], abs=1e-4)
    # As many random edges, and the same ones whatever else is in the batch.
    edges = untyped(table.groupby(["id", "route", "control"])["edges"].first().unstack())
    assert (edges[False] == edges[True]).all()
    alone = knockout_sweep(replica, items[3:4], window=2)
    np.testing.assert_allclose(alone["change"], table.loc[table["id"] == items[3].id, "change"], atol=1e-5)


def test_several_controls_are_those_of_the_seeds_that_follow(replica):
    items = list(scene_items(2, seed=4))
    several = untyped(knockout_sweep(replica, items, draws=3, seed=11))
    key = ["id", "route", "first", "last"]
    for draw in range(3):
        alone = untyped(knockout_sweep(replica, items, seed=11 + draw))
        own = several.query("draw == @draw and control").drop(columns="draw")
        expected = alone.query("control")
        assert own[[*key, "edges"]].values.tolist() == expected[[*key, "edges"]].values.tolist()
        np.testing.assert_allclose(own["change_logit"], expected["change_logit"], atol=1e-5)
    assert len(several.query("not control")) == len(alone.query("not control"))
    with pytest.raises(VlmProbeError, match="draws must be at least 1, got 0; control=False takes none"):
        knockout_sweep(replica, items, draws=0)


def test_without_its_image_a_model_is_no_better_than_without_seeing(replica):
    items = [item for item in scene_items(40, seed=3) if item.kind in ("color", "shape", "count")]
    table = untyped(knockout_sweep(replica, items, window=4, control=False)).query("route == 'image to both'")
    assert table["probability_before"].mean() > 0.8
    assert table["probability"].mean() < 0.45


@torch.no_grad()
def test_a_patch_sweep_equals_single_runs(replica, pairs, patched):
    left = len(patched.attrs["left_out"])
    assert patched["id"].nunique() == len(pairs) - left
    assert left < len(pairs) / 2
    assert set(patched["positions"]) == {"box", "background", "question", "answer"}
    # The connector has rows of patches alone.
    assert set(patched.query("part == 'connector'")["positions"]) == {"box", "background"}
    own = patched.loc[~patched["control"]]
    for row in own.iloc[:: len(own) // 7].to_dict("records"):
        pair = next(one for one in pairs if one[0].group == row["id"])
        clean, corrupt = (replica.prepare(replica.picture(item), item.question) for item in pair)
        boxes = [*pair[0].boxes, *pair[1].boxes]
        done = causal.run(replica, corrupt, [Replace(row["point"], row["positions"], clean)], boxes=boxes)[0]
        tokens = [Sought.of(replica, item).token for item in pair]

        def lead(logits: torch.Tensor, tokens=tokens) -> float:
            return float(logits[0, -1, tokens[0]] - logits[0, -1, tokens[1]])

        low, high = lead(replica(corrupt).logits), lead(replica(clean).logits)
        assert row["effect"] == pytest.approx((lead(done.logits) - low) / (high - low), abs=1e-4)
        assert patch(replica, pair, row["point"], row["positions"]) == pytest.approx(row["effect"], abs=1e-4)


def test_twins_differ_in_their_boxes_and_the_answer_position_ends_with_the_answer(patched):
    mean = patched.groupby(["point", "positions", "control"])["effect"].mean().unstack()
    first, last = "connector.hook_out", f"language.blocks.{patched['layer'].max()}.hook_resid_post"
    assert mean.loc[(first, "box"), False] > 0.9
    assert abs(mean.loc[(first, "box"), True]) < 0.1
    assert mean.loc[(last, "answer"), False] == pytest.approx(1, abs=1e-4)
    assert mean.loc[(last, "box"), False] == pytest.approx(0, abs=1e-4)
    assert patched.query(f"point == '{last}' and positions == 'answer' and not control")["flipped"].all()


def test_patching_a_twin_with_itself_has_no_effect(replica, pairs):
    clean, corrupt = pairs[0]
    # The same picture under another name, asked for another answer: nothing can be restored.
    same = replace(corrupt, source=clean.source)
    with pytest.raises(VlmProbeError, match="it has one image"):
        patch(replica, (clean, same), "connector.hook_out", "image")


def test_heads_are_patched_one_by_one_and_add_up_to_their_layer(replica, pairs):
    name = "language.blocks.3.attn.hook_z"
    table = patch_sweep(replica, pairs[:3], points=[name], positions=["answer"], heads=True, control=False)
    assert sorted(table["head"].unique()) == list(range(replica.text_config.num_attention_heads))
    whole = patch_sweep(replica, pairs[:3], points=[name], positions=["answer"], control=False)
    assert len(whole) * 8 == len(table)
    # Behind the last attention there is an MLP and a norm: nearly a sum, not quite.
    sums = untyped(table.groupby("id")["effect"].sum()).loc[whole["id"].tolist()]
    np.testing.assert_allclose(sums, whole["effect"], atol=0.2)


def test_what_cannot_be_patched_or_cut_is_named_with_its_reason(replica, pairs):
    clean, corrupt = pairs[0]
    other = replace(corrupt, question="What color is the square over there?")
    alike = replace(corrupt, answer=clean.answer)
    reasons = {
        "two questions differ": (clean, other),
        "begin with the same token": (clean, alike),
        "has one image": (clean, replace(corrupt, image=clean.image)),
        "is not answered": (clean, replace(corrupt, answer="ten")),
    }
    for said, pair in reasons.items():
        found = patch_sweep(replica, [pair, *pairs], points=["connector.hook_out"], positions=["box"])
        (line,) = [one for one in found.attrs["left_out"] if one.startswith(f"pair {clean.group}: ")][:1]
        assert said in line
        with pytest.raises(VlmProbeError, match=said):
            patch_sweep(replica, [pair], points=["connector.hook_out"], positions=["box"])
    with pytest.raises(VlmProbeError, match="none of question is in connector.hook_out: nothing is patched"):
        patch_sweep(replica, pairs[:2], points=["connector.hook_out"], positions=["question"])
    # Whichever way one is left out, before it is run or after, it is counted once.
    found = patch_sweep(replica, [*reasons.values(), pairs[0]], points=["connector.hook_out"], positions=["box"])
    assert len(found.attrs["left_out"]) == len(reasons)
    assert found.attrs["pairs"] == 1
    items = list(scene_items(2, seed=3))
    bad = replace(items[0], id="bad", boxes=())
    found = knockout_sweep(replica, [bad, items[1]], routes={"box": ("answer", "box")}, control=False)
    assert found.attrs["left_out"] == ["item bad: positions 'box' need the item's boxes, and there is none"]
    with pytest.raises(VlmProbeError, match="no item can be run; item bad"):
        knockout_sweep(replica, [bad], routes={"box": ("answer", "box")})
