"""Circuits that were planted into a trained replica are found: their edges, heads, positions and layers.

How they are planted `planting_circuits` says: an early head looks for red patches and tells the question's positions, a
neuron passes it on, a later head carries it to the answer position, where the output layer reads it as "red" over
"blue". Two circuits without a common edge are planted into a replica each: `LATE`, beside which no other part can write
what the metric reads, and `EARLY`, beside which all others go on writing it as they did (`rest=1`). That they are
circuits is shown first, from the weights and by hooks, without the code under test.

An AUROC over all edges is a weak judge. Most of the 752 edges carry nothing, so those that touch what is large rank
high whatever they do: with the planting broken at one place, so that a thirtieth is left of its scores, their AUROC by
magnitude is still 0.95 to 0.995. By the sign, towards clean, it is 0.2 to 0.8 (0.997 for other draws). What fails
wherever it must are the scores themselves, and the best five edges: either they are the route, and as a circuit say
what the whole says, or they are not, and say nothing of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from planting_circuits import (
    EARLY,
    KEY,
    LATE,
    LEANING,
    VALUE,
    Circuit,
    Directions,
    batch,
    off,
    plant,
    readers,
    twins,
    writers,
)
from sklearn.metrics import roc_auc_score
from tiny import untyped

import vlm_probe
from vlm_probe.causal import attribution_patching, knockout_sweep, patch_sweep
from vlm_probe.causal.attribution_metric import LogitDifference
from vlm_probe.causal.circuits import edge_attribution, faithfulness
from vlm_probe.causal.heads import find_heads
from vlm_probe.hooked import HookedVLM, ModelInputs
from vlm_probe.items import Item, twins_among

PAIRS = 6
"""Of each half: what is found on the first is tried on the second."""
HALVES = (twins(PAIRS, 0), twins(PAIRS, 1000))


@dataclass(frozen=True)
class Planted:
    model: HookedVLM
    circuit: Circuit
    own: Directions
    rest: float

    @property
    def metric(self) -> LogitDifference:
        return LogitDifference.of(self.model, "red", "blue")

    def runs(self, half: int) -> tuple[ModelInputs, ModelInputs]:
        """Clean and corrupt."""
        items = HALVES[half]
        return batch(self.model, items[::2]), batch(self.model, items[1::2])

    def scored(self, **changes: Any) -> Any:
        return edge_attribution(self.model, *self.runs(0), metric=self.metric, **changes)

    def curve(self, graph: Any, **changes: Any) -> Any:
        return faithfulness(self.model, graph, *self.runs(1), **{"metric": self.metric, "control": False, **changes})

    @torch.no_grad()
    def gap(self, inputs: ModelInputs, *hooks: Any) -> torch.Tensor:
        """By how much red is ahead."""
        return self.metric(self.model.run_with_hooks(inputs, fwd_hooks=list(hooks)).logits[:, -1])


PLANTED = {"late": (LATE, 0), "early": (EARLY, 1)}


@pytest.fixture(scope="module", params=PLANTED)
def planted(request) -> Planted:
    circuit, rest = PLANTED[request.param]
    model = vlm_probe.load("replica/small-clip", device="cpu")
    return Planted(model, circuit, plant(model, twins(24, 5000), circuit, rest), rest)


@pytest.fixture(scope="module")
def graph(planted) -> Any:
    return planted.scored()


def route(graph: Any, circuit: Circuit) -> np.ndarray:
    """Which edges are the circuit's."""
    found = np.asarray([edge in circuit.edges for edge in zip(graph["sender"], graph["receiver"], strict=True)])
    assert found.sum() == len(circuit.edges) == 5
    return found


def best(graph: Any) -> set[tuple[str, str]]:
    five = graph.nlargest(5, "score")
    return set(zip(five["sender"], five["receiver"], strict=True))


def test_nothing_but_the_circuit_writes_or_reads_its_directions(planted):
    """In the weights: what one of its parts writes along them only the next one reads."""
    own, circuit, size = planted.own, planted.circuit, planted.model.text_config.head_dim
    torch.testing.assert_close(own.all @ own.all.T, torch.eye(6), atol=1e-5, rtol=0)
    written = torch.stack([one for name, one in vars(own).items() if not (planted.rest and name == "red_or_blue")])
    expected = {("gate", circuit.neuron[0]): {(circuit.neuron[1], 0)}, ("v", circuit.second[0]): {(VALUE, 1)}}
    for layer in range(planted.model.layers["language"]):
        for name, writer in writers(planted.model, layer):
            weight = writer.weight.detach().clone()
            parts = (circuit.first, circuit.second) if name == "o" else (circuit.neuron, LEANING)
            for number in [number for at, number in parts if at == layer]:
                weight.unflatten(1, (-1, size if name == "o" else 1))[:, number] = 0
            assert (written @ weight).abs().max() < 1e-4 * weight.abs().max()
        for name, reader, gain in readers(planted.model, layer):
            weight = reader.weight.detach() * gain
            found = ((weight @ own.hidden.T).abs() > 1e-4 * weight.abs().max()).nonzero()
            assert {(row, direction) for row, direction in found.tolist()} == expected.get((name, layer), set())


@torch.no_grad()
def test_it_is_a_circuit(planted):
    """By hooks alone: its parts need no other to see the clean image, and without any of them nothing is heard."""
    clean, corrupt = planted.runs(1)
    (a, first), (m, neuron), (b, second) = planted.circuit.first, planted.circuit.neuron, planted.circuit.second
    blocks = [f"language.blocks.{layer}" for layer in range(planted.model.layers["language"])]
    names = ["*.attn.hook_[kvz]", "*.hook_mlp_out", "*.mlp.hook_post"]
    source = planted.model.run_with_cache(corrupt, names_filter=[f"language.blocks.{name}" for name in names])[1]
    ends = planted.gap(clean), planted.gap(corrupt)
    assert (ends[0] > 0).all()
    assert (ends[1] < 0).all()

    def of_corrupt(x: torch.Tensor, hook: Any, at: Any = ...) -> torch.Tensor:
        x[at] = source[hook.name][at]
        return x

    def kept(*hooks: Any) -> float:
        """How much of clean's lead is left."""
        low, high = float(ends[1].mean()), float(ends[0].mean())
        return (float(planted.gap(clean, *hooks).mean()) - low) / (high - low)

    others: list[Any] = [(f"{block}.hook_mlp_out", of_corrupt) for i, block in enumerate(blocks) if i != m]
    for layer, block in enumerate(blocks):
        spared = {a: first, b: second}.get(layer)
        heads = [head for head in range(planted.model.text_config.num_attention_heads) if head != spared]
        others.append((f"{block}.attn.hook_z", partial(of_corrupt, at=np.s_[:, :, heads])))
    assert kept(*others) == pytest.approx(1, abs=0.2)  # 0.98, and 0.87 where others write too
    for name, at in (
        (f"{blocks[a]}.attn.hook_k", np.s_[..., [KEY, KEY + 16]]),
        (f"{blocks[a]}.attn.hook_v", np.s_[..., VALUE]),
        (f"{blocks[a]}.attn.hook_z", np.s_[:, :, first]),
        (f"{blocks[m]}.mlp.hook_post", np.s_[..., neuron]),
        (f"{blocks[b]}.attn.hook_v", np.s_[..., VALUE]),
        (f"{blocks[b]}.attn.hook_z", np.s_[:, :, second]),
    ):
        assert kept((name, partial(of_corrupt, at=at))) < 0.1


def test_its_edges_are_found(planted, graph):
    truth, other = (route(graph, circuit) for circuit in (planted.circuit, EARLY if planted.circuit == LATE else LATE))
    scores = graph["score"].to_numpy()
    assert len(scores) == 752
    assert best(graph) == planted.circuit.edges
    assert roc_auc_score(truth, scores) > 0.95
    assert roc_auc_score(truth, abs(scores)) > 0.95
    assert abs(scores[truth]).sum() > 0.85 * abs(scores).sum()
    # The circuit that is not in this replica.
    assert roc_auc_score(other, scores) < 0.6
    assert roc_auc_score(other, abs(scores)) < 0.9
    # Where nothing red is seen the neuron is shut: there the gradient of what opens it is next to none, or has the
    # wrong sign. Integration is what finds the key.
    plain = planted.scored(steps=0)["score"].to_numpy()
    assert roc_auc_score(truth, abs(plain)) > 0.95
    assert roc_auc_score(truth, plain) < 0.9 < roc_auc_score(truth, scores)
    assert plain[graph["receiver"].eq(f"a{planted.circuit.first[0]}.kv0<k>") & truth] < 0


def test_they_alone_say_what_the_whole_says(planted, graph):
    """On twins that they were not found on; as many random edges say nothing of it."""
    table = planted.curve(graph, edges=[4, 5, 75, 376], control=True)
    found = table[~table["control"]]["faithfulness"].to_numpy()
    assert abs(found[0]) < 0.1
    assert found[1:] == pytest.approx([1, 1, 1], abs=0.15)
    assert table[table["control"]]["faithfulness"].abs().max() < 0.05
    assert table.attrs["cpr"] == pytest.approx(1, abs=0.15)
    assert table.attrs["cmd"] < 0.15
    assert abs(table.attrs["cpr_control"]) < 0.05
    assert table.attrs["cmd_control"] > 0.95


def test_without_one_of_them_the_whole_says_nothing(planted, graph):
    for row in np.flatnonzero(route(graph, planted.circuit)):
        cut = planted.curve(graph.drop(index=row), edges=[len(graph) - 1])
        assert cut["faithfulness"].iloc[0] < 0.1


@contextmanager
def turned(planted: Planted, place: str) -> Iterator[None]:
    """What the neuron or H2 reads is turned to another direction, drawn from the rest of the stream."""
    circuit = planted.circuit
    layer, at, row = {"neuron": (*circuit.neuron[:1], 3, circuit.neuron[1]), "second": (circuit.second[0], 2, VALUE)}[
        place
    ]
    _, reader, gain = readers(planted.model, layer)[at]
    weight = reader.weight.data
    before = weight[row].clone()
    drawn = off(torch.randn(len(gain), generator=torch.Generator().manual_seed(0)), planted.own.all)
    weight[row] = drawn / drawn.norm() * (before * gain).norm() / gain
    try:
        yield
    finally:
        weight[row] = before


@pytest.mark.parametrize("place", ["neuron", "second"])
def test_where_the_route_is_broken_it_is_not_found(planted, graph, place):
    truth = route(graph, planted.circuit)
    with turned(planted, place):
        broken = planted.scored()
    whole, left = (abs(one["score"].to_numpy()[truth]) for one in (graph, broken))
    assert left.sum() < 0.1 * whole.sum()
    assert best(broken) != planted.circuit.edges
    assert roc_auc_score(truth, broken["score"]) < 0.85
    assert abs(planted.curve(broken, edges=[5])["faithfulness"].iloc[0]) < 0.1


def test_heads_layers_and_ways_are_found(planted):
    model, (a, first), (m, _), (b, second) = planted.model, *vars(planted.circuit).values()
    z, out = "language.blocks.*.attn.hook_z", "language.blocks.*.hook_mlp_out"
    steps = {(a, "question", first), (b, "answer", second)}

    def above(table: Any, column: str, least: float) -> set[tuple[int, str, int]]:
        means = untyped(table.groupby(["layer", "positions", "head"])[column].mean())
        return set(means.index[means > least])

    pairs = [(red, blue) for blue, red in map(sorted_by_answer, twins_among(HALVES[1][:6]))]
    patched = patch_sweep(model, pairs, points=[z], positions=["question", "answer"], heads=True, control=False)
    assert patched.attrs["left_out"] == []
    assert above(patched, "effect", 0.8) == above(patched, "effect", 0.1) == steps

    # Both ways: towards blue, from where the neuron is open, and towards red, from where it is shut. There one step of
    # gradient does not see what H1 would open (for EARLY it has even the wrong sign).
    red, blue = planted.runs(1)
    about: Any = {"metric": planted.metric, "points": [z, out], "exact": 0}
    to_blue = attribution_patching(model, blue, red, **about)
    to_blue["score"] *= -1
    to_red = attribution_patching(model, red, blue, **about)
    neuron = (m, "question", -1)
    assert above(to_blue, "score", 5) == above(to_blue, "score", 1) == {*steps, neuron}
    assert above(to_red, "score", 5) == {neuron, (b, "answer", second)}

    reds = [red for red, _ in pairs]
    ways = {"image to question": ("question", "image"), "question to answer": ("answer", "question")}
    cut = untyped(knockout_sweep(model, reds, routes=ways, window=1, control=False))
    lost = -cut[cut["first"] == cut["last"]].groupby(["route", "first"])["change_logit"].mean()
    most = lost > 0.25 * lost.max()  # without the image in another layer the neuron's norm divides by something else
    assert set(lost.index[most]) == {("image to question", a), ("question to answer", b)}

    heads = untyped(find_heads(model, reds)).set_index(["layer", "head"])
    for score, head in (("looks_question", (a, first)), ("direct", (b, second))):
        top, runner_up = heads[score].nlargest(2)
        assert heads[score].idxmax() == head
        assert top > 5 * runner_up


def sorted_by_answer(pair: tuple[Item, Item]) -> list[Item]:
    return sorted(pair, key=lambda item: item.answer)
