"""The parts of a hooked model that methods ask for, whatever its family keeps them under.

Nobody else reads the Hugging Face model (`.hf`): a method that needs a part names it here.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from accelerate import init_empty_weights
from jaxtyping import Float
from torch import Tensor, nn

from vlm_probe.errors import VlmProbeError
from vlm_probe.hooked.families import Blocks, families_of, submodule
from vlm_probe.hooked.joined import encoders_of
from vlm_probe.hooked.model import HookedVLM
from vlm_probe.hooked.wiring import layers_of
from vlm_probe.layout import TokenLayout


def config(model: HookedVLM) -> Any:
    """The model's Hugging Face configuration."""
    return model.hf.config


def embedding(model: HookedVLM) -> Float[Tensor, "row d_model"]:
    """The embedding matrix, one row a token, as it stands in the checkpoint (before Gemma's scale)."""
    return model.hf.get_input_embeddings().weight.detach()


def unembedding(model: HookedVLM) -> Float[Tensor, "row d_model"]:
    """The unembedding matrix; the embedding itself where the two are tied."""
    return model.hf.get_output_embeddings().weight.detach()


def is_tied(model: HookedVLM) -> bool:
    """Whether embedding and unembedding are one matrix."""
    return model.hf.get_output_embeddings().weight is model.hf.get_input_embeddings().weight


def head(model: HookedVLM) -> nn.Module:
    """The output layer: rows that are ready for it to logits."""
    return model.hf.get_output_embeddings()


def language_tower(model: HookedVLM) -> nn.Module:
    """The language model without its output layer."""
    return model.hf.model if model.vision_config is None else model.hf.model.language_model


def final_norm(model: HookedVLM) -> nn.Module:
    """The norm between the last layer and the unembedding."""
    return submodule(language_tower(model), families_of(model.hf.config)[1].norm)


def attention_modules(model: HookedVLM, part: str) -> list[nn.Module]:
    """The modules that call the attention function, by layer, of a part; VlmProbeError as `tower_of`."""
    tower, blocks = tower_of(model, part)
    return [submodule(layer, *blocks.attention) for layer in layers_of(tower, blocks)]


def one_encoder(model: HookedVLM, what: str) -> None:
    """VlmProbeError for a model with several encoders, for what is of one."""
    several = [part for part in model.layers if part.startswith("vision.")]
    if several:
        raise VlmProbeError(f"{what} is of one encoder, and {model.name} has several: {', '.join(several)}")


def tower_of(model: HookedVLM, part: str) -> tuple[nn.Module, Blocks]:
    """An encoder or the language model by its part, and where its layers keep things.

    Raises VlmProbeError for a part that the model does not have, and "vision" of one with several encoders.
    """
    encoders = encoders_of(model.hf.config)
    if part == "language":
        return language_tower(model), families_of(model.hf.config)[1].blocks
    if part not in encoders:
        there = [*encoders, "language"]
        raise VlmProbeError(f"{model.name} has no part {part!r}; it has {', '.join(there)}")
    return submodule(model.hf.model, encoders[part].path), encoders[part].family.blocks


def head_bias(model: HookedVLM) -> Float[Tensor, " row"] | None:
    """What the output layer adds to every row's logit; None where it adds nothing."""
    bias: Any = getattr(head(model), "bias", None)
    return None if bias is None else bias.detach()


def norm_gain(model: HookedVLM, norm: nn.Module) -> Float[Tensor, " d_model"]:
    """What a norm of the language model multiplies by behind the division: Gemma's offset and the weight."""
    weight: Any = norm.weight
    return families_of(model.hf.config)[1].norm_offset + weight.detach().float()


def norm_scale(norm: Any, x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows 1"]:
    """What an RMSNorm divides these rows by, in float32."""
    eps = getattr(norm, "eps", None) or norm.variance_epsilon
    return (x.float().pow(2).mean(-1, keepdim=True) + eps).sqrt()


def through_norm(
    model: HookedVLM, norm: Any, readout: Float[Tensor, "*rows d_model"], scale: Float[Tensor, "*#rows 1"]
) -> tuple[Float[Tensor, "*rows d_model"], Float[Tensor, "*rows"]]:
    """Directions behind a norm as directions before it, the norm's scale held, and what its bias adds to each.

    x @ direction + added is norm(x) @ readout for rows of that scale: a LayerNorm's taking off of the mean is linear.
    """
    direction = readout * norm_gain(model, norm) / scale
    if not isinstance(norm, nn.LayerNorm):
        return direction, torch.zeros_like(readout[..., 0])
    return direction - direction.mean(-1, keepdim=True), readout @ norm.bias.detach().float()


def norm_before(model: HookedVLM, layer: int) -> nn.Module:
    """The norm through which a layer of the language model gives the residual stream to its attention."""
    family = families_of(model.hf.config)[1]
    return submodule(layers_of(language_tower(model), family.blocks)[layer], family.norm_before)


def norm_after(model: HookedVLM, layer: int) -> nn.Module | None:
    """The post-norm between a layer's attention and the residual stream (Gemma 2 and 3); None where there is none."""
    blocks = families_of(model.hf.config)[1].blocks
    own = layers_of(language_tower(model), blocks)[layer]
    return None if blocks.attn_out in blocks.attention else submodule(own, blocks.attn_out)


def by_head(
    model: HookedVLM, layer: int, letter: str
) -> tuple[Float[Tensor, "head d_head d_model"], Float[Tensor, "head d_head"] | None]:
    """A layer's projection to queries, keys or values, head by head (keys and values: by kv head), and its bias."""
    paths = families_of(model.hf.config)[1].blocks.qkv["qkv".index(letter)]
    projection: Any = submodule(attention_modules(model, "language")[layer], *paths)
    heads = model.text_config.num_attention_heads if letter == "q" else model.text_config.num_key_value_heads
    bias = projection.bias
    weight = projection.weight.detach().unflatten(0, (heads, -1))
    return weight, None if bias is None else bias.detach().unflatten(0, (heads, -1))


def heads_add(
    model: HookedVLM, layer: int, z: Float[Tensor, "batch position head d_head"]
) -> tuple[Float[Tensor, "batch position head d_model"], Float[Tensor, "batch position d_model"]]:
    """What each head of a layer adds to the residual stream, and what the output projection's bias does.

    Together `hook_attn_out`. Where a post-norm follows, its scale is that of the layer's whole attention: every head's
    part is divided by the one number, so that the parts still add up.

    z: the activation of `attn.hook_z`. Returns float32 (or float64 where z is).
    """
    output = families_of(model.hf.config)[1].output
    projection: Any = submodule(attention_modules(model, "language")[layer], output)
    dtype = torch.promote_types(z.dtype, torch.float32)
    weight = projection.weight.detach().to(dtype).unflatten(1, z.shape[2:])
    parts = torch.einsum("bphe,dhe->bphd", z.to(dtype), weight)
    bias = parts.new_zeros(parts.shape[-1]) if projection.bias is None else projection.bias.detach().to(dtype)
    bias = bias.expand(*parts.shape[:2], -1)
    norm = norm_after(model, layer)
    if norm is not None:
        factor = norm_gain(model, norm) / norm_scale(norm, parts.sum(2) + bias)
        parts, bias = parts * factor[:, :, None], bias * factor
    return parts, bias


def score_settings(model: HookedVLM, part: str, layer: int) -> tuple[float, float | None]:
    """What a layer's attention multiplies query times key by, and the soft cap on it (Gemma 2), None without."""
    module: Any = attention_modules(model, part)[layer]
    scaling = getattr(module, "scaling", None)
    cap = getattr(module, "attn_logit_softcapping", None)
    return float(module.scale if scaling is None else scaling), cap


def encode(model: HookedVLM, pixels: Float[Tensor, "image channel height width"]) -> None:
    """Run the vision encoder alone, for what is hooked in it."""
    model.hf.model.vision_tower(pixels.to(model.device, model.dtype))


def parameter_count(model: HookedVLM) -> int:
    """How many parameters the model has; a tied matrix counts once."""
    return sum(p.numel() for p in model.hf.parameters())


def whole_pictures(layouts: list[TokenLayout]) -> list[int]:
    """Where the first picture of each example stands in the encoder's batch."""
    before = np.cumsum([0, *(layout.encoded for layout in layouts[:-1])])
    return [int(start) + layout.image().row for start, layout in zip(before, layouts, strict=True)]


def is_pooled(name: str, layouts: list[TokenLayout]) -> bool:
    """Whether a cell of the grid is several rows of an activation, which a connector pools."""
    images = [layout.image() for layout in layouts if layout.images]
    return any(image.cells_at(name).shape[1] > 1 for image in images)


def patches_of(name: str, activation: Tensor, layouts: list[TokenLayout]) -> Float[Tensor, "item patch feature"]:
    """The rows of an activation that belong to patches, in the order of the grid; one image an example.

    Before a connector that pools patches (Gemma 3) a cell of the grid is the mean of its patches, as the connector has
    it.

    activation: [example or image, position, ...], what follows is flattened.
    """
    if not name.startswith("language.") and len(activation) != len(layouts):  # tiles stand among whole pictures
        activation = activation[whole_pictures(layouts)]
    at = torch.as_tensor(np.stack([layout.image().cells_at(name) for layout in layouts]), device=activation.device)
    flat = activation.flatten(2)
    rows = torch.gather(flat, 1, at.flatten(1)[:, :, None].expand(-1, -1, flat.shape[-1]))
    return rows if at.shape[-1] == 1 else rows.unflatten(1, at.shape[1:]).mean(2)


def with_state(hf: Any, settings: Any, state: Mapping[str, Tensor]) -> Any:
    """A Hugging Face model of another's class with these weights, which are shared and not copied; it evaluates.

    Tied where the other is, whatever its configuration says, and so is what `settings` says from then on. What is
    computed from the configuration and kept out of checkpoints is the other's own: a model that was cast has it cast.
    """
    tied = hf.get_output_embeddings().weight is hf.get_input_embeddings().weight
    for part in (settings, settings.get_text_config()):
        part.tie_word_embeddings = tied
    # Nothing is drawn on the meta device, but torch's generator would move.
    with torch.random.fork_rng(devices=[]), init_empty_weights(include_buffers=False):
        made = type(hf)(settings)
        # transformers' LLaVA has an output layer of its own, which has no bias; Phi's is put there on loading.
        if hf.get_output_embeddings().bias is not None:
            rows = settings.get_text_config().vocab_size
            made.get_output_embeddings().register_parameter("bias", nn.Parameter(torch.empty(rows)))
    made.load_state_dict(state, assign=True)
    if tied:
        made.get_output_embeddings().weight = made.get_input_embeddings().weight
    for name, module in hf.named_modules():
        for buffer in module._non_persistent_buffers_set:
            made.get_submodule(name)._buffers[buffer] = module._buffers[buffer]
    return made.to(device=hf.device).eval()


def with_rows(model: HookedVLM, kept: list[int]) -> Any:
    """The Hugging Face model with these rows of both vocabulary matrices alone, in their order.

    Everything else is shared with the original, not copied; ids in its configurations are numbered anew.
    """
    hf, settings = model.hf, copy.deepcopy(model.hf.config)
    new = {old: i for i, old in enumerate(kept)}
    text = settings.get_text_config()
    text.vocab_size = len(kept)
    for part in (settings, text):
        for name in ("bos_token_id", "eos_token_id", "pad_token_id", "boi_token_id", "eoi_token_id"):
            old = getattr(part, name, None)
            if isinstance(old, list):
                setattr(part, name, [new[i] for i in old if i in new])
            elif old is not None:
                setattr(part, name, new.get(old))
    if model.vision_config is not None:
        settings.image_token_id = new[model.image_token_id]
    own = dict(getattr(settings, "vlm_probe", None) or {})
    settings.vlm_probe = {**own, "embed_scale": model.embed_scale, "prompt": model.prompt}
    if model.preparer is not None:
        settings.vlm_probe["pad"] = model.preparer.pad
    at = torch.as_tensor(kept, device=model.device)
    output = hf.get_output_embeddings()
    by_token = (hf.get_input_embeddings().weight, output.weight, getattr(output, "bias", None))
    rows = {id(numbers): numbers.detach()[at] for numbers in by_token if numbers is not None}
    state = {}
    for name, value in hf.state_dict(keep_vars=True).items():
        state[name] = rows.get(id(value), value.detach() if isinstance(value, nn.Parameter) else value)
    smaller = with_state(hf, settings, state)
    smaller.generation_config = copy.deepcopy(hf.generation_config)
    smaller.generation_config.eos_token_id = [new[i] for i in sorted(model.answer_ends) if i in new] or None
    for name in ("bos_token_id", "pad_token_id"):
        old = getattr(smaller.generation_config, name, None)
        setattr(smaller.generation_config, name, None if old is None else new.get(old))
    smaller.generation_config.suppress_tokens = [new[i] for i in model.suppressed_tokens if i in new] or None
    return smaller
