"""Whether a hooked model is the plain one: against transformers itself, on the checkpoint at hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from vlm_probe.errors import VlmProbeError, first_line
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
)
from vlm_probe.hooked.families import families_of, submodule
from vlm_probe.hooked.model import HookedVLM
from vlm_probe.hooked.plain import plain_twin
from vlm_probe.hooked.points import is_active
from vlm_probe.hooked.wiring import layers_of
from vlm_probe.inputs.preparing import ModelInputs

ALLOWED = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 0.05, torch.float16: 0.01}
"""How far activations may lie apart, as a share of the largest or of 1, by dtype. Idle logits: not at all."""
QUESTIONS = ("What is in the picture?", "What colour is it, and how many are there?")
_ACTIVATIONS = ("act_fn", "activation_fn", "activation")
COLUMNS = ("check", "compared", "difference", "allowed", "ok", "said")


@torch.no_grad()
def verify(model: HookedVLM, inputs: ModelInputs | None = None) -> pd.DataFrame:
    """Compare a hooked model with plain transformers: the same weights in a model that carries no hook of ours.

    Parameters
    ----------
    inputs: what both are run on; None takes a generated picture with two questions of different lengths, or random
        tensors where there is no tokenizer or image processor.

    Returns
    -------
    A row a check: check, compared (how many activations), difference (the largest, as a share of the largest value
    compared or of 1), allowed (`ALLOWED`; 0 is bit for bit), ok, and said (what was raised, else empty). The checks:
    idle logits; logits while every point is hooked; residual streams against transformers' hidden states; patterns
    against its eager attention; scores from queries and keys, those from the norm and each head's weights; patterns
    times values; what heads and layers add; MLPs, connector and final norm part by part; connector rows and token rows
    where the language model gets them, with the scale that is measured; an identity edit at every point; an edit at
    each point of one block reaching the logits; no hook left. `attrs` holds what the embedding scale does, and where
    the model comes from. What is no error of the model's but of how its family is described is a row, too.

    Raises
    ------
    VlmProbeError: quantized weights, which cannot be shared with a second model; hooks that are there already; inputs
        without an image for a model that has an encoder.
    """
    if any(map(is_active, model.hook_points())):
        raise VlmProbeError(f"{model.name} has hooks, which would be compared too: model.reset_hooks() takes them away")
    inputs = _inputs(model) if inputs is None else inputs
    if model.vision_config is not None and inputs.pixel_values is None:
        raise VlmProbeError(f"{model.name} has an encoder: inputs need an image, or it would not be compared")
    checks = _Checks(model, inputs)
    rows = [_row(name, check, model) for name, check in checks.all()]
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    table.attrs = {
        "title": f"{model.name} beside plain transformers",
        "token_scale": model.token_scale,
        "image_scale": model.image_scale,
        **model.provenance(),
    }
    return table


def _row(name: str, check: Callable[[], tuple[int, float, float | None]], model: HookedVLM) -> dict[str, object]:
    compared, difference, said = 0, float("nan"), ""
    allowed: float = ALLOWED.get(model.dtype, ALLOWED[torch.float32])
    try:
        compared, difference, own = check()
        allowed = allowed if own is None else own
    except (VlmProbeError, KeyError) as error:
        said = first_line(error)
    ok = not said and compared > 0 and difference <= allowed
    return dict(zip(COLUMNS, (name, compared, difference, allowed, ok, said), strict=True))


def _inputs(model: HookedVLM) -> ModelInputs:
    """Two examples of different lengths."""
    from vlm_probe.scenes import sample_scene, scene_image

    sees = model.vision_config is not None
    if model.tokenizer is not None and (model.preparer is not None or not sees):
        pictures: Any = [scene_image(sample_scene(seed), model.image_size) for seed in (1, 2)] if sees else None
        return model.prepare(pictures, list(QUESTIONS))
    generator = torch.Generator().manual_seed(5)
    text = torch.randint(3, 50, (2, 9), generator=generator)
    mask = torch.ones_like(text)
    mask[1, :2] = 0
    patches = model.inputs.patches
    if patches is None:
        return model.prepare_tensors(text, None, mask)
    pixels = torch.randn(2, 3, model.image_size, model.image_size, generator=generator)
    image = torch.full((2, patches.tokens(pixels)), model.image_token_id)
    ids = torch.cat([text[:, :4], image, text[:, 4:]], dim=1)
    return model.prepare_tensors(ids, pixels, torch.cat([mask[:, :4], torch.ones_like(image), mask[:, 4:]], dim=1))


def _apart(found: Tensor, expected: Tensor) -> float:
    if found.shape != expected.shape:
        raise VlmProbeError(f"shapes {list(found.shape)} and {list(expected.shape)} are compared")
    found, expected = found.float(), expected.float()
    if not bool(found.isfinite().all()):
        raise VlmProbeError("an activation is not finite")
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1.0))


def _sum(a: Tensor, b: Tensor) -> Tensor:
    if a.shape != b.shape:
        raise VlmProbeError(f"shapes {list(a.shape)} and {list(b.shape)} are added")
    return a + b


def _nudged(x: Tensor, hook: Any) -> Tensor:
    # Unevenly: a constant would cancel in a softmax or a norm.
    return x * torch.linspace(0.5, 1.5, x.shape[-1], device=x.device, dtype=x.dtype) + 0.05


def _compared(check: Callable[..., Any], *args: Any) -> Callable[[], Any]:
    """A check that runs nothing: what a wrong description of a family makes it raise is said in its row."""

    def attempt() -> Any:
        try:
            return check(*args)
        except (RuntimeError, AttributeError, ValueError) as error:
            raise VlmProbeError(first_line(error)) from error

    return attempt


class _Checks:
    """Every check, with what several of them need run once."""

    def __init__(self, model: HookedVLM, inputs: ModelInputs):
        self.model, self.inputs = model, inputs
        self.live = inputs.attention_mask.bool()
        self.parts = [part for part in ("vision", "language") if model.layers[part]]
        self.idle = model(inputs).logits
        self.plain = plain_twin(model, "sdpa")(**inputs.tensors).logits
        eager = plain_twin(model, "eager")
        self.told = eager(**inputs.tensors, output_hidden_states=True, output_attentions=True)
        self.states = {"language": self.told.hidden_states}
        self.weights = {"language": self.told.attentions}
        if "vision" in self.parts:
            pixels: Any = inputs.pixel_values
            seen = eager.model.vision_tower(pixels, output_hidden_states=True, output_attentions=True)
            self.states["vision"], self.weights["vision"] = seen.hidden_states, seen.attentions
        output, self.cache = model.run_with_cache(inputs)
        self.watched = output.logits

    def all(self) -> Iterator[tuple[str, Callable[[], tuple[int, float, float | None]]]]:
        yield "idle logits", self.idle_logits
        yield "logits with every point hooked", self.watched_logits
        for part in self.parts:
            yield f"{part}: residual stream", _compared(self.residual, part)
            yield f"{part}: attention patterns", _compared(self.patterns, part)
            yield f"{part}: scores", _compared(self.scores, part)
            yield f"{part}: patterns times values", _compared(self.mixed, part)
            yield f"{part}: MLP", partial(self.mlp, part)
            yield f"{part}: what layers add", _compared(self.added, part)
        yield "language: queries, keys, values", _compared(self.projected)
        yield "language: what heads add", _compared(self.heads)
        if "vision" in self.parts:
            yield "connector", _compared(self.connector)
        yield "rows the language model gets", _compared(self.rows)
        yield "final norm and logits", _compared(self.norm)
        yield "identity edit at every point", self.identity
        for part in (*self.parts, *(("connector",) if "vision" in self.parts else ())):
            yield f"{part}: edits reach the logits", partial(self.reached, part)
        yield "hooks left", self.left

    def idle_logits(self) -> tuple[int, float, float | None]:
        return 1, _apart(self.idle[self.live], self.plain[self.live]), 0.0

    def watched_logits(self) -> tuple[int, float, float | None]:
        return len(self.cache), _apart(self.watched[self.live], self.told.logits[self.live]), None

    def _rows(self, part: str, x: Tensor, axis: int = 1) -> Tensor:
        """Padding left out: what transformers gives there is nobody's."""
        return x if part == "vision" else x.movedim(axis, 1)[self.live]

    def residual(self, part: str) -> tuple[int, float, float | None]:
        depth, apart = self.model.layers[part], []
        for layer in range(depth):
            expected = self._rows(part, self.states[part][layer])
            apart.append(_apart(self._rows(part, self.cache[f"{part}.blocks.{layer}.hook_resid_pre"]), expected))
            if layer:
                before = self.cache[f"{part}.blocks.{layer - 1}.hook_resid_post"]
                apart.append(_apart(self._rows(part, before), expected))
        return len(apart), max(apart), None

    def patterns(self, part: str) -> tuple[int, float, float | None]:
        apart = []
        for layer, weights in enumerate(self.weights[part]):
            found = self.cache[f"{part}.blocks.{layer}.attn.hook_pattern"]
            apart.append(_apart(self._rows(part, found, 2), self._rows(part, weights, 2)))
        return len(apart), max(apart), None

    def added(self, part: str) -> tuple[int, float, float | None]:
        apart = []
        for layer in range(self.model.layers[part]):
            at = f"{part}.blocks.{layer}.hook_"
            stream = _sum(self.cache[at + "resid_pre"], self.cache[at + "attn_out"])
            if at + "resid_mid" in self.model.hook_dict:
                apart.append(_apart(self.cache[at + "resid_mid"], stream))
            apart.append(_apart(self.cache[at + "resid_post"], _sum(stream, self.cache[at + "mlp_out"])))
        return len(apart), max(apart), None

    def mixed(self, part: str) -> tuple[int, float, float | None]:
        apart = []
        for layer in range(self.model.layers[part]):
            at = f"{part}.blocks.{layer}.attn.hook_"
            pattern, value = self.cache[at + "pattern"], self.cache[at + "v"]
            value = value.repeat_interleave(pattern.shape[1] // value.shape[2], dim=2)
            apart.append(_apart(self.cache[at + "z"], torch.einsum("bhqk,bkhd->bqhd", pattern, value)))
        return len(apart), max(apart), None

    def scores(self, part: str) -> tuple[int, float, float | None]:
        """Queries times keys, as they reach attention, and their softmax; where a query may look."""
        apart, rotary = [], "rot_" if f"{part}.blocks.0.attn.hook_rot_q" in self.model.hook_dict else ""
        for layer in range(self.model.layers[part]):
            at = f"{part}.blocks.{layer}.attn.hook_"
            q, k, found = (self.cache[at + name].float() for name in (f"{rotary}q", f"{rotary}k", "attn_scores"))
            scaling, cap = score_settings(self.model, part, layer)
            k = k.repeat_interleave(q.shape[2] // k.shape[2], dim=2)
            made = torch.einsum("bqhd,bkhd->bhqk", q, k) * scaling
            made = made if cap is None else cap * torch.tanh(made / cap)
            seen = found.isfinite()
            apart.append(_apart(found[seen], made[seen]))
            live = self._rows(part, found.softmax(-1), 2)
            apart.append(_apart(live, self._rows(part, self.cache[at + "pattern"], 2)))
            if rotary:  # a rotation keeps lengths; what norms queries and keys before it does so by itself
                module: Any = attention_modules(self.model, part)[layer]
                for name in "qk":
                    own = getattr(module, f"{name}_norm", None) or getattr(module, f"{name}_layernorm", None)
                    plain = self.cache[at + name] if own is None else own(self.cache[at + name])
                    apart.append(_apart(self.cache[f"{at}rot_{name}"].norm(dim=-1), plain.norm(dim=-1)))
        return len(apart), max(apart), None

    def _given(self, modules: list[nn.Module]) -> list[Tensor]:
        """What each of some modules is given in a run."""
        given: dict[nn.Module, Tensor] = {}

        def keep(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            given[module] = args[0]

        hooks = [module.register_forward_pre_hook(keep) for module in modules]
        try:
            self.model(self.inputs)
        finally:
            for hook in hooks:
                hook.remove()
        return [given[module] for module in modules]

    def mlp(self, part: str) -> tuple[int, float, float | None]:
        """hook_post is the activation of hook_pre, times what a second projection makes where there is one."""
        family = families_of(self.model.hf.config)[0 if part == "vision" else 1]
        assert family is not None
        tower = self.model.hf.model.vision_tower if part == "vision" else language_tower(self.model)
        # The layers behind the one that is read are not run where nothing is hooked.
        depth = self.model.vision_layers_read if part == "vision" else self.model.layers[part]
        modules: list[Any] = [submodule(layer, "mlp") for layer in layers_of(tower, family.blocks)][:depth]
        apart = []
        for layer, (module, x) in enumerate(zip(modules, self._given(modules), strict=True)):
            act = next((getattr(module, name) for name in _ACTIVATIONS if hasattr(module, name)), None)
            gate = getattr(module, "gate_proj", None) or getattr(module, "fc1", None)
            if act is None or gate is None:
                raise VlmProbeError(f"{type(module).__name__} has none of the parts that are known")
            pre = gate(x)
            post = act(pre) * module.up_proj(x) if hasattr(module, "up_proj") else act(pre)
            at = f"{part}.blocks.{layer}.mlp.hook_"
            apart += [_apart(self.cache[at + "pre"], pre), _apart(self.cache[at + "post"], post)]
        return len(apart), max(apart), None

    def projected(self) -> tuple[int, float, float | None]:
        """By the norm in front of attention and the weights of each head, as methods read them."""
        apart = []
        for layer in range(self.model.layers["language"]):
            at = f"language.blocks.{layer}."
            normed = norm_before(self.model, layer)(self.cache[at + "hook_resid_pre"])
            for letter in "qkv":
                weight, bias = by_head(self.model, layer, letter)
                made = torch.einsum("bpd,hed->bphe", normed, weight)
                apart.append(_apart(self.cache[f"{at}attn.hook_{letter}"], made if bias is None else made + bias))
        return len(apart), max(apart), None

    def heads(self) -> tuple[int, float, float | None]:
        apart = []
        for layer in range(self.model.layers["language"]):
            at = f"language.blocks.{layer}."
            parts, bias = heads_add(self.model, layer, self.cache[at + "attn.hook_z"])
            apart.append(_apart(self.cache[at + "hook_attn_out"], parts.sum(2) + bias))
        return len(apart), max(apart), None

    def connector(self) -> tuple[int, float, float | None]:
        into, pre, post, out = (self.cache[f"connector.hook_{name}"] for name in ("in", "pre", "post", "out"))
        own: Any = self.model.hf.model.multi_modal_projector
        chosen = self.model.hf.config.vision_feature_layer
        states = [self.states["vision"][i] for i in (chosen if isinstance(chosen, list) else [chosen])]
        first = int(self.model.hf.config.vision_feature_select_strategy == "default")
        read = torch.cat([state[:, first:] for state in states], dim=-1)
        pairs = ((into, read), (pre, own.linear_1(into)), (post, own.act(pre)), (out, own.linear_2(post)))
        apart = [_apart(found, expected) for found, expected in pairs]
        apart.append(_apart(self.cache["vision.hook_embed"], self.states["vision"][0]))
        return len(apart), max(apart), None

    def rows(self) -> tuple[int, float, float | None]:
        embed, ids = self.cache["language.hook_embed"], self.inputs.input_ids
        is_image = ids == self.model.image_token_id
        is_word = self.live & ~is_image
        apart = [_apart(embed[is_word], self.model.hf.get_input_embeddings()(ids[is_word]))]
        apart.append(_apart(embed[is_word], embedding(self.model)[ids[is_word]] * self.model.token_scale))
        if "vision" in self.parts:
            given = self.cache["connector.hook_out"].flatten(0, -2)
            scale = torch.tensor(self.model.image_scale, dtype=given.dtype, device=given.device)
            apart.append(_apart(embed[self.live & is_image], given * scale if self.model.image_scale != 1.0 else given))
        return len(apart), max(apart), None

    def norm(self) -> tuple[int, float, float | None]:
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
        return len(apart), max(apart), None

    def identity(self) -> tuple[int, float, float | None]:
        names = list(self.cache)
        with self.model.hooks(fwd_hooks=[(name, lambda x, hook: x.clone()) for name in names]):
            edited = self.model(self.inputs).logits
        return len(names), _apart(edited[self.live], self.watched[self.live]), None

    def reached(self, part: str) -> tuple[int, float, float | None]:
        """Points at which an edit changes nothing are what is counted: none is allowed."""
        if part == "connector":
            names = [name for name in self.model.hook_dict if name.startswith("connector.")]
        else:
            read = self.model.vision_layers_read if part == "vision" else self.model.layers[part]
            names = [name for name in self.model.hook_dict if name.startswith(f"{part}.blocks.{read // 2}.")]
        idle, deaf = self.idle[self.live], []
        for name in names:
            with self.model.hooks(fwd_hooks=[(name, _nudged)]):
                edited = self.model(self.inputs).logits[self.live]
            deaf += [name] if torch.equal(edited, idle) else []
        if deaf:
            raise VlmProbeError(f"an edit changes no logit at {', '.join(deaf)}")
        return len(names), 0.0, 0.0

    def left(self) -> tuple[int, float, float | None]:
        points = list(self.model.hook_points())
        after = self.model(self.inputs).logits
        hooked = sum(map(is_active, points))
        return len(points), hooked + _apart(after[self.live], self.idle[self.live]), 0.0
