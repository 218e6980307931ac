"""Connects a Hugging Face model to its hook points, by forward hooks and nothing else.

Every hook looks first whether its point has anything attached and otherwise does nothing, so an
idle model is the plain one. All are prepended: transformers 5 collects hidden states (and LLaVA the
connector's input) with forward hooks of its own, which must see what ours return.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint

from vlm_probe.hooked import attention
from vlm_probe.hooked.families import Blocks, LanguageFamily, families_of, submodule
from vlm_probe.hooked.joined import Connector, connector_of, encoders_of, joined_of
from vlm_probe.hooked.points import (
    Points,
    TowerPoints,
    connector_points,
    is_active,
    language_points,
    vision_points,
)


def _on_output(module: nn.Module, point: HookPoint) -> None:
    """Feed a point from a module's output (the first of several), and return what the point returns."""
    module.register_forward_hook(partial(_output, point), prepend=True)


def _output(point: HookPoint, _module: nn.Module, _args: Any, output: Any) -> Any:
    if not is_active(point):
        return None
    if isinstance(output, tuple):
        return (point(output[0]), *output[1:])
    return point(output)


def _on_heads(module: nn.Module, point: HookPoint, d_head: int) -> None:
    """As `_on_output`, for a projection whose output is seen as [batch, position, head, d_head]."""
    module.register_forward_hook(partial(_heads, point, d_head), prepend=True)


def _heads(point: HookPoint, d_head: int, _module: nn.Module, _args: Any, output: Tensor) -> Tensor | None:
    if not is_active(point):
        return None
    return point(output.unflatten(-1, (-1, d_head))).flatten(-2)


def _on_input(module: nn.Module, change: Callable[[Tensor], Tensor | None], *, prepend: bool = True) -> None:
    """Pass a module's first input through `change`, whether it came by position or by name."""
    module.register_forward_pre_hook(partial(_input, change), prepend=prepend, with_kwargs=True)


def _input(
    change: Callable[[Tensor], Tensor | None], _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    if args:
        changed = change(args[0])
        return None if changed is None else ((changed, *args[1:]), kwargs)
    changed = change(kwargs["hidden_states"])
    return None if changed is None else (args, {**kwargs, "hidden_states": changed})


def _through(points: tuple[HookPoint, ...], x: Tensor) -> Tensor | None:
    active = [p for p in points if is_active(p)]
    for point in active:
        x = point(x)
    return x if active else None


def _in_place(point: HookPoint, x: Tensor) -> None:
    """Feed a point from a tensor that the layer goes on using under two names, and edit it in place.

    The layer holds the residual stream twice, as the norm's input and as the skip connection; only
    an edit in place reaches both. The point sees a copy, so what it caches is what it saw.
    """
    if not is_active(point):
        return
    # Copied back always: a hook may also edit the tensor it was given and return nothing.
    x.copy_(point(x.clone()))


def wire_block(layer: nn.Module, points: Points, paths: Blocks, *, d_head: int, first: HookPoint | None) -> None:
    """Connect one layer; `first` is the tower's `hook_embed`, for its first layer."""
    entry = (points["hook_resid_pre"],) if first is None else (first, points["hook_resid_pre"])
    # A copy: the tensor itself is also what the layer before gave, to whoever collects that (the
    # connector's input among them), and an edit in place here must not reach back.
    _on_input(layer, lambda x: _through(entry, x.clone()) if any(map(is_active, entry)) else None)
    attention_module = submodule(layer, *paths.attention)
    attention.report_to(attention_module, points)
    for letter, projection in zip("qkv", paths.qkv, strict=True):
        _on_heads(submodule(attention_module, *projection), points[f"attn.hook_{letter}"], d_head)
    _on_output(submodule(layer, paths.attn_out), points["hook_attn_out"])
    if paths.mid is not None:
        _on_input(submodule(layer, paths.mid), partial(_in_place, points["hook_resid_mid"]))
    _on_output(submodule(layer, *paths.mlp_in), points["mlp.hook_pre"])
    _on_input(submodule(layer, *paths.mlp_down), partial(_through, (points["mlp.hook_post"],)))
    _on_output(submodule(layer, paths.mlp_out), points["hook_mlp_out"])
    _on_output(layer, points["hook_resid_post"])


def layers_of(tower: nn.Module, paths: Blocks) -> nn.ModuleList:
    layers = submodule(tower, paths.layers)
    assert isinstance(layers, nn.ModuleList)
    return layers


def wire_tower(tower: nn.Module, points: TowerPoints, paths: Blocks, *, d_head: int) -> None:
    """Connect every layer of a vision encoder or language model."""
    for i, layer in enumerate(layers_of(tower, paths)):
        wire_block(layer, points.block(i), paths, d_head=d_head, first=points["hook_embed"] if i == 0 else None)


def _stamp(x: Tensor) -> object:
    """Changes when a tensor is edited in place; never equal for inference tensors, which do not count."""
    return object() if x.is_inference() else x._version


def wire_norm(norm: nn.Module, on_scale: HookPoint, on_normalized: HookPoint, offset: float) -> None:
    """Connect a norm, whose parts transformers does not expose: y = x / scale * (offset + weight).

    A LayerNorm takes the mean off x first and adds its bias last. TransformerLens shows the normalized rows of a
    LayerNorm behind its weight and bias; here they are before those, as of an RMSNorm. The output is computed anew only
    where a hook changed something.
    """
    centres = isinstance(norm, nn.LayerNorm)

    def hook(module: Any, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        if not (is_active(on_scale) or is_active(on_normalized)):
            return None
        x = args[0].float()
        x = x - x.mean(-1, keepdim=True) if centres else x
        eps = getattr(module, "eps", None) or module.variance_epsilon
        before = (x.pow(2).mean(-1, keepdim=True) + eps).sqrt()
        stamp = _stamp(before)
        scale = on_scale(before)
        divided = x / scale
        stamps = (stamp, _stamp(divided))
        normalized = on_normalized(divided)
        if scale is before and normalized is divided and stamps == (_stamp(before), _stamp(divided)):
            return None
        scaled = normalized * (offset + module.weight.float())
        return (scaled + module.bias.float() if centres else scaled).to(output.dtype)

    norm.register_forward_hook(hook, prepend=True)


def wire_language(
    tower: nn.Module, head: nn.Module, points: TowerPoints, family: LanguageFamily, *, d_head: int
) -> None:
    """Connect a language model: its layers, the final norm and the logits."""
    wire_tower(tower, points, family.blocks, d_head=d_head)
    on_scale, on_normalized = points["ln_final.hook_scale"], points["ln_final.hook_normalized"]
    wire_norm(submodule(tower, family.norm), on_scale, on_normalized, family.norm_offset)
    _on_output(head, points["hook_logits"])


def wire_connector(projector: nn.Module, points: Points, paths: Connector, factor: Callable[[], float]) -> None:
    """Connect the connector, and apply the embedding scale to what leaves it.

    `factor` is asked at every call; the points see the features before it. It multiplies as a
    tensor in the features' dtype, rounded as the old code inside Gemma did.
    """
    _on_input(projector, partial(_through, (points["hook_in"],)))
    for name, path in paths.outputs:
        _on_output(submodule(projector, path), points[name])
    for name, path in paths.inputs:
        _on_input(submodule(projector, path), partial(_through, (points[name],)))
    if paths.norm is not None:
        wire_norm(submodule(projector, paths.norm), points["ln.hook_scale"], points["ln.hook_normalized"], 1.0)
    out = points["hook_out"]

    def hook(_module: nn.Module, _args: Any, output: Tensor) -> Tensor | None:
        active, scale = is_active(out), factor()
        if not active and scale == 1.0:
            return None
        seen = out(output) if active else output
        return seen if scale == 1.0 else seen * torch.tensor(scale, dtype=seen.dtype, device=seen.device)

    projector.register_forward_hook(hook, prepend=True)


def wire_skipping(tower: nn.Module, points: TowerPoints, paths: Blocks, last_used: Callable[[], int | None]) -> None:
    """Spare the vision layers behind the selected one: nobody reads what they compute.

    `last_used` gives the last layer whose output is read, None where nothing may be spared (a
    caller of the Hugging Face model itself, who may want all of it). What follows it, unless
    hooked, receives one token of one image: next to no work, and transformers' own collecting of
    hidden states stays intact.
    """

    def spare(index: int, x: Tensor) -> Tensor | None:
        last = last_used()
        if last is None or index <= last:
            return None
        if any(points.block(behind).any_active() for behind in range(index, len(points.blocks))):
            return None
        return x[:1, :1]

    for i, layer in enumerate(layers_of(tower, paths)):
        # Runs after the layer's own points, which are idle wherever it has an effect.
        _on_input(layer, partial(spare, i), prepend=False)


def declare(hf: Any) -> tuple[Points, dict[str, TowerPoints], Points, TowerPoints]:
    """The hook points of a Hugging Face model: all that sees, the same by encoder, the connector, the language model.

    A part that it does not have has no point: there is nothing to hook.
    """
    encoders, connector, (_, language) = encoders_of(hf.config), connector_of(hf.config), families_of(hf.config)
    seen = {}
    for part, (family, _, path) in encoders.items():
        depth = len(layers_of(submodule(hf.model, path), family.blocks))
        seen[part] = vision_points(depth, family.blocks.absent)
    vision = seen.get("vision", Points(()))
    if "vision" not in seen:
        for part, points in seen.items():
            vision.add_module(part.removeprefix("vision."), points)
    depth = len(layers_of(_language_tower(hf), language.blocks))
    through = Points(()) if connector is None else connector_points(connector.points)
    return vision, seen, through, language_points(depth, language.blocks.absent)


def _language_tower(hf: Any) -> nn.Module:
    return hf.model if joined_of(hf.config) is None else hf.model.language_model


def wire(
    hf: Any,
    seen: Mapping[str, TowerPoints],
    through: Points,
    language: TowerPoints,
    factor: Callable[[], float],
    last_used: Callable[[str], int | None],
) -> None:
    """Connect a whole model to the points that `declare` made; `factor` and `last_used` as below, by encoder."""
    for part, (family, own, path) in encoders_of(hf.config).items():
        tower = submodule(hf.model, path)
        wire_tower(tower, seen[part], family.blocks, d_head=own.hidden_size // own.num_attention_heads)
        wire_skipping(tower, seen[part], family.blocks, partial(last_used, part))
    connector = connector_of(hf.config)
    if connector is not None:
        wire_connector(hf.model.multi_modal_projector, through, connector, factor)
    text, (_, family) = hf.config.get_text_config(), families_of(hf.config)
    d_head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    wire_language(_language_tower(hf), hf.lm_head, language, family, d_head=d_head)
