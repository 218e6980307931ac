"""The same tasks written with each library, as its users would write them; the lines of these bodies are counted.

Each takes the library's model and a batch of plain tensors, and returns the logits and what was asked for, so that the
ways can be compared. What opens a model is in `open_all`, a line or two in every library, and is not counted.
"""

from __future__ import annotations

import copy
from typing import Any

import pyvene
import torch
from captum.attr import LayerActivation
from torch import Tensor
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from vlm_probe import causal
from vlm_probe.causal import Knockout, Replace
from vlm_probe.hooked import HookedVLM

SIDE, PATCH, IMAGE_TOKEN = 224, 14, 7999
LAYERS, VISION, WIDTH, HEADS = 8, 512, 1024, 16
ONE, CUT = LAYERS // 2, range(LAYERS // 4, 3 * LAYERS // 4)
"""The layer whose pattern is asked for and whose residual stream is patched; the layers in which edges are cut."""
PATCHED = 20
"""The position that is patched: one of the image."""
NEW = 8
"""Tokens that are generated."""


def shrink() -> None:
    """A miniature, to try the script."""
    global SIDE, LAYERS, VISION, WIDTH, HEADS, ONE, CUT
    SIDE, LAYERS, VISION, WIDTH, HEADS = 56, 4, 32, 64, 4
    ONE, CUT = LAYERS // 2, range(LAYERS // 4, 3 * LAYERS // 4)


def build() -> Any:
    """CLIP with Llama, the pair that TransformerLens's bridge knows: 146M parameters, 256 image tokens."""
    vision = CLIPVisionConfig(
        hidden_size=VISION,
        intermediate_size=4 * VISION,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS // 2,
        image_size=SIDE,
        patch_size=PATCH,
    )
    text = LlamaConfig(
        vocab_size=8000,
        hidden_size=WIDTH,
        intermediate_size=11 * WIDTH // 4,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        pad_token_id=0,
        eos_token_id=None,
    )
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE_TOKEN)
    config.architectures = ["LlavaForConditionalGeneration"]
    torch.manual_seed(0)
    return LlavaForConditionalGeneration(config).eval()


def inputs() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    patches = (SIDE // PATCH) ** 2
    text = torch.randint(1, IMAGE_TOKEN, (24,), generator=generator).tolist()
    ids = torch.tensor([[*text[:4], *[IMAGE_TOKEN] * patches, *text[4:]]])
    pixels = torch.randn(1, 3, SIDE, SIDE, generator=generator)
    return {"input_ids": ids, "pixel_values": pixels, "attention_mask": torch.ones_like(ids)}


def open_all(plain: Any) -> dict[str, Any]:
    """Every library's model, of the same weights; those whose explicit attention is another model, apart."""
    from nnsight import NNsight
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

    eager, twin, watched, other = (copy.deepcopy(plain) for _ in range(4))
    eager.set_attn_implementation("eager")
    other.set_attn_implementation("eager")
    bridge = build_bridge_from_module(twin, "LlavaForConditionalGeneration", hf_config=twin.config, tokenizer=None)
    return {
        "transformers": plain,
        "transformers, eager": eager,
        "vlm_probe": HookedVLM(copy.deepcopy(plain)),
        "TransformerLens bridge": bridge,
        "nnsight": NNsight(watched),
        "nnsight, eager": NNsight(other),
        "pyvene": copy.deepcopy(plain),
    }


# --- nothing hooked ---------------------------------------------------------------------------------------------------


def idle(model: Any, batch: dict[str, Any]) -> Tensor:
    return model(**batch).logits


def idle_bridge(model: Any, batch: dict[str, Any]) -> Tensor:
    return model(batch["input_ids"], **without_ids(batch))


def idle_nnsight(model: Any, batch: dict[str, Any]) -> Tensor:
    with model.trace(**batch):
        logits = model.output.logits.save()
    return logits


# --- all residual streams of the language model -----------------------------------------------------------------------


def residuals_transformers(model: Any, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
    output = model(**batch, output_hidden_states=True)
    return output.logits, torch.stack(output.hidden_states[1:-1])


def residuals_hooks(model: Any, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
    kept: list[Tensor] = []
    layers = list(model.model.language_model.layers)[:-1]
    handles = [layer.register_forward_hook(lambda _m, _a, out: kept.append(out)) for layer in layers]
    try:
        logits = model(**batch).logits
    finally:
        for handle in handles:
            handle.remove()
    return logits, torch.stack(kept)


def residuals_vlm_probe(model: HookedVLM, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
    names = [f"language.blocks.{i}.hook_resid_post" for i in range(LAYERS - 1)]
    output, cache = model.run_with_cache(**batch, names_filter=names)
    return output.logits, torch.stack(list(cache.values()))


def residuals_bridge(model: Any, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
    names = [f"blocks.{i}.hook_resid_post" for i in range(LAYERS - 1)]
    logits, cache = model.run_with_cache(batch["input_ids"], names_filter=names.__contains__, **without_ids(batch))
    return logits, torch.stack([cache[name] for name in names])


def residuals_nnsight(model: Any, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
    kept: list[Tensor] = []
    with model.trace(**batch):
        for layer in list(model.model.language_model.layers)[:-1]:
            kept.append(layer.output.save())
        logits = model.output.logits.save()
    return logits, torch.stack(kept)


def residuals_pyvene(model: Any, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
    points = [f"model.language_model.layers[{i}].output" for i in range(LAYERS - 1)]
    config = [{"component": point, "intervention": pyvene.CollectIntervention()} for point in points]
    collecting = pyvene.IntervenableModel(config, model=model)
    (_, kept), output = collecting(base=batch, unit_locations=None)
    return output.logits, torch.stack(kept)


def residuals_captum(model: Any, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
    logits: list[Tensor] = []
    layers = list(model.model.language_model.layers)[:-1]

    def run(ids: Tensor, rest: dict[str, Any]) -> Tensor:
        logits.append(model(input_ids=ids, **rest).logits)
        return logits[0]

    kept: Any = LayerActivation(run, layers).attribute(
        batch["input_ids"], additional_forward_args=(without_ids(batch),)
    )
    return logits[0], torch.stack(kept)


# --- attention patterns of the language model -------------------------------------------------------------------------


def patterns_transformers(model: Any, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
    output = model(**batch, output_attentions=True)
    return output.logits, torch.stack(output.attentions)


def patterns_vlm_probe(model: HookedVLM, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
    output, cache = model.run_with_cache(**batch, names_filter="language.blocks.*.attn.hook_pattern")
    return output.logits, torch.stack(list(cache.values()))


def patterns_bridge(model: Any, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
    names = [f"blocks.{i}.attn.hook_pattern" for i in range(LAYERS)]
    logits, cache = model.run_with_cache(batch["input_ids"], names_filter=names.__contains__, **without_ids(batch))
    return logits, torch.stack([cache[name] for name in names])


def patterns_nnsight(model: Any, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
    kept: list[Tensor] = []
    with model.trace(**batch):
        for layer in model.model.language_model.layers:
            kept.append(layer.self_attn.output[1].save())
        logits = model.output.logits.save()
    return logits, torch.stack(kept)


def pattern_hooks(model: Any, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
    kept: list[Tensor] = []
    module = model.model.language_model.layers[ONE].self_attn
    handle = module.register_forward_hook(lambda _m, _a, out: kept.append(out[1]))
    try:
        logits = model(**batch).logits
    finally:
        handle.remove()
    return logits, kept[0]


def pattern_vlm_probe(model: HookedVLM, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
    output, cache = model.run_with_cache(**batch, names_filter=f"language.blocks.{ONE}.attn.hook_pattern")
    return output.logits, cache["pattern", ONE]


def pattern_bridge(model: Any, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
    name = f"blocks.{ONE}.attn.hook_pattern"
    logits, cache = model.run_with_cache(batch["input_ids"], names_filter=name, **without_ids(batch))
    return logits, cache[name]


def pattern_nnsight(model: Any, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
    with model.trace(**batch):
        pattern = model.model.language_model.layers[ONE].self_attn.output[1].save()
        logits = model.output.logits.save()
    return logits, pattern


# --- one position's residual stream from another run ------------------------------------------------------------------


def patch_hooks(model: Any, batch: dict[str, Any], clean: Tensor) -> Tensor:
    def patch(_module: Any, _args: Any, output: Tensor) -> Tensor:
        output[:, PATCHED] = clean[:, PATCHED]
        return output

    handle = model.model.language_model.layers[ONE].register_forward_hook(patch)
    try:
        return model(**batch).logits
    finally:
        handle.remove()


def patch_vlm_probe(model: HookedVLM, batch: Any, clean: Tensor) -> Tensor:
    patch = Replace(f"language.blocks.{ONE}.hook_resid_post", (PATCHED,), clean)
    return causal.run(model, batch, [patch])[0].logits


def patch_bridge(model: Any, batch: dict[str, Any], clean: Tensor) -> Tensor:
    def patch(residual: Tensor, hook: Any) -> Tensor:
        residual[:, PATCHED] = clean[:, PATCHED]
        return residual

    hooks = [(f"blocks.{ONE}.hook_resid_post", patch)]
    return model.run_with_hooks(batch["input_ids"], fwd_hooks=hooks, **without_ids(batch))


def patch_nnsight(model: Any, batch: dict[str, Any], clean: Tensor) -> Tensor:
    with model.trace(**batch):
        model.model.language_model.layers[ONE].output[:, PATCHED] = clean[:, PATCHED]
        logits = model.output.logits.save()
    return logits


def patch_pyvene(model: Any, batch: dict[str, Any], clean: Tensor) -> Tensor:
    point = f"model.language_model.layers[{ONE}].output"
    patching = pyvene.IntervenableModel({"component": point, "intervention": pyvene.VanillaIntervention()}, model=model)
    taken = clean[:, PATCHED : PATCHED + 1]
    _, output = patching(base=batch, source_representations=taken, unit_locations={"base": PATCHED})
    return output.logits


# --- the last position does not see the image in four layers ----------------------------------------------------------


def knockout_hooks(model: Any, batch: dict[str, Any], image: Tensor) -> Tensor:
    length = batch["input_ids"].shape[1]
    seen = torch.ones(1, 1, length, length, dtype=torch.bool).tril()
    seen[:, :, -1, image] = False

    def cut(_module: Any, args: Any, named: dict[str, Any]) -> Any:
        return args, {**named, "attention_mask": seen}

    modules = [model.model.language_model.layers[layer].self_attn for layer in CUT]
    handles = [module.register_forward_pre_hook(cut, with_kwargs=True) for module in modules]
    try:
        return model(**batch).logits
    finally:
        for handle in handles:
            handle.remove()


def knockout_vlm_probe(model: HookedVLM, batch: Any) -> Tensor:
    return causal.run(model, batch, [Knockout("answer", "image", CUT)])[0].logits


def knockout_bridge(model: Any, batch: dict[str, Any], image: Tensor) -> Tensor:
    def cut(scores: Tensor, hook: Any) -> Tensor:
        scores[:, :, -1, image] = -torch.inf
        return scores

    hooks = [(f"blocks.{layer}.attn.hook_attn_scores", cut) for layer in CUT]
    return model.run_with_hooks(batch["input_ids"], fwd_hooks=hooks, **without_ids(batch))


def knockout_nnsight(model: Any, batch: dict[str, Any], image: Tensor) -> Tensor:
    length = batch["input_ids"].shape[1]
    seen = torch.ones(1, 1, length, length, dtype=torch.bool).tril()
    seen[:, :, -1, image] = False
    with model.trace(**batch):
        for layer in CUT:
            block = model.model.language_model.layers[layer]
            given, named = block.inputs
            block.inputs = (given, {**named, "attention_mask": seen})
        logits = model.output.logits.save()
    return logits


# --- generating with a residual stream kept ---------------------------------------------------------------------------


def generate_transformers(model: Any, batch: dict[str, Any]) -> Tensor:
    return model.generate(**batch, max_new_tokens=NEW, do_sample=False)


def generate_hooks(model: Any, batch: dict[str, Any]) -> Tensor:
    kept: list[Tensor] = []
    layers = model.model.language_model.layers
    handles = [layer.register_forward_hook(lambda _m, _a, out: kept.append(out)) for layer in layers]
    try:
        return model.generate(**batch, max_new_tokens=NEW, do_sample=False)
    finally:
        for handle in handles:
            handle.remove()


def generate_vlm_probe(model: HookedVLM, batch: dict[str, Any]) -> Tensor:
    kept: list[Tensor] = []
    keep: list[Any] = [("language.blocks.*.hook_resid_post", lambda x, hook: kept.append(x))]
    with model.hooks(fwd_hooks=keep):
        return model.generate(**batch, max_new_tokens=NEW, do_sample=False)


def without_ids(batch: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in batch.items() if name != "input_ids"}


def renewed(model: Any) -> Any:
    """pyvene takes every hook off a model, transformers' own too, which then no longer collects what LLaVA reads from
    its encoder; transformers is told to put them back."""
    for module in model.modules():
        if getattr(module, "_output_capturing_hooks_installed", False):
            module._output_capturing_hooks_installed = False
    return model
