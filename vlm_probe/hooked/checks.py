"""The checks of `verify`: what a hooked model shows, beside what its weights and plain transformers give."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from vlm_probe.errors import VlmProbeError
from vlm_probe.hooked.anatomy import (
    attention_modules,
    by_head,
    embedding,
    final_norm,
    heads_add,
    language_tower,
    norm_before,
    norm_gain,
    score_settings,
    tower_of,
)
from vlm_probe.hooked.families import submodule
from vlm_probe.hooked.joined import encoders_of, joined_of
from vlm_probe.hooked.model import HookedVLM
from vlm_probe.hooked.points import is_hooked
from vlm_probe.hooked.wiring import layers_of
from vlm_probe.inputs.model_inputs import ModelInputs
from vlm_probe.names import layer_of, part_of

_ACTIVATIONS = ("act_fn", "activation_fn", "activation")


def _apart(found: Tensor, expected: Tensor) -> float:
    if found.shape != expected.shape:
        raise VlmProbeError(f"shapes {list(found.shape)} and {list(expected.shape)} are compared")
    exact = torch.promote_types(found.dtype, torch.float32)
    found, expected = found.to(exact), expected.to(exact)
    if not bool(found.isfinite().all()):
        raise VlmProbeError("an activation is not finite")
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1.0))


def _sum(*terms: Tensor) -> Tensor:
    """Of terms of one shape, from the left."""
    if len({term.shape for term in terms}) > 1:
        raise VlmProbeError(f"shapes {', '.join(str(list(term.shape)) for term in terms)} are added")
    return sum(terms[1:], terms[0])


class Checks:
    """Every check of one run, with what several of them need run once. Each gives the differences it found."""

    def __init__(self, model: HookedVLM, inputs: ModelInputs, twins: dict[str, Any]):
        self.model, self.inputs, self.twins = model, inputs, twins
        self.live = inputs.attention_mask.bool()
        self.parts = [part for part, depth in model.layers.items() if depth]

    @cached_property
    def idle(self) -> Tensor:
        return self.model(self.inputs, return_dict=True).logits

    @cached_property
    def told(self) -> Any:
        """What eager transformers tells of itself."""
        return self.twins["eager"](
            **self.inputs.tensors, output_hidden_states=True, output_attentions=True, return_dict=True
        )

    @cached_property
    def seen(self) -> dict[str, Any]:
        """What its encoders alone tell of themselves, by part."""
        encoders, told = encoders_of(self.model.hf.config), {}
        pixels: Any = self.inputs.pixel_values
        for own, (part, one) in zip(pixels.chunk(len(encoders), dim=1), encoders.items(), strict=True):
            tower: Any = submodule(self.twins["eager"].model, one.path)
            told[part] = tower(own, output_hidden_states=True, output_attentions=True, return_dict=True)
        return told

    @cached_property
    def _watched(self) -> tuple[Tensor, Any, dict[nn.Module, Tensor]]:
        """Of a run with every point hooked: logits, activations, and what each MLP was given."""
        given: dict[nn.Module, Tensor] = {}

        def keep(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            given[module] = args[0]

        hooks = [module.register_forward_pre_hook(keep) for part in self.parts for module in self._mlps(part)]
        try:
            output, cache = self.model.run_with_cache(self.inputs, return_dict=True)
        finally:
            for hook in hooks:
                hook.remove()
        return output.logits, cache, given

    @property
    def cache(self) -> Any:
        return self._watched[1]

    def _told(self, part: str) -> Any:
        return self.told if part == "language" else self.seen[part]

    def all(self) -> Iterator[tuple[str, Callable[[], list[float]]]]:
        yield "idle logits", self.idle_logits
        yield "logits with every point hooked", self.watched_logits
        for part in self.parts:
            yield f"{part}: residual stream", partial(self.residual, part)
            yield f"{part}: attention patterns", partial(self.patterns, part)
            yield f"{part}: scores", partial(self.scores, part)
            yield f"{part}: patterns times values", partial(self.mixed, part)
            yield f"{part}: MLP", partial(self.mlp, part)
            yield f"{part}: what layers add", partial(self.added, part)
        yield "language: queries, keys, values", self.projected
        yield "language: what heads add", self.heads
        if self.parts != ["language"]:
            yield "connector", self.connector
        yield "rows the language model gets", self.rows
        yield "final norm and logits", self.norm
        yield "identity edit at every point", self.identity
        for part in (*self.parts, *(("connector",) if self.parts != ["language"] else ())):
            if part == "connector" or self.model.layers_read(part):
                yield f"{part}: edits reach the logits", partial(self.reached, part)
        yield "hooks left", self.left

    def idle_logits(self) -> list[float]:
        plain = self.twins["sdpa"](**self.inputs.tensors, return_dict=True).logits
        return [_apart(self.idle[self.live], plain[self.live])]

    def watched_logits(self) -> list[float]:
        logits, cache, _ = self._watched
        return [_apart(logits[self.live], self.told.logits[self.live])] * len(cache)

    def _rows(self, part: str, x: Tensor, axis: int = 1) -> Tensor:
        """Padding left out: what transformers gives there is nobody's."""
        return x if part != "language" else x.movedim(axis, 1)[self.live]

    def residual(self, part: str) -> list[float]:
        depth, apart = self.model.layers[part], []
        for layer in range(depth):
            expected = self._rows(part, self._told(part).hidden_states[layer])
            apart.append(_apart(self._rows(part, self.cache[f"{part}.blocks.{layer}.hook_resid_pre"]), expected))
            if layer:
                before = self.cache[f"{part}.blocks.{layer - 1}.hook_resid_post"]
                apart.append(_apart(self._rows(part, before), expected))
        return apart

    def patterns(self, part: str) -> list[float]:
        """Against transformers' own; and hooked alone, when they come another way, against that run's queries and keys:
        in half precision a deep model's patterns of two ways are no longer alike."""
        own = f"{part}.blocks.*.attn.hook_"
        names = [own + name for name in (f"{self._rotary(part)}q", f"{self._rotary(part)}k", "pattern")]
        _, alone = self.model.run_with_cache(self.inputs, names_filter=names)
        apart = []
        for layer, weights in enumerate(self._told(part).attentions):
            at = f"{part}.blocks.{layer}.attn.hook_"
            apart.append(_apart(self._rows(part, self.cache[at + "pattern"], 2), self._rows(part, weights, 2)))
            hidden = ~self.cache[at + "attn_scores"].isfinite()
            made = self._of_queries(part, layer, alone).masked_fill(hidden, -torch.inf).float().softmax(-1)
            apart.append(_apart(self._rows(part, alone[at + "pattern"], 2), self._rows(part, made, 2)))
        return apart

    def _rotary(self, part: str) -> str:
        return "rot_" if f"{part}.blocks.0.attn.hook_rot_q" in self.model.hook_dict else ""

    def _of_queries(self, part: str, layer: int, cache: Any) -> Tensor:
        """Queries times keys, as they reach attention, rounded as the model does: a sharp softmax shows it."""
        at = f"{part}.blocks.{layer}.attn.hook_{self._rotary(part)}"
        q, k = (cache[at + letter] for letter in "qk")
        scaling, cap = score_settings(self.model, part, layer)
        k = k.repeat_interleave(q.shape[2] // k.shape[2], dim=2)
        made = torch.matmul(q.transpose(1, 2), k.transpose(1, 2).transpose(-1, -2)) * scaling
        return made if cap is None else cap * torch.tanh(made / cap)

    def added(self, part: str) -> list[float]:
        """The very sums of a layer."""
        apart = []
        for layer in range(self.model.layers[part]):
            at = f"{part}.blocks.{layer}.hook_"
            pre, attn, mlp = (self.cache[at + name] for name in ("resid_pre", "attn_out", "mlp_out"))
            if at + "resid_mid" in self.model.hook_dict:
                mid = self.cache[at + "resid_mid"]
                apart += [_apart(mid, _sum(pre, attn)), _apart(self.cache[at + "resid_post"], _sum(mid, mlp))]
            else:
                apart.append(_apart(self.cache[at + "resid_post"], _sum(attn, mlp, pre)))
        return apart

    def mixed(self, part: str) -> list[float]:
        apart = []
        for layer in range(self.model.layers[part]):
            at = f"{part}.blocks.{layer}.attn.hook_"
            pattern, value = self.cache[at + "pattern"], self.cache[at + "v"]
            value = value.repeat_interleave(pattern.shape[1] // value.shape[2], dim=2)
            apart.append(_apart(self.cache[at + "z"], torch.einsum("bhqk,bkhd->bqhd", pattern, value)))
        return apart

    def scores(self, part: str) -> list[float]:
        """Queries times keys, as they reach attention, and their softmax; where a query may look."""
        apart, rotary = [], self._rotary(part)
        for layer in range(self.model.layers[part]):
            at = f"{part}.blocks.{layer}.attn.hook_"
            found, made = self.cache[at + "attn_scores"].float(), self._of_queries(part, layer, self.cache)
            seen = found.isfinite()
            apart.append(_apart(found[seen], made[seen].float()))
            live = self._rows(part, found.softmax(-1), 2)
            apart.append(_apart(live, self._rows(part, self.cache[at + "pattern"], 2)))
            if rotary:
                module: Any = attention_modules(self.model, part)[layer]
                for name in "qk":
                    own = getattr(module, f"{name}_norm", None) or getattr(module, f"{name}_layernorm", None)
                    plain = self.cache[at + name] if own is None else own(self.cache[at + name])
                    apart.append(self._rotated(layer, plain, self.cache[f"{at}rot_{name}"]))
        return apart

    def _rotated(self, layer: int, before: Tensor, after: Tensor) -> float:
        """A rotation keeps lengths, but for YaRN's and LongRoPE's factor, and leaves what it does not turn."""
        turns: Any = language_tower(self.model).get_submodule("rotary_emb")
        kinds = getattr(self.model.text_config, "layer_types", None)
        of = f"{kinds[layer]}_" if kinds and hasattr(turns, f"{kinds[layer]}_inv_freq") else ""
        factor, n = getattr(turns, f"{of}attention_scaling"), 2 * len(getattr(turns, f"{of}inv_freq"))
        left = _apart(after[..., n:], before[..., n:]) if n < after.shape[-1] else 0.0
        return max(left, _apart(after[..., :n].norm(dim=-1), factor * before[..., :n].norm(dim=-1)))

    def _mlps(self, part: str) -> list[Any]:
        tower, blocks = tower_of(self.model, part)
        return [submodule(layer, "mlp") for layer in layers_of(tower, blocks)]

    def mlp(self, part: str) -> list[float]:
        """hook_post is the activation of hook_pre, times what a second projection makes where there is one."""
        _, cache, given = self._watched
        apart = []
        for layer, module in enumerate(self._mlps(part)):
            x = given[module]
            act = next((getattr(module, name) for name in _ACTIVATIONS if hasattr(module, name)), None)
            gate = getattr(module, "gate_proj", None) or getattr(module, "fc1", None)
            if act is None or gate is None:
                raise VlmProbeError(f"{type(module).__name__} has none of the parts that are known")
            pre = gate(x)
            post = act(pre) * module.up_proj(x) if hasattr(module, "up_proj") else act(pre)
            at = f"{part}.blocks.{layer}.mlp.hook_"
            apart += [_apart(cache[at + "pre"], pre), _apart(cache[at + "post"], post)]
        return apart

    def projected(self) -> list[float]:
        """By the norm in front of attention and the weights of each head, as methods read them."""
        apart = []
        for layer in range(self.model.layers["language"]):
            at = f"language.blocks.{layer}."
            normed = norm_before(self.model, layer)(self.cache[at + "hook_resid_pre"])
            for letter in "qkv":
                weight, bias = by_head(self.model, layer, letter)
                made = torch.einsum("bpd,hed->bphe", normed, weight)
                apart.append(_apart(self.cache[f"{at}attn.hook_{letter}"], made if bias is None else made + bias))
        return apart

    def heads(self) -> list[float]:
        apart = []
        for layer in range(self.model.layers["language"]):
            at = f"language.blocks.{layer}."
            parts, bias = heads_add(self.model, layer, self.cache[at + "attn.hook_z"])
            apart.append(_apart(self.cache[at + "hook_attn_out"], parts.sum(2) + bias))
        return apart

    def connector(self) -> list[float]:
        """What the configuration says is read, and the connector part by part."""
        at = {name: self.cache[name] for name in self.model.hook_dict if name.startswith("connector.")}
        into, out = at["connector.hook_in"], at["connector.hook_out"]
        own: Any = self.model.hf.model.multi_modal_projector
        apart = [_apart(into, self._read())]
        apart += [_apart(self.cache[f"{part}.hook_embed"], told.hidden_states[0]) for part, told in self.seen.items()]
        if "connector.hook_pre" in at:
            pre, post = at["connector.hook_pre"], at["connector.hook_post"]
            apart += [_apart(pre, own.linear_1(into)), _apart(post, own.act(pre))]
            if "connector.hook_pre_2" in at:
                pre, last = at["connector.hook_pre_2"], at["connector.hook_post_2"]
                apart += [_apart(pre, own.linear_2(post)), _apart(last, own.act(pre)), _apart(out, own.linear_3(last))]
            else:
                apart.append(_apart(out, own.linear_2(post)))
        elif "connector.hook_pooled" in at:
            scale, normalized = at["connector.ln.hook_scale"], at["connector.ln.hook_normalized"]
            k = own.kernel_size
            image = into.unflatten(1, (own.tokens_per_side, k, own.tokens_per_side, k)).mean((2, 4)).flatten(1, 2)
            gain = 1 + own.mm_soft_emb_norm.weight
            made = (normalized * gain).to(into.dtype) @ own.mm_input_projection_weight
            pooled = at["connector.hook_pooled"]
            apart += [_apart(pooled, image), _apart(scale * normalized, pooled.float()), _apart(out, made)]
        else:
            (linear,) = (module for module in own.modules() if isinstance(module, nn.Linear))
            apart.append(_apart(out, linear(into)))
        return apart

    def _read(self) -> Tensor:
        """What the connector is given, of what the encoder alone tells."""
        settings = self.model.hf.config
        joined, found = joined_of(settings), []
        assert joined is not None
        for part, one in encoders_of(settings).items():
            told = self.seen[part]
            if joined.selects:
                chosen = settings.vision_feature_layer
                first = int(settings.vision_feature_select_strategy == "default")
                found += [told.hidden_states[i][:, first:] for i in (chosen if isinstance(chosen, list) else [chosen])]
            else:
                state = told.hidden_states[joined.reads] if joined.reads else told.last_hidden_state
                found.append(state[:, one.family.leading(one.config) if joined.patches_alone else 0 :])
        return torch.cat(found, dim=-1)

    def rows(self) -> list[float]:
        embed, ids = self.cache["language.hook_embed"], self.inputs.input_ids
        is_image = ids == self.model.image_token_id
        is_word = self.live & ~is_image
        apart = [_apart(embed[is_word], self.model.hf.get_input_embeddings()(ids[is_word]))]
        apart.append(_apart(embed[is_word], embedding(self.model)[ids[is_word]] * self.model.token_scale))
        if self.parts != ["language"]:
            given = self._packed()
            scale = torch.tensor(self.model.image_scale, dtype=given.dtype, device=given.device)
            apart.append(_apart(embed[self.live & is_image], given * scale if self.model.image_scale != 1.0 else given))
        return apart

    def _packed(self) -> Tensor:
        """The connector's rows as they stand in prompts: tiles are put together by transformers, which has its own
        tests."""
        out = self.cache["connector.hook_out"]
        if self.inputs.image_sizes is None:
            return out.flatten(0, -2)
        given = {"pixel_values": self.inputs.pixel_values, "image_sizes": self.inputs.image_sizes}
        return torch.cat(list(self.twins["sdpa"].model.get_image_features(**given, return_dict=True).pooler_output))

    def norm(self) -> list[float]:
        last = self.cache[f"language.blocks.{self.model.layers['language'] - 1}.hook_resid_post"]
        norm: Any = final_norm(self.model)
        expected = self.told.hidden_states[-1][self.live]
        scale, normalized = (self.cache[f"language.ln_final.hook_{name}"] for name in ("scale", "normalized"))
        centred = last - last.mean(-1, keepdim=True) if isinstance(norm, nn.LayerNorm) else last
        made = normalized * norm_gain(self.model, norm)
        made = made + norm.bias if isinstance(norm, nn.LayerNorm) else made
        logits = self.model.hf.get_output_embeddings()(expected)
        pairs = (
            (norm(last), expected),
            (made, expected),
            (scale * normalized, centred[self.live]),
            (self.cache["language.hook_logits"], logits),
        )
        apart = [_apart(found[self.live], wanted) for found, wanted in pairs]
        return apart

    def identity(self) -> list[float]:
        names = list(self.cache)
        with self.model.hooks(fwd_hooks=[(name, lambda x, hook: x.clone()) for name in names]):
            edited = self.model(self.inputs, return_dict=True).logits
        return [_apart(edited[self.live], self._watched[0][self.live])] * len(names)

    @cached_property
    def _heard(self) -> dict[str, bool]:
        """Of every point, whether the logits hang on what it returns: by gradients, all in one run."""
        added: dict[str, Tensor] = {}

        def add_nothing(x: Tensor, hook: Any) -> Tensor:
            added[hook.name] = torch.zeros_like(x, requires_grad=True)
            return x + added[hook.name]

        with torch.enable_grad(), self.model.hooks(fwd_hooks=[(name, add_nothing) for name in self.cache]):
            logits = self.model(self.inputs, return_dict=True).logits[self.live].float()
            weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(3)).to(logits.device)
            found = torch.autograd.grad((logits * weights).sum(), list(added.values()), allow_unused=True)
        return {
            name: gradient is not None and bool(gradient.count_nonzero())
            for name, gradient in zip(added, found, strict=True)
        }

    def reached(self, part: str) -> list[float]:
        names = [n for n in self.cache if part_of(n) == part]
        names = [n for n in names if part == "connector" or (layer_of(n) or 0) < self.model.layers_read(part)]
        deaf = [name for name in names if not self._heard[name]]
        if deaf:
            raise VlmProbeError(f"an edit changes no logit at {', '.join(deaf)}")
        return [0.0] * len(names)

    def left(self) -> list[float]:
        points = list(self.model.hook_points())
        after = self.model(self.inputs, return_dict=True).logits
        return [sum(map(is_hooked, points)) + _apart(after[self.live], self.idle[self.live])] * len(points)
