"""The language model as a graph: what every part adds to the residual stream, and runs in which every part is told
what it gets.

Senders are groups of the rows that block 0 receives, attention heads (query heads) and MLPs; receivers are the queries
of each head, the keys and values of each kv head, MLPs, and the logits. A receiver's input is the sum of what the
senders before it add; norms stand behind that sum, one for each receiver. Where a post-norm mixes the heads of a layer
(Gemma 2 and 3), a head's part is divided by that norm's scale in the same run: parts add up exactly in every run, and a
changed head also changes the scale that its neighbours are divided by, as it does in the model. The output projection's
bias, which such a norm scales too, is carried by all heads alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from vlm_probe.causal.positions import Places
from vlm_probe.errors import VlmProbeError
from vlm_probe.hooked import HookedVLM, anatomy
from vlm_probe.inputs.model_inputs import ModelInputs
from vlm_probe.names import layer_of


@dataclass(frozen=True)
class Nodes:
    """Senders and receivers, by number and by name."""

    groups: tuple[str, ...]
    """Of input rows; every row is in one."""
    depth: int
    heads: int
    kv_heads: int

    @classmethod
    def of(cls, model: HookedVLM, groups: Sequence[str]) -> Nodes:
        if "language.blocks.0.hook_resid_mid" not in model.hook_dict:
            raise VlmProbeError(
                f"{model.name} runs attention and MLP side by side ({model.text_config.model_type}); circuits are "
                "found where the MLP follows attention"
            )
        config: Any = model.text_config
        return cls(tuple(groups), model.layers["language"], config.num_attention_heads, config.num_key_value_heads)

    @cached_property
    def senders(self) -> list[str]:
        blocks = [[*(f"a{layer}.h{h}" for h in range(self.heads)), f"m{layer}"] for layer in range(self.depth)]
        return [*self.groups, *(name for block in blocks for name in block)]

    @cached_property
    def receivers(self) -> list[str]:
        found = []
        for layer in range(self.depth):
            found += [f"a{layer}.h{h}<q>" for h in range(self.heads)]
            found += [f"a{layer}.kv{h}<{letter}>" for letter in "kv" for h in range(self.kv_heads)]
            found.append(f"m{layer}")
        return [*found, "logits"]

    def first_head(self, layer: int) -> int:
        """The number of a layer's first head among senders: how many there are before its attention."""
        return len(self.groups) + layer * (self.heads + 1)

    def mlp(self, layer: int) -> int:
        """The number of a layer's MLP among senders: how many there are before it."""
        return self.first_head(layer) + self.heads

    def receiving(self, layer: int, letter: str) -> slice:
        """The numbers of a layer's receivers "q", "k", "v" or "m" (its MLP)."""
        start = layer * (self.heads + 2 * self.kv_heads + 1)
        sizes = {"q": self.heads, "k": self.kv_heads, "v": self.kv_heads, "m": 1}
        for own, size in sizes.items():
            if own == letter:
                return slice(start, start + size)
            start += size
        raise ValueError(letter)

    @cached_property
    def possible(self) -> Bool[Tensor, "receiver sender"]:
        """Which senders come before which receivers."""
        found = torch.zeros(len(self.receivers), len(self.senders), dtype=torch.bool)
        for layer in range(self.depth):
            for letter in "qkv":
                found[self.receiving(layer, letter), : self.first_head(layer)] = True
            found[self.receiving(layer, "m"), : self.mlp(layer)] = True
        found[-1] = True
        return found


@dataclass
class Record:
    """A run taken apart."""

    streams: dict[str, Float[Tensor, "example position d_model"]] = field(default_factory=dict)
    """The residual stream by hook point: in front of every attention, MLP and the final norm."""
    adds: Tensor = field(default_factory=lambda: torch.empty(0))
    """What every sender adds: [sender, example, position, d_model], float32."""
    logits: Tensor = field(default_factory=lambda: torch.empty(0))
    """Of the answer position, [example, vocabulary], float32."""

    @property
    def embedded(self) -> Float[Tensor, "example position d_model"]:
        return self.streams["language.blocks.0.hook_resid_pre"]


class Split:
    """A model whose residual stream is taken apart, for one batch of layouts."""

    def __init__(self, model: HookedVLM, inputs: ModelInputs, groups: Sequence[str], places: Places):
        self.model = model
        self.given = {name: one for name, one in inputs.tensors.items() if name not in ("input_ids", "pixel_values")}
        own, masks = (
            list(groups),
            [torch.stack([places.at(g, "language", i) for i in range(len(inputs))]) for g in groups],
        )
        count = torch.stack(masks).sum(0)
        if (count > 1).any():
            raise VlmProbeError(f"input rows are in one group each; {' and '.join(own)} overlap")
        if (count == 0).any():  # the template between groups; padding, which nothing sees
            own, masks = [*own, "rest"], [*masks, count == 0]
        self.nodes, self._rows = Nodes.of(model, own), torch.stack(masks)
        last = self.nodes.depth - 1
        self.ends = f"language.blocks.{last}.hook_resid_post"
        self.streams = [f"language.blocks.{i}.hook_resid_{at}" for i in range(last + 1) for at in ("pre", "mid")]
        self.streams.append(self.ends)

    def embed(self, x: Float[Tensor, "example position d_model"]) -> Float[Tensor, "group example position d_model"]:
        """What each group of input rows adds."""
        return torch.where(self._rows[..., None], x.to(torch.promote_types(x.dtype, torch.float32)), 0.0)

    @torch.no_grad()
    def record(self, inputs: ModelInputs) -> Record:
        """Run as it is, and take apart what was added."""
        nodes, made = self.nodes, Record()
        blocks = [f"language.blocks.{layer}" for layer in range(nodes.depth)]
        inside = [f"{block}.{point}" for block in blocks for point in ("attn.hook_z", "hook_mlp_out")]
        output, cache = self.model.run_with_cache(inputs, names_filter=[*self.streams, *inside], logits_to_keep=1)
        made.streams = {name: cache[name] for name in self.streams}
        made.logits = output.logits[:, -1].float()
        parts = [self.embed(made.embedded)]
        for layer, block in enumerate(blocks):
            parts += [self.heads(layer, cache[f"{block}.attn.hook_z"]), cache[f"{block}.hook_mlp_out"][None].float()]
        made.adds = torch.cat(parts)
        return made

    def heads(self, layer: int, z: Tensor) -> Float[Tensor, "head example position d_model"]:
        """What each head of a layer adds, with its share of the bias."""
        parts, bias = anatomy.heads_add(self.model, layer, z)
        return (parts + bias[:, :, None] / self.nodes.heads).movedim(2, 0)

    def project(self, layer: int, letter: str, x: Float[Tensor, "head example position d_model"]) -> Tensor:
        """Queries, keys or values of heads that each get a stream of their own: [example, position, head, d_head]."""
        weight, bias = anatomy.by_head(self.model, layer, letter)
        normed = anatomy.norm_before(self.model, layer)(x.to(weight.dtype))
        found = torch.einsum("hbpd,hed->bphe", normed, weight)
        return found if bias is None else found + bias

    @torch.no_grad()
    def run(
        self,
        embedded: Float[Tensor, "example position d_model"],
        base: Record,
        edges: Float[Tensor, "receiver sender"],
        forced: tuple[Float[Tensor, "receiver sender"], Float[Tensor, "sender example position d_model"]] | None = None,
    ) -> Float[Tensor, "example vocabulary"]:
        """Logits where receivers see what senders add in this run along `edges`, and what they add in `base` elsewhere.

        embedded: the rows that block 0 is given.
        forced: edges along which more is added, and what of each sender.
        """
        nodes, edges = self.nodes, edges.to(base.adds)
        changed = torch.zeros_like(base.adds)
        changed[: len(nodes.groups)] = self.embed(embedded) - base.adds[: len(nodes.groups)]

        def given(at: slice | int, name: str, n: int) -> Tensor:
            """The streams of some receivers, behind n senders."""
            found = torch.einsum("rs,sbpd->rbpd", edges[at, :n], changed[:n])
            if forced is not None:
                found = found + torch.einsum("rs,sbpd->rbpd", forced[0][at, :n].to(found), forced[1][:n])
            return base.streams[name].float() + found

        def project(letter: str, x: Tensor, hook: HookPoint) -> Tensor:
            layer = layer_of(str(hook.name))
            assert layer is not None
            stream = f"language.blocks.{layer}.hook_resid_pre"
            return self.project(layer, letter, given(nodes.receiving(layer, letter), stream, nodes.first_head(layer)))

        def added(x: Tensor, hook: HookPoint) -> None:
            layer = layer_of(str(hook.name))
            assert layer is not None
            heads = str(hook.name).endswith("hook_z")
            at = (
                slice(nodes.first_head(layer), nodes.mlp(layer))
                if heads
                else slice(nodes.mlp(layer), nodes.mlp(layer) + 1)
            )
            changed[at] = (self.heads(layer, x) if heads else x[None].float()) - base.adds[at]

        def stream(at: slice, n: int, x: Tensor, hook: HookPoint) -> Tensor:
            return given(at, str(hook.name), n)[0].to(x.dtype)

        hooks: list[Any] = []
        for layer in range(nodes.depth):
            block = f"language.blocks.{layer}"
            hooks += [(f"{block}.attn.hook_{letter}", partial(project, letter)) for letter in "qkv"]
            hooks += [(f"{block}.attn.hook_z", added), (f"{block}.hook_mlp_out", added)]
            # The norm in front of the MLP sees it; the skip connection does too, which nothing reads.
            hooks.append((f"{block}.hook_resid_mid", partial(stream, nodes.receiving(layer, "m"), nodes.mlp(layer))))
        hooks.append((self.ends, partial(stream, slice(-1, None), len(nodes.senders))))
        return self._forward(embedded, hooks)

    def _forward(self, embedded: Tensor, hooks: list[Any]) -> Float[Tensor, "example vocabulary"]:
        with self.model.hooks(fwd_hooks=hooks):
            output = self.model(inputs_embeds=embedded, **self.given, use_cache=False, logits_to_keep=1)
        return output.logits[:, -1].float()

    def products(
        self,
        embedded: Float[Tensor, "example position d_model"],
        metric: Any,
        difference: Float[Tensor, "sender example position d_model"],
    ) -> Float[Tensor, "example receiver sender"]:
        """Along every edge a difference of what its sender adds, times the metric's gradient by what its receiver gets.

        One forward and one backward pass, from these rows at block 0.
        """
        nodes, values, gradients = self.nodes, dict[str, Tensor](), dict[str, Tensor]()

        def watch(x: Tensor, hook: HookPoint) -> Tensor | None:
            name = str(hook.name)
            start = name == self.streams[0]
            x = x.detach().requires_grad_() if start else x
            values[name] = x.detach()
            x.register_hook(partial(gradients.__setitem__, name))
            return x if start else None

        blocks = [f"language.blocks.{layer}" for layer in range(nodes.depth)]
        points = [*self.streams, *(f"{block}.attn.hook_{letter}" for block in blocks for letter in "qkv")]
        with torch.enable_grad():
            metric(self._forward(embedded, [(name, watch) for name in points])).sum().backward()
        found = difference.new_zeros(difference.shape[1], len(nodes.receivers), len(nodes.senders))

        def enter(at: slice, n: int, by: Float[Tensor, "receiver example position d_model"]) -> None:
            found[:, at, :n] = torch.einsum("sbpd,rbpd->brs", difference[:n], by.to(difference))

        for layer, block in enumerate(blocks):
            entering = values[f"{block}.hook_resid_pre"]
            for letter in "qkv":
                by = gradients[f"{block}.attn.hook_{letter}"]
                at = nodes.receiving(layer, letter)
                enter(at, nodes.first_head(layer), self._before_norm(layer, letter, entering, by))
            # What goes by the MLP rather than through it is the gradient behind it.
            behind = self.ends if layer == nodes.depth - 1 else f"{blocks[layer + 1]}.hook_resid_pre"
            through = gradients[f"{block}.hook_resid_mid"] - gradients[behind]
            enter(nodes.receiving(layer, "m"), nodes.mlp(layer), through[None])
        enter(slice(-1, None), len(nodes.senders), gradients[self.ends][None])
        return found

    def _before_norm(
        self, layer: int, letter: str, x: Tensor, by: Float[Tensor, "example position head d_head"]
    ) -> Float[Tensor, "head example position d_model"]:
        """The gradient by the stream that each head gets, from that by what it is projected to."""
        with torch.enable_grad():
            own = x[None].expand(by.shape[2], -1, -1, -1).clone().requires_grad_()
            return torch.autograd.grad(self.project(layer, letter, own), own, by)[0]
