"""Heads that are known are found, and taking them away hurts; random heads beside random heads do not differ."""

from itertools import islice

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import tiny_vlm, untyped

from vlm_probe import VlmProbeError, causal
from vlm_probe.attention import image_attention
from vlm_probe.causal import Ablate, Knockout, Replace
from vlm_probe.causal.direct import direct_logit_attribution
from vlm_probe.causal.heads import confirm_heads, find_heads
from vlm_probe.causal.mean_rows import KINDS, kinds_of
from vlm_probe.causal.outcomes import Sought, outcomes
from vlm_probe.causal.sinks import ablate_sinks, sinks_in
from vlm_probe.causal.sweeping import prepared
from vlm_probe.scenes import scene_items


def of_objects(n: int, seed: int):
    """Questions about one object beside another."""
    items = (item for item in scene_items(1000, seed=seed) if item.kind in ("color", "shape", "side"))
    return list(islice((item for item in items if len(item.boxes) == 1 and item.others), n))


def change_of(model, inputs, item, interventions) -> float:
    """What one run with interventions changes of the lead."""
    sought = [Sought.of(model, item)]
    with torch.no_grad():
        before, after = model(inputs), causal.run(model, inputs, interventions)[0]
    leads = [outcomes(one.logits[:1, -1].float(), sought)["logit_difference"].tolist()[0] for one in (before, after)]
    return float(leads[1] - leads[0])


@pytest.fixture(scope="module")
def found(replica):
    done = []
    table = find_heads(replica, of_objects(31, seed=3), sinks=[0], batch_size=7, progress=done.append)
    assert done == [7, 7, 7, 7, 3]
    return table


def test_heads_that_look_at_the_object_are_found_and_are_what_the_answer_rests_on(replica, found):
    assert len(found) == replica.layers["language"] * replica.text_config.num_attention_heads
    best = found.nlargest(3, "looks_answer")
    assert best["looks_answer"].min() > 0.15  # of its attention, more than on another object
    assert found["looks_answer"].median() < 0.05
    # On other items than they were found on.
    table = untyped(confirm_heads(replica, of_objects(11, seed=4), best, draws=3, singles=False))
    drop = -table.groupby("set")["change_logit"].mean()
    assert drop["found"] > 2 * max(drop["random"], 0.1)
    assert set(table.loc[~table["control"], "set"]) == {"found"}
    assert table["one_by_one"].isna().all()


@torch.no_grad()
def test_scores_are_those_of_a_single_run(replica):
    item = next(item for item in of_objects(7, seed=5) if len(item.others) == 1)
    table = untyped(find_heads(replica, [item], sinks={2: [0, 9]}))
    inputs = replica.prepare(replica.picture(item), item.question)
    trace = replica.trace(inputs)
    for query in ("answer", "question"):
        map_ = image_attention(trace, query)
        for on, box in (("asked", item.boxes[0]), ("other", item.others[0])):
            coverage = inputs.layout.box_coverage(box)
            own = (map_ * (coverage - coverage.mean())).sum(("row", "col"))
            np.testing.assert_allclose(table[f"{on}_{query}"], own.values.ravel(), atol=1e-6)
        rows = trace["language.blocks.2.attn.hook_pattern"][0][:, torch.from_numpy(inputs.layout.question_positions)]
        rows = rows if query == "question" else trace["language.blocks.2.attn.hook_pattern"][0][:, -1:]
        own = rows[..., [0, 9]].sum(-1).mean(-1)
        np.testing.assert_allclose(table.query("layer == 2")[f"sinks_{query}"], own, atol=1e-6)
        assert (table.query("layer != 2")[f"sinks_{query}"] == 0).all()
    direct = direct_logit_attribution(replica, inputs, target=item.answer, against=rival(replica, inputs, item))
    np.testing.assert_allclose(table["direct"], direct.query("part == 'head'")["value"], atol=1e-5)


def rival(model, inputs, item) -> int:
    among = list(Sought.of(model, item).rivals)
    return among[int(model(inputs).logits[0, -1, among].argmax())]


@torch.no_grad()
def test_scores_are_means_over_items_whatever_the_batch(replica, found):
    items = of_objects(31, seed=3)
    each = [find_heads(replica, [item], sinks=[0]) for item in items[:5]]
    together = find_heads(replica, items[:5], sinks=[0], batch_size=3)
    np.testing.assert_allclose(together, sum(table.to_numpy() for table in each) / 5, atol=1e-4)


@torch.no_grad()
def test_a_planted_head_copies():
    model = tiny_vlm(language="llama")
    embedding, head = model.hf.get_input_embeddings().weight, model.hf.get_output_embeddings().weight
    head.copy_(embedding)
    attention = model.hf.model.language_model.layers[0].self_attn
    copied = torch.linalg.qr(torch.randn(42, 10, generator=torch.Generator().manual_seed(3)))[0].T
    attention.v_proj.weight[10:20] = copied  # of the second of two kv heads, which is that of heads 3, 4 and 5
    attention.o_proj.weight[:, 40:50] = 20 * copied.T
    table = find_heads(model, of_objects(5, seed=1))
    best = table.loc[table["copies"].idxmax()]
    assert (best["layer"], best["head"]) == (0, 4)
    others = table.drop(index=best.name)["copies"].abs()
    assert best["copies"] > 3 * others.max()


@torch.no_grad()
def test_a_planted_head_looks():
    model, (item, *_) = tiny_vlm(), of_objects(7, seed=1)
    inputs = prepared(model, [item], "")
    coverage = inputs.layout.box_coverage(item.boxes[0])
    at = torch.from_numpy(inputs.layout.image().positions[(coverage > 0).ravel()])

    def look(pattern, hook):
        pattern[:, 4, -1] = 0
        pattern[:, 4, -1, at] = 1 / len(at)
        return pattern

    with model.hooks(fwd_hooks=[("language.blocks.1.attn.hook_pattern", look)]):
        table = untyped(find_heads(model, [item]))
    planted = table.query("layer == 1 and head == 4").iloc[0]
    assert planted["asked_answer"] == pytest.approx(coverage[coverage > 0].mean() - coverage.mean(), abs=1e-6)
    assert table["looks_answer"].idxmax() == planted.name
    assert table["sinks_answer"].eq(0).all()


@pytest.mark.parametrize("by", ["mean", "zero"])
def test_ablated_heads_equal_single_runs(replica, by):
    items = of_objects(3, seed=6)
    heads = [(1, 3), (1, 4), (3, 6)]
    table = confirm_heads(replica, items, heads, by=by, draws=2, batch_size=5)
    count = replica.layers["language"] * replica.text_config.num_attention_heads
    assert len(table) == 3 * (1 + 2 + count)
    inputs = prepared(replica, items, "")

    def alone(own) -> list[float]:
        # As `Ablate` has it, a kind of positions at a time; the batch is all items.
        kinds = {"image", "question", "prompt", "answer"} if by == "mean" else {"all"}
        done = [
            Ablate(f"language.blocks.{layer}.attn.hook_z", kind, by=by, heads=[head])
            for layer, head in own
            for kind in kinds
        ]
        with torch.no_grad():
            logits = [replica(inputs).logits, causal.run(replica, inputs, done)[0].logits]
        sought = [Sought.of(replica, item) for item in items]
        before, after = (outcomes(one[:, -1].float(), sought)["logit_difference"] for one in logits)
        return (after - before).tolist()

    assert table.query("set == 'found'")["change_logit"].tolist() == pytest.approx(alone(heads), abs=1e-3)
    one = table.query("set == 'single' and layer == 1 and head == 4")
    assert one["change_logit"].tolist() == pytest.approx(alone([(1, 4)]), abs=1e-3)
    table = untyped(table)
    single = table.query("set == 'single'").groupby(["layer", "head"])["change_logit"].mean()
    assert table.query("set == 'found'")["one_by_one"].mean() == pytest.approx(single.loc[heads].sum())
    assert (table.query("set == 'single'")["one_by_one"] == table.query("set == 'single'")["change_logit"]).all()
    small = confirm_heads(replica, items, heads, by=by, draws=2, singles=False, batch_size=2)
    np.testing.assert_allclose(small["change_logit"], table.query("set != 'single'")["change_logit"], atol=1e-3)


def test_random_heads_do_not_differ_from_random_heads():
    model, items, rng = tiny_vlm(), of_objects(3, seed=2), np.random.default_rng(5)
    ranks = []
    for _ in range(11):
        heads = [divmod(int(i), 6) for i in rng.choice(18, 3, replace=False)]
        table = untyped(confirm_heads(model, items, heads, draws=3, singles=False))
        mean = -table.groupby(["control", "draw"])["change_logit"].mean()
        ranks.append(int((mean[True] < float(mean[False].iloc[0])).sum()))
    # Of four sets that are alike each is as likely the worst: ranks 0 to 3, mean 1.5.
    assert 0.7 < np.mean(ranks) < 2.3


def test_random_heads_are_of_the_same_layers_as_far_as_there_are_others():
    model, items = tiny_vlm(), of_objects(2, seed=2)
    table = confirm_heads(model, items, [(0, 1), (0, 2), (2, 5)], draws=5, singles=False)
    assert set(table["elsewhere"]) == {0}
    assert sorted(table.query("control")["draw"].unique()) == [0, 1, 2, 3, 4]
    # Four of six are taken: two are left in the layer, two are of others.
    most = confirm_heads(model, items, pd.DataFrame({"layer": 1, "head": [0, 1, 2, 3]}), draws=2, singles=False)
    assert set(most.query("control")["elsewhere"]) == {2}
    # Three of six: one set of others, not the same one five times.
    half = confirm_heads(model, items, [(1, 0), (1, 1), (1, 2)], draws=5, singles=False)
    assert half.query("control")["draw"].unique().tolist() == [0]


def test_sinks_removed_equal_single_runs(replica):
    items = of_objects(5, seed=7)
    sinks = {1: [0], 2: [0, 11]}
    table = ablate_sinks(replica, items, sinks, batch_size=3)
    assert len(table) == 5 * 2 * 2
    assert set(table["positions"]) == {2}
    own = table.query("way == 'knockout' and not control")["change_logit"].tolist()
    for change, item in zip(own, items, strict=True):
        inputs = replica.prepare(replica.picture(item), item.question)
        rest = list(range(inputs.layout.length))
        cuts = [Knockout(rest[1:], [0], 1), Knockout([p for p in rest if p not in (0, 11)], [0, 11], 2)]
        assert change == pytest.approx(change_of(replica, inputs, item, cuts), abs=1e-3)
    # What stands where they do is the mean of positions of their kind that are no sinks, over all items.
    text, patches = [], []
    with torch.no_grad():
        for item in items:
            inputs = replica.prepare(replica.picture(item), item.question)
            state = replica.run_with_cache(inputs)[1]["language.blocks.2.hook_resid_pre"][0]
            kinds = kinds_of(inputs.layout)
            text.append(state[[p for p in range(1, len(state) - 1) if kinds[p] != KINDS.index("image")]])
            patches.append(state[[p for p in range(len(state)) if kinds[p] == KINDS.index("image") and p != 11]])
    row = torch.zeros(1, len(state), state.shape[1])
    row[0, 0], row[0, 11] = torch.cat(text).mean(0), torch.cat(patches).mean(0)
    removed = untyped(ablate_sinks(replica, items, {2: [0, 11]}, control=False, batch_size=2))
    by_mean = removed.query("way == 'mean'")
    done = [Replace("language.blocks.2.hook_resid_pre", [0, 11], row)]
    assert by_mean["change_logit"].iloc[-1] == pytest.approx(change_of(replica, inputs, items[-1], done), abs=1e-3)
    assert not by_mean["control"].any()
    alone = ablate_sinks(replica, items[3:4], sinks)
    np.testing.assert_allclose(
        alone.query("way == 'knockout'")["change_logit"],
        table.query(f"way == 'knockout' and id == '{items[3].id}'")["change_logit"],
        atol=1e-3,
    )


def test_sinks_are_counted_from_the_start_of_the_prompt_without_padding(replica):
    items = of_objects(9, seed=8)
    items = sorted(items, key=lambda item: len(item.question))[:: len(items) - 1]
    layouts = prepared(replica, items, "").layouts
    short = layouts[0]
    start = int(short.text_positions[0])
    assert start > 0
    assert sinks_in([0, 4], short, 4) == {layer: [start, start + 4] for layer in range(4)}
    named = pd.DataFrame({"layer": [1], "position": [0], "token": ["<bos>"]})
    assert sinks_in(named, short, 4) == {1: [start]}
    assert kinds_of(short)[start - 1] == -1
    assert kinds_of(short)[start + 4] == KINDS.index("image")


def test_what_cannot_be_used_is_named_with_its_reason(replica):
    items = of_objects(2, seed=3)
    without = [item for item in scene_items(40, seed=3) if not item.boxes][:1]
    table = find_heads(replica, [*without, *items])
    (line,) = table.attrs["left_out"]
    assert (
        line
        == f"item {without[0].id}: it takes the box of an object that is asked about, and there is none on its patches"
    )
    assert table.attrs["items"] == 2
    cases = {
        "no item can be run; there is none": lambda: find_heads(replica, []),
        "there is no head 4.0: layers are 0 to 3, heads 0 to 7": lambda: confirm_heads(replica, items, [(4, 0)]),
        "of 32 heads 1 to 16 can be confirmed, got 0": lambda: confirm_heads(replica, items, []),
        "by must be 'mean' or 'zero', got 'noise'": lambda: confirm_heads(replica, items, [(0, 0)], by="noise"),
        f"no item can be run; item {items[0].id}: there is no sink": lambda: ablate_sinks(replica, items, []),
        f"no item can be run; item {items[0].id}: these sinks are of 2 images: take those of one of them": lambda: (
            ablate_sinks(replica, items, pd.DataFrame({"layer": 1, "position": 0, "image": ["a", "b"]}))
        ),
        f"no item can be run; item {items[0].id}: layers are 0 to 3, a sink is of layer 4": lambda: ablate_sinks(
            replica, items, {4: [0]}
        ),
        f"no item can be run; item {items[0].id}: these sinks were found in prompts of another form: at 0 stands "
        "'<bos>', not 'a'": lambda: ablate_sinks(
            replica, items, pd.DataFrame({"layer": [1], "position": [0], "token": ["a"]})
        ),
    }
    for said, call in cases.items():
        with pytest.raises(VlmProbeError) as caught:
            call()
        assert str(caught.value) == said
