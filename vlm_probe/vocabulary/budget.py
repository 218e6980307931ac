"""What the vocabulary costs (V1): parameters, arithmetic and memory of each part, from a configuration alone."""

from __future__ import annotations

from typing import Any

import pandas as pd
import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.pytorch_utils import Conv1D

from vlm_probe.errors import VlmProbeError
from vlm_probe.hooked.joined import encoders_of

PARTS: tuple[str, ...] = ("encoder", "connector", "embedding", "attention", "mlp", "norm", "unembedding")
CONTEXT = 1024
"""Positions that a token attends to, where operations are counted."""
_ATTENTION, _MLP = (".self_attn.", ".attention.", ".attn."), (".mlp.", ".feed_forward.")


def _part(name: str) -> str:
    """The part that a parameter belongs to, by its name."""
    dotted = f".{name}"
    if ".vision_tower." in dotted:
        return "encoder"
    if ".multi_modal_projector." in dotted:
        return "connector"
    if ".embed_tokens." in dotted or ".wte." in dotted:
        return "embedding"
    if ".lm_head." in dotted:
        return "unembedding"
    # A norm inside attention (Gemma 3's on queries and keys) is attention's.
    if any(mark in dotted for mark in _ATTENTION):
        return "attention"
    return "mlp" if any(mark in dotted for mark in _MLP) else "norm"


def _meta(config: Any) -> nn.Module:
    """The model without weights."""
    kind: Any = AutoModelForImageTextToText if hasattr(config, "vision_config") else AutoModelForCausalLM
    try:
        with torch.device("meta"):
            return kind.from_config(config)
    except ValueError as error:
        raise VlmProbeError(f"no causal or vision-language model of type {config.model_type!r}") from error


def budget(config: Any, *, context: int = CONTEXT, bytes_per_number: int = 2) -> pd.DataFrame:
    """Parameters, operations and memory of every part of a model that need not exist.

    Parameters
    ----------
    config: a Hugging Face configuration: a LlavaConfig, or a language model's.
    context: positions that one token attends to; enters attention's operations.
    bytes_per_number: 2 for half precision.

    Returns
    -------
    One row a part of `PARTS` that the model has: parameters (their sum is the model's; a matrix that embedding and
    unembedding share is embedding's), weight_bytes, flops_per_token (multiplications and additions of one
    token through the language model; looking up an embedding costs none), flops_per_image (encoder and
    connector, at the configured image size), kv_bytes_per_token (keys and values that stay for later tokens),
    activation_bytes_per_token (what the part's linear layers put out for one token, all layers together: what
    training keeps; generation holds one layer's at a time). `attrs`: title, units, context, parameters.

    Counted on the model itself, built without storage: nothing is estimated but softmax, norms and
    activation functions, whose operations are left out. Mixtures of experts keep theirs in fused tensors that
    are no linear layers: of those the parameters are right and the operations too few.

    Raises VlmProbeError for a configuration that is no causal language model or LLaVA.
    """
    model = _meta(config)
    text = config.get_text_config()
    sight = getattr(config, "vision_config", None)
    counts = dict.fromkeys(PARTS, 0)
    for name, parameter in model.named_parameters():  # a tied matrix comes once
        counts[_part(name)] += parameter.numel()
    flops, image_flops, outputs = (dict.fromkeys(PARTS, 0) for _ in range(3))
    tokens = 0 if sight is None else (sight.image_size // sight.patch_size) ** 2
    encoders = {} if sight is None else encoders_of(config)
    extra = {f"model.{one.path}.": one.family.leading(one.config) for one in encoders.values()}
    # Gemma 3 pools patches, and multiplies by a matrix that is no linear layer.
    pooled = getattr(config, "mm_tokens_per_image", tokens)
    bare = [p.numel() for name, p in model.named_parameters() if name.endswith("mm_input_projection_weight")]
    image_flops["connector"] += 2 * sum(bare) * pooled
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            inner, outer = module.in_features, module.out_features
        elif isinstance(module, Conv1D):  # GPT-2's linear layer
            inner, outer = module.nx, module.nf
        else:
            continue
        part = _part(f"{name}.")
        if ".head." in name and part == "encoder":
            continue  # SigLIP's pooling sees each image once, and feeds nothing
        if part in ("encoder", "connector"):
            before = next((n for path, n in extra.items() if name.startswith(path)), 0)
            image_flops[part] += 2 * inner * outer * (tokens + before)
        else:
            flops[part] += 2 * inner * outer
            outputs[part] += outer * bytes_per_number
    heads = text.num_attention_heads
    d_head = getattr(text, "head_dim", None) or text.hidden_size // heads
    layers = text.num_hidden_layers
    # Scores and the weighted sum, a multiplication and an addition each, for every position attended to.
    flops["attention"] += 4 * heads * d_head * context * layers
    kv = getattr(text, "num_key_value_heads", None) or heads
    for (_, own, path), before in zip(encoders.values(), extra.values(), strict=True):
        image_flops["encoder"] += 4 * own.hidden_size * (tokens + before) ** 2 * own.num_hidden_layers
        patch = model.get_submodule(f"model.{path}.embeddings")
        image_flops["encoder"] += sum(2 * p.numel() * tokens for p in patch.parameters() if p.ndim == 4)
    outputs["embedding"] = text.hidden_size * bytes_per_number
    kept = dict.fromkeys(PARTS, 0) | {"attention": 2 * kv * d_head * layers * bytes_per_number}
    rows = [
        {
            "part": part,
            "parameters": counts[part],
            "weight_bytes": counts[part] * bytes_per_number,
            "flops_per_token": flops[part],
            "flops_per_image": image_flops[part],
            "kv_bytes_per_token": kept[part],
            "activation_bytes_per_token": outputs[part],
        }
        for part in PARTS
        if counts[part] or flops[part]
    ]
    table = pd.DataFrame(rows)
    table.attrs = {
        "title": f"budget of a {config.model_type} with {text.vocab_size:,} tokens",
        "units": "parameters, operations, bytes",
        "context": context,
        "bytes_per_number": bytes_per_number,
        "parameters": sum(counts.values()),
        "vocabulary": text.vocab_size,
        "tied": bool(text.tie_word_embeddings),
    }
    return table
