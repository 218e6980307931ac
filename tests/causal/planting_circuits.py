"""A circuit planted into a trained replica by editing its weights, and twins that it tells apart.

The route, with the positions along which it runs:

    image rows (red patches) --k, v--> H1 (question) --> a neuron of an MLP (question) --v--> H2 (answer) --> logits

Six directions of the residual stream are taken for it. `red`: along it the replica's own connector tells patches of red
objects from all others (a linear probe found it). `seen` and `passed`, drawn at random: what H1 and the neuron write.
`red_or_blue`: the difference of the output layer's rows of both answers, as the final norm lets it through; H2 writes
it. `asking` and `answering`, drawn at random: embeddings of the question's tokens and of the last one carry them, so
that the circuit knows where it stands. Then

- nothing else writes along them: output and down projections, embeddings and the connector are projected off (the
  connector keeps `red`, which is found there). `rest` leaves other parts what they write along `red_or_blue`;
- nothing else reads `seen`, `passed` and `red_or_blue` but the output layer. All heads and MLPs go on reading `red`,
  and what the replica does with a colour it goes on doing in the dimensions that are left;
- a layer's heads share one key and one value. A head of the circuit takes two features of the key, which rotary
  positions hardly turn, and one of the value; the queries and output projections of its neighbours do without those.

H1's key is what looks for red, and its value what tells red from the rest: with either alone nothing is heard. One more
neuron, no part of the route, says "blue" at the answer position whatever is seen, which red has to overcome.

What couples circuit and rest are the norms: whatever a part writes moves the scale by which all others are divided.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vlm_probe.hooked import HookedVLM, ModelInputs, anatomy
from vlm_probe.hooked.targets import target_token
from vlm_probe.items import Item
from vlm_probe.scenes import SHAPES, Question, sample_scene
from vlm_probe.scenes.items import make_item

COLORS = ("red", "blue")
KEY, VALUE = 15, 7
"""Features of the shared key and value. Rotary positions turn 15 (and its partner, 31) least: by a radian in
10 000 ** (15 / 16) positions."""
MARK = 10.0
"""How far embeddings go along `asking` and `answering`; rows of the replica are 10 to 19 long."""
LEANING = (0, 29)
"""Layer and number of the neuron that says "blue"."""


@dataclass(frozen=True)
class Circuit:
    """Where the route runs."""

    first: tuple[int, int]
    """Layer and head of H1."""
    neuron: tuple[int, int]
    """Layer and number."""
    second: tuple[int, int]
    """Layer and head of H2."""

    @property
    def edges(self) -> set[tuple[str, str]]:
        """Those along which goes what twins differ in. Both queries, the key of H2 and what makes the neuron wait for a
        question read embeddings of text, which are the same in twins."""
        (a, h1), (m, _), (b, h2) = self.first, self.neuron, self.second
        looks = {("image", f"a{a}.kv0<k>"), ("image", f"a{a}.kv0<v>")}
        return looks | {(f"a{a}.h{h1}", f"m{m}"), (f"m{m}", f"a{b}.kv0<v>"), (f"a{b}.h{h2}", "logits")}


LATE, EARLY = Circuit((1, 5), (2, 17), (3, 2)), Circuit((0, 1), (1, 40), (2, 6))
"""Two without a common edge."""


@dataclass(frozen=True)
class Directions:
    """Orthonormal."""

    red: Tensor
    seen: Tensor
    passed: Tensor
    red_or_blue: Tensor
    asking: Tensor
    answering: Tensor

    @property
    def all(self) -> Float[Tensor, "direction d_model"]:
        return torch.stack(list(vars(self).values()))

    @property
    def hidden(self) -> Float[Tensor, "direction d_model"]:
        """Those that nothing but the circuit reads."""
        return torch.stack([self.seen, self.passed, self.red_or_blue])


def twins(n: int, first: int) -> list[Item]:
    """n pairs of items, one after the other: what is red in the first is blue in the second, and nothing else is."""
    items: list[Item] = []
    for seed in itertools.count(first):
        scene = sample_scene(seed, objects=3)
        asked, *others = scene.objects
        if asked.shape in [o.shape for o in others]:
            continue
        others = [replace(o, color="green") if o.color in COLORS else o for o in others]
        for color in COLORS:
            one = replace(asked, color=color)
            question = Question("color", f"What color is the {asked.shape}?", color, COLORS, (one,))
            shown = replace(scene, objects=(one, *others))
            items.append(
                make_item("mmvp", "color", f"planted-{seed}-{color}", shown, question, group=f"planted-{seed}")
            )
        if len(items) == 2 * n:
            break
    return items


def batch(model: HookedVLM, items: Sequence[Item]) -> ModelInputs:
    return model.prepare([model.picture(item) for item in items], [item.question for item in items])


@torch.no_grad()
def plant(model: HookedVLM, items: Sequence[Item], circuit: Circuit, rest: float = 0) -> Directions:
    """Plant a circuit in place; `items` (twins) are what the probe is fitted to."""
    inputs = batch(model, items)
    (a, _), (m, _), (b, _) = circuit.first, circuit.neuron, circuit.second
    points = [f"language.blocks.{a}.hook_resid_pre", f"language.blocks.{m}.hook_resid_mid"]
    points.append(f"language.blocks.{b}.hook_resid_pre")
    names = ["connector.hook_out", *points]
    _, cache = model.run_with_cache(inputs, names_filter=names, logits_to_keep=1)
    layout = inputs.layouts[0]  # all questions have as many tokens

    def scale(point: str, rows: Any) -> float:
        """By what a norm divides there: with it what is read has the size that it has in the residual stream."""
        return float(cache[point][:, rows].pow(2).mean(-1).sqrt().mean())

    own = _directions(model, _probed(cache["connector.hook_out"], items, inputs))
    image, question = layout.image_positions, layout.question_positions
    looking, asked = scale(points[0], image), scale(points[0], question)
    thinking, heard, answer = (scale(points[i], at) for i, at in ((1, question), (2, question), (2, [-1])))
    _free(model, own, rest)
    _mark(model, own)
    sees = {"key": 2 * looking * own.red, "value": looking * own.red}
    _head(model, *circuit.first, query=1.7 * asked * own.asking, **sees, writes=5.5 * own.seen)
    # Shut by the question itself unless H1 has found more than a little.
    heard_of = {"gate": 0.3 * thinking * (own.seen - 0.3 * own.asking), "up": 0.3 * thinking * own.asking}
    _neuron(model, *circuit.neuron, **heard_of, writes=1.5 * own.passed)
    hears = {"key": heard * own.asking, "value": 0.25 * heard * own.passed}
    _head(model, *circuit.second, query=0.3 * answer * own.answering, **hears, writes=20 * own.red_or_blue)
    # Tied: the output layer would say the last token again, which carries a direction of its own.
    rows, gain = anatomy.unembedding(model), anatomy.norm_gain(model, anatomy.final_norm(model))
    lean = off((rows[_answers(model)].mean(0) - rows[_last(inputs)]) * gain, own.all)
    said = 2.5 * lean / lean.norm() - 1.6 * own.red_or_blue
    _neuron(model, *LEANING, gate=own.answering, up=own.answering, writes=said)
    return own


def off(x: Float[Tensor, "*rows d_model"], directions: Float[Tensor, "direction d_model"]) -> Tensor:
    """Rows without what they hold along orthonormal directions."""
    return x - (x @ directions.T) @ directions


def layers_of(model: HookedVLM) -> Any:
    tower: Any = anatomy.language_tower(model)
    return tower.layers


def readers(model: HookedVLM, layer: int) -> list[tuple[str, Any, Tensor]]:
    """What reads the stream in a layer: name, projection, and the gain of the norm in front."""
    own = layers_of(model)[layer]
    first, second = (anatomy.norm_gain(model, norm) for norm in (own.input_layernorm, own.post_attention_layernorm))
    attention = [(name, getattr(own.self_attn, f"{name}_proj"), first) for name in "qkv"]
    return attention + [(name, getattr(own.mlp, f"{name}_proj"), second) for name in ("gate", "up")]


def writers(model: HookedVLM, layer: int) -> list[tuple[str, Any]]:
    """What writes into the stream in a layer."""
    own = layers_of(model)[layer]
    return [("o", own.self_attn.o_proj), ("down", own.mlp.down_proj)]


def _probed(
    rows: Float[Tensor, "item patch d_model"], items: Sequence[Item], inputs: ModelInputs
) -> Float[Tensor, " d_model"]:
    """Along which patches of red objects are told from all others, in the connector's rows (ridge)."""
    x = rows.flatten(0, 1).double()
    covered = [layout.box_coverage(item.boxes[0]) for item, layout in zip(items, inputs.layouts, strict=True)]
    red = np.asarray([item.answer == "red" for item in items])[:, None, None]
    told, blue = (torch.from_numpy(np.stack(covered) * which).flatten().double() for which in (red, ~red))
    # Red patches, blue ones and the rest weigh the same: what any object's patches have must not do.
    weight = torch.ones_like(told)
    for group in (told > 0.3, blue > 0.3):
        weight[group] = len(weight) / group.sum()
    x, y = (one - (weight @ one) / weight.sum() for one in (x, told))
    spread = (x.T * weight) @ x
    spread += 1e-3 * spread.diagonal().mean() * torch.eye(len(spread))
    return torch.linalg.solve(spread, x.T @ (weight * y)).float()


def _directions(model: HookedVLM, red: Float[Tensor, " d_model"], seed: int = 3) -> Directions:
    """First what the output layer fixes, then what was probed, then what is drawn."""
    first, second = anatomy.unembedding(model)[_answers(model)]
    answer = (first - second) * anatomy.norm_gain(model, anatomy.final_norm(model))
    drawn = torch.randn(4, len(red), generator=torch.Generator().manual_seed(seed))
    basis, upper = torch.linalg.qr(torch.stack([answer, red, *drawn]).T)
    answer, red, *free = basis.T * upper.diagonal().sign()[:, None]
    return Directions(red, free[0], free[1], answer, free[2], free[3])


def _free(model: HookedVLM, own: Directions, rest: float) -> None:
    for layer in range(model.layers["language"]):
        for _, writer in writers(model, layer):
            kept = rest * torch.outer(own.red_or_blue, own.red_or_blue @ writer.weight)
            writer.weight.copy_(off(writer.weight.T, own.all).T + kept)
        for _, reader, gain in readers(model, layer):
            reader.weight.copy_(off(reader.weight * gain, own.hidden) / gain)
    connector: Any = model.hf.model.multi_modal_projector.linear_2
    found = torch.stack([one for name, one in vars(own).items() if name != "red"])
    connector.weight.copy_(off(connector.weight.T, found).T)
    connector.bias.copy_(off(connector.bias, found))


def _mark(model: HookedVLM, own: Directions) -> None:
    """Embeddings say where they stand, and hold nothing else along the circuit's directions.

    Rows of the answers stay: they are the output layer's too, and stand in no prompt.
    """
    tokens: Any = model.hf.get_input_embeddings().weight
    others = [i for i in range(len(tokens)) if i not in _answers(model)]
    tokens[others] = off(tokens[others], own.all)
    asked = [model.prepare(None, f"What color is the {shape}?") for shape in SHAPES]
    ids = {int(one.input_ids[0, i]) for one in asked for i in one.layout.question_positions}
    tokens[sorted(ids)] += MARK / model.token_scale * own.asking
    tokens[_last(asked[0])] += MARK / model.token_scale * own.answering


def _answers(model: HookedVLM) -> list[int]:
    return [target_token(model, color, torch.empty(0)) for color in COLORS]


def _last(inputs: ModelInputs) -> int:
    """The token that the answer follows."""
    return int(inputs.input_ids[0, -1])


def _neuron(model: HookedVLM, layer: int, neuron: int, *, gate: Tensor, up: Tensor, writes: Tensor) -> None:
    for (_, reader, gain), direction in zip(readers(model, layer)[3:], (gate, up), strict=True):
        reader.weight[neuron] = direction / gain
    layers_of(model)[layer].mlp.down_proj.weight[:, neuron] = writes


def _head(
    model: HookedVLM, layer: int, head: int, *, query: Tensor, key: Tensor, value: Tensor, writes: Tensor
) -> None:
    """One head reads these directions, and its neighbours do without what it takes of the key and value they share."""
    (_, q, gain), (_, k, _), (_, v, _) = readers(model, layer)[:3]
    (_, o), _ = writers(model, layer)
    size = model.text_config.head_dim
    queries, outputs = q.weight.unflatten(0, (-1, size)), o.weight.unflatten(1, (-1, size))
    turned = [KEY, KEY + size // 2]
    queries[:, turned], queries[head], outputs[:, :, VALUE], outputs[:, head], k.weight[turned] = 0, 0, 0, 0, 0
    queries[head, KEY], k.weight[KEY], v.weight[VALUE] = query / gain, key / gain, value / gain
    outputs[:, head, VALUE] = writes
