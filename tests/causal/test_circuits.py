"""Edges are what they are said to be: against patches by hand, a circuit that was built, and in their limits."""

from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score
from tiny import LANGUAGES, PAIRS, tiny_batch, tiny_language, tiny_llava

from vlm_probe.causal.attribution_metric import LogitDifference
from vlm_probe.causal.circuits import edge_attribution, faithfulness
from vlm_probe.causal.circuits_running import Nodes, Split
from vlm_probe.causal.positions import Places
from vlm_probe.errors import VlmProbeError
from vlm_probe.hooked import HookedVLM, ModelInputs

METRIC: Any = LogitDifference((5,), (9,))


IN_TURN = [name for name in LANGUAGES if name != "phi"]
"""Where the MLP follows attention."""


def scored(*args: Any, **changes: Any) -> Any:
    return edge_attribution(*args, **{"metric": METRIC, **changes})


def curve(*args: Any, **changes: Any) -> Any:
    return faithfulness(*args, **{"metric": METRIC, "control": False, **changes})


@cache
def twins(tower: str, language: str, step: float = 1.0) -> tuple[HookedVLM, ModelInputs, ModelInputs]:
    """A model, and padded batches whose images differ by so much."""
    hf = tiny_llava(tower, language)
    model = HookedVLM(hf)
    given = tiny_batch(hf, pad=True)
    given.pop("token_type_ids", None)  # made anew
    noise = torch.randn(given["pixel_values"].shape, generator=torch.Generator().manual_seed(3))
    other = {**given, "pixel_values": given["pixel_values"] + step * noise}
    return model, model.prepare_tensors(**other), model.prepare_tensors(**given)


def built(language: str, monkeypatch: pytest.MonkeyPatch) -> tuple[HookedVLM, ModelInputs, ModelInputs]:
    """Two layers of little noise, and a route through them: a0.h1 copies what image rows hold to the question, a1.h4
    copies it from there to the answer position, which the output layer reads.

    Of the residual stream features 0-9 are an image row's, 10-19 what the first head writes, 20-29 what the second
    does; 30 marks the question, 31 image rows, 32 the last token.
    """
    config = LANGUAGES[language]()
    config.num_hidden_layers = 2
    monkeypatch.setitem(LANGUAGES, language, lambda: config)
    hf = tiny_llava("clip", language)
    ten, strong, first_id, last_id = 2 * torch.eye(10), 2.0, 6, 7
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        tower: Any = hf.model.language_model
        for parameter in tower.layers.parameters():
            if parameter.ndim > 1:
                parameter.copy_(0.01 * torch.randn(parameter.shape, generator=generator))
        # Rotation hardly turns the pair of the fifth and the tenth feature of a head.
        first, second = (layer.self_attn for layer in tower.layers)
        # Weakly, over all image rows alike: else which row is looked at would depend on what they hold.
        first.q_proj.weight[10 + 4, 30], first.k_proj.weight[4, 31] = 0.5, 0.5
        first.q_proj.weight[10 + 4, 32] = -20  # the answer position itself looks elsewhere
        first.v_proj.weight[0:10, 0:10] += ten
        first.o_proj.weight[10:20, 10:20] += ten
        second.q_proj.weight[40 + 4, 32] = second.k_proj.weight[10 + 4, 30] = strong
        second.v_proj.weight[10:20, 10:20] += ten
        second.o_proj.weight[20:30, 40:50] += ten
        tokens = 0.01 * torch.randn(97, 42, generator=generator)
        tokens[:, 20:30] += 0.3 * torch.randn(97, 10, generator=generator)
        tokens[:, 30] = 1
        tokens[[first_id, last_id], 30] = 0
        tokens[last_id, 32] = 1
        ends: Any = (hf.get_input_embeddings(), hf.get_output_embeddings())
        for end in ends:
            end.weight.copy_(tokens)
        connector: Any = hf.model.multi_modal_projector.linear_2
        connector.weight[:10] *= 0.3
        connector.weight[10:] = 0
        connector.bias.zero_()
        connector.bias[31] = 1
    given = tiny_batch(hf)
    given["input_ids"][:, :3], given["input_ids"][:, -4:-1], given["input_ids"][:, -1] = first_id, 11, last_id
    other = {**given, "pixel_values": given["pixel_values"].flip(0).roll(1, -1) * 2}
    model = HookedVLM(hf)
    return model, model.prepare_tensors(**other), model.prepare_tensors(**given)


ROUTE = {("image", "a0.kv0<v>"), ("a0.h1", "a1.kv1<v>"), ("a1.h4", "logits")}


@pytest.mark.parametrize("steps", [0, 5])
@pytest.mark.parametrize("language", ["llama", "gemma"])
def test_a_circuit_that_was_built_is_found(language, steps, monkeypatch):
    model, clean, corrupt = built(language, monkeypatch)
    graph = scored(model, clean, corrupt, steps=steps)
    edges = list(zip(graph["sender"], graph["receiver"], strict=True))
    truth = [edge in ROUTE for edge in edges]
    assert sum(truth) == len(ROUTE)
    assert roc_auc_score(truth, graph["score"].abs()) > 0.95
    assert {edges[i] for i in np.argsort(-graph["score"].abs().to_numpy())[:3]} == ROUTE
    found = curve(model, graph, clean, corrupt, edges=[2, 3], by="absolute")["faithfulness"].tolist()
    assert abs(found[0]) < 0.05  # a route without one of its edges leads nowhere
    assert found[1] == pytest.approx(1, abs=0.25)


@pytest.mark.parametrize(("tower", "language"), [pair for pair in PAIRS if pair[1] in IN_TURN])
def test_the_ends_are_both_runs(tower, language):
    """All edges are clean's run, none are corrupt's; between, input rows' scores sum to the difference."""
    model, clean, corrupt = twins(tower, language)
    graph = scored(model, clean, corrupt, steps=13)
    table = curve(model, graph, clean, corrupt, edges=[0, len(graph)])
    assert table["faithfulness"].tolist() == pytest.approx([0, 1], abs=1e-4)
    with torch.no_grad():
        ends = [METRIC(model(inputs).logits[:, -1]) for inputs in (corrupt, clean)]
    assert table["metric"].tolist() == pytest.approx([float(end.mean()) for end in ends], abs=1e-5)
    gross = graph["score"].abs().max()
    whole = graph[graph["sender"].isin(["image", "text", "rest"])]["score"].sum()
    assert whole == pytest.approx(float((ends[1] - ends[0]).mean()), abs=0.02 * gross)
    assert graph.loc[graph["sender"] == "text", "score"].abs().max() == 0  # the questions are the same


@pytest.mark.parametrize("language", IN_TURN)
def test_near_each_other_scores_are_effects(language):
    model, clean, corrupt = twins("dinov2", language, step=0.02)
    graph = scored(model, clean, corrupt, steps=0, exact=23)
    assert graph.attrs["pearson"] > 0.998
    measured = graph.dropna(subset="exact")
    assert len(measured) == 23
    ratio = (measured["score"] * measured["exact"]).sum() / (measured["exact"] ** 2).sum()
    assert ratio == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("language", IN_TURN)
def test_parts_add_up_to_the_stream(language, monkeypatch):
    config = LANGUAGES[language]()
    config.attention_bias = True  # of the output projection too, where the family has one
    monkeypatch.setitem(LANGUAGES, language, lambda: config)
    model, clean, corrupt = twins.__wrapped__("clip", language)
    split = Split(model, clean, ["image", "text"], Places.of(clean.layouts, None, (), model.device))
    record = split.record(clean)
    torch.testing.assert_close(record.adds.sum(0), record.streams[split.ends], rtol=1e-4, atol=1e-4)
    edges = split.nodes.possible.float()
    again = split.run(record.embedded, split.record(corrupt), edges)
    torch.testing.assert_close(again, record.logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("language", ["gemma2", "gemma3", "llama"])
def test_an_edge_is_a_patch_of_what_its_receiver_gets(language):
    model, clean, corrupt = twins("clip", language, step=3.0)
    names = ["language.blocks.0.attn.hook_*", "language.blocks.*.hook_mlp_out"]
    (_, source), (output, own) = (model.run_with_cache(inputs, names_filter=names) for inputs in (clean, corrupt))
    split = Split(model, corrupt, ["image", "text"], Places.of(corrupt.layouts, None, (), model.device))
    records = split.record(clean), split.record(corrupt)
    nodes, difference = split.nodes, records[0].adds - records[1].adds
    before = METRIC(output.logits[:, -1]).detach()

    @torch.no_grad()
    def effect(*hooks: Any) -> float:
        return float((METRIC(model.run_with_hooks(corrupt, fwd_hooks=hooks).logits[:, -1]) - before).mean())

    def alone(sender: str, receiver: str) -> float:
        one = torch.zeros(nodes.possible.shape)
        one[nodes.receivers.index(receiver), nodes.senders.index(sender)] = 1
        logits = split.run(records[1].embedded, records[1], nodes.possible.float(), (one, difference))
        return float((METRIC(logits) - before).mean())

    def of_clean(x: torch.Tensor, hook: Any, head: int) -> torch.Tensor:
        x[:, :, head] = source[hook.name][:, :, head]
        return x

    # What block 0 gets differs in image rows alone.
    for letter, head, name in (("q", 3, "a0.h3<q>"), ("k", 1, "a0.kv1<k>"), ("v", 0, "a0.kv0<v>")):
        hook = (f"language.blocks.0.attn.hook_{letter}", lambda x, hook, head=head: of_clean(x, hook, head))
        assert alone("image", name) == pytest.approx(effect(hook), abs=1e-5)
    mlp = source["language.blocks.0.hook_mlp_out"] - own["language.blocks.0.hook_mlp_out"]
    to_logits = ("language.blocks.2.hook_resid_post", lambda x, hook: x + mlp)
    assert alone("m0", "logits") == pytest.approx(effect(to_logits), abs=1e-5)
    to_mlp = ("language.blocks.1.hook_resid_mid", lambda x, hook: x + mlp)
    around = ("language.blocks.1.hook_resid_post", lambda x, hook: x - mlp)
    assert alone("m0", "m1") == pytest.approx(effect(to_mlp, around), abs=1e-5)
    assert abs(alone("m0", "m1")) > 1e-4


def test_a_circuit_holds_what_its_paths_reach():
    """Layer by layer: without an edge into the logits nothing changes, whatever else is in the circuit."""
    model, clean, corrupt = twins("clip", "gemma3")
    graph = scored(model, clean, corrupt, steps=0)
    inner = graph[graph["receiver"] != "logits"]
    none = curve(model, inner, clean, corrupt, edges=[len(inner)])
    assert none["faithfulness"].tolist() == pytest.approx([0], abs=1e-6)
    # A circuit of the embedding's way through every MLP alone is a run whose heads stay as in corrupt's.
    mlps = ["image", "m0", "m1", "m2", "logits"]
    edges = graph[graph["sender"].isin(mlps) & graph["receiver"].isin(mlps)]
    found = curve(model, edges, clean, corrupt, edges=[len(edges)])["metric"].iloc[0]
    kept = model.run_with_cache(corrupt, names_filter="language.blocks.*.hook_attn_out")[1]
    hooks = [("language.blocks.*.hook_attn_out", lambda x, hook: kept[hook.name])]
    with torch.no_grad():
        expected = METRIC(model.run_with_hooks(clean, fwd_hooks=hooks).logits[:, -1]).mean()
    assert found == pytest.approx(float(expected), abs=1e-4)


def test_clean_and_clean():
    model, clean, _ = twins("clip", "gemma2")
    graph = scored(model, clean, clean)
    assert (graph["score"] == 0).all()
    with pytest.raises(VlmProbeError, match="nothing to be faithful to"):
        curve(model, graph, clean, clean)


def test_the_curve_and_its_means():
    model, clean, corrupt = twins("clip", "llama")
    graph = scored(model, clean, corrupt)
    ticks = []
    table: Any = faithfulness(model, graph, clean, corrupt, metric=METRIC, progress=ticks.append)
    nodes = Nodes.of(model, ["image", "text", "rest"])
    total = int(nodes.possible.sum())
    # 3 groups, then 6 heads and an MLP a layer; 6 + 2 + 2 receivers in attention.
    assert total == len(graph) == sum(10 * (3 + 7 * i) + (9 + 7 * i) for i in range(3)) + 24
    assert table.attrs["all_edges"] == total
    assert len(ticks) == len(table) == 2 * 9  # a thousandth is less than one edge
    for control, behind in ((False, ""), (True, "_control")):
        own = table[table["control"] == control]
        x, y = own["share"].to_numpy(), own["faithfulness"].to_numpy()
        spread = x[-1] - x[0]
        assert table.attrs[f"cpr{behind}"] == pytest.approx(np.trapezoid(y, x) / spread)
        assert table.attrs[f"cmd{behind}"] == pytest.approx(np.trapezoid(abs(1 - y), x) / spread)
    whole = curve(model, graph, clean, corrupt, edges=[total])
    assert (whole.attrs["cpr"], whole.attrs["cmd"]) == (pytest.approx(1, abs=1e-4), pytest.approx(0, abs=1e-4))
    assert table.attrs["cpr"] > table.attrs["cpr_control"] + 0.3
    # Towards clean is the order, whichever way the metric goes there.
    backwards: Any = LogitDifference((9,), (5,))
    other = curve(model, graph.assign(score=-graph["score"]), clean, corrupt, metric=backwards)
    assert other["faithfulness"].to_numpy() == pytest.approx(
        table[~table["control"]]["faithfulness"].to_numpy(), abs=1e-5
    )


def test_a_language_model_alone():
    model = tiny_language("gemma3")
    with torch.no_grad():
        for parameter in model.hf.parameters():
            parameter.normal_(0, 0.3)
    clean, corrupt = model.prepare(None, "what is it"), model.prepare(None, "whxx is yz")
    graph = scored(model, clean, corrupt, steps=1)
    assert set(graph["sender"]) == {"text", *(f"a{i}.h{h}" for i in range(3) for h in range(6)), "m0", "m1", "m2"}
    assert curve(model, graph, clean, corrupt, edges=[len(graph)])["faithfulness"].iloc[0] == pytest.approx(1, abs=1e-3)


def test_nothing_is_left_behind_where_it_fails():
    model, clean, corrupt = twins("clip", "gemma")
    graph, calls = scored(model, clean, corrupt, steps=0), []

    def broken(logits: torch.Tensor) -> torch.Tensor:
        calls.append(logits)
        if len(calls) > 2:  # behind both ends, in the run itself
            raise RuntimeError("planned")
        return logits[:, 5] - logits[:, 9]

    for run in (
        lambda: scored(model, clean, corrupt, metric=broken),
        lambda: curve(model, graph, clean, corrupt, metric=broken),
    ):
        calls.clear()
        with pytest.raises(RuntimeError, match="planned"):
            run()
        assert all(not point.fwd_hooks and not point._forward_hooks for point in model.hook_dict.values())
        assert all(p.requires_grad and p.grad is None for p in model.hf.parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": -1}, "steps must be 0 (EAP) or more, got -1"),
        ({"groups": ["image", "all"]}, "input rows are in one group each; image and all overlap"),
        ({"groups": ["box"]}, "example 0: positions 'box' need the item's boxes, and there is none"),
    ],
)
def test_what_attribution_refuses(changes, message):
    model, clean, corrupt = twins("clip", "gemma")
    with pytest.raises(VlmProbeError) as caught:
        scored(model, clean, corrupt, **changes)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"by": "size"}, "by must be 'score' or 'absolute', got 'size'"),
        ({"edges": [1, 400]}, "circuits have 0 to 372 edges, got [1, 400]"),
        ({"edges": []}, "circuits have 0 to 372 edges, got []"),
        (
            {"groups": ["image"]},
            "this model has no edge from 'text' to 'a0.h0<q>', with inputs ('image', 'rest')",
        ),
    ],
)
def test_what_faithfulness_refuses(changes, message):
    model, clean, corrupt = twins("clip", "gemma")
    nodes = Nodes.of(model, ["image", "text", "rest"])
    receivers, senders = (at.tolist() for at in nodes.possible.nonzero(as_tuple=True))
    named = {"sender": [nodes.senders[i] for i in senders], "receiver": [nodes.receivers[i] for i in receivers]}
    graph = pd.DataFrame({**named, "score": 1.0})
    with pytest.raises(VlmProbeError) as caught:
        curve(model, graph, clean, corrupt, **changes)
    assert str(caught.value) == message


def test_layers_that_run_side_by_side_are_refused():
    model, clean, corrupt = twins("clip", "phi")
    with pytest.raises(VlmProbeError, match=r"model runs attention and MLP side by side \(phi\); circuits are found"):
        scored(model, clean, corrupt)
