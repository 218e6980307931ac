"""The parts of a hooked model that methods ask for, whatever its family keeps them under.

Nobody else reads the Hugging Face model (`.hf`): a method that needs a part names it here.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from accelerate import init_empty_weights
from jaxtyping import Float
from torch import Tensor, nn

from vlm_probe.errors import VlmProbeError
from vlm_probe.hooked.families import families_of, submodule
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
    """The modules that call the attention function, by layer, of "vision" or "language".

    Raises VlmProbeError for another part, and "vision" of a language model alone.
    """
    vision, language = families_of(model.hf.config)
    if part == "language":
        tower, blocks = language_tower(model), language.blocks
    elif part == "vision" and vision is not None:
        tower, blocks = model.hf.model.vision_tower, vision.blocks
    else:
        raise VlmProbeError(f"{model.name} has no attention in {part!r}")
    return [submodule(layer, *blocks.attention) for layer in layers_of(tower, blocks)]


def encode(model: HookedVLM, pixels: Float[Tensor, "image channel height width"]) -> None:
    """Run the vision encoder alone, for what is hooked in it."""
    model.hf.model.vision_tower(pixels.to(model.device, model.dtype))


def parameter_count(model: HookedVLM) -> int:
    """How many parameters the model has; a tied matrix counts once."""
    return sum(p.numel() for p in model.hf.parameters())


def patches_of(name: str, activation: Tensor, layouts: list[TokenLayout]) -> Float[Tensor, "item patch feature"]:
    """The rows of an activation that belong to patches, in the order of the grid; one image an example.

    activation: [example or image, position, ...], what follows is flattened.
    """
    at = torch.as_tensor([layout.image().rows_at(name).tolist() for layout in layouts], device=activation.device)
    flat = activation.flatten(2)
    return torch.gather(flat, 1, at[:, :, None].expand(-1, -1, flat.shape[-1]))


def with_rows(model: HookedVLM, kept: list[int]) -> Any:
    """The Hugging Face model with these rows of both vocabulary matrices alone, in their order.

    Everything else is shared with the original, not copied; ids in its configurations are numbered anew.
    """
    hf, settings = model.hf, copy.deepcopy(model.hf.config)
    new = {old: i for i, old in enumerate(kept)}
    text = settings.get_text_config()
    text.vocab_size = len(kept)
    for part in (settings, text):
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
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
    with init_empty_weights(include_buffers=False):
        smaller = type(hf)(settings)
    at = torch.as_tensor(kept, device=model.device)
    matrices = (hf.get_input_embeddings().weight, hf.get_output_embeddings().weight)
    rows = {id(matrix): matrix.detach()[at] for matrix in matrices}
    state = {}
    for name, value in hf.state_dict(keep_vars=True).items():
        state[name] = rows.get(id(value), value.detach() if isinstance(value, nn.Parameter) else value)
    smaller.load_state_dict(state, assign=True)
    smaller.tie_weights()
    smaller.generation_config = copy.deepcopy(hf.generation_config)
    smaller.generation_config.eos_token_id = [new[i] for i in sorted(model.answer_ends) if i in new] or None
    for name in ("bos_token_id", "pad_token_id"):
        old = getattr(smaller.generation_config, name, None)
        setattr(smaller.generation_config, name, None if old is None else new.get(old))
    smaller.generation_config.suppress_tokens = [new[i] for i in model.suppressed_tokens if i in new] or None
    return smaller.to(device=model.device).eval()
