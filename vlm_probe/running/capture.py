"""Running a model once and keeping what it did: the way to a Trace."""

from __future__ import annotations

from typing import Any

import numpy as np
import psutil
import torch

from vlm_probe.errors import VlmProbeError
from vlm_probe.files import writable
from vlm_probe.inputs.images import image_digest
from vlm_probe.inputs.model_inputs import ModelInputs
from vlm_probe.names import dimensions, part_of
from vlm_probe.running.asking import check_numbers
from vlm_probe.running.protocol import Runs
from vlm_probe.trace import Trace


def _bytes_needed(model: Runs, inputs: ModelInputs, names: list[str]) -> dict[str, int]:
    """Size of every activation a capture would keep, from the model's configuration."""
    text = model.text_config
    item = torch.finfo(model.dtype).bits // 8
    images = 0 if inputs.pixel_values is None else len(inputs.pixel_values)
    grid = model.inputs.patches
    seen = [model.config_of(part) for part, layers in model.layers.items() if part != "language" and layers]
    sizes = {}
    for name in names:
        kept = tokens = entering = 0
        part, language = part_of(name), name.startswith("language.")
        if inputs.pixel_values is not None and grid is not None:
            kept = grid.tokens(inputs.pixel_values)
            tokens = grid.encoded(inputs.pixel_values, "vision" if part == "connector" or language else part)
            entering = (kept - grid.kept) * grid.pooled**2 + grid.kept
        config: Any = seen[0] if part == "connector" else model.config_of(part)
        inner = getattr(config, "intermediate_size", None) or int(config.hidden_size * getattr(config, "mlp_ratio", 4))
        length = inputs.input_ids.shape[1] if language else tokens
        axis = {
            "batch": len(inputs) if language else images,
            "position": length,
            "query": length,
            "key": length,
            "head": config.num_attention_heads,
            "d_head": getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
            "d_model": text.hidden_size,
            "d_vision": sum(one.hidden_size for one in seen) if part == "connector" else config.hidden_size,
            "d_hidden": model.connector_width,
            "d_mlp": inner,
            "patch": entering if name.endswith("hook_in") else kept,
            "vocabulary": text.vocab_size,
            "one": 1,
        }
        sizes[name] = item * int(np.prod([axis[d] for d in dimensions(name)]))
    return sizes


def free_memory(device: torch.device) -> int:
    """Bytes free on a device: GPU memory, or the memory the operating system could still give."""
    if device.type == "cuda":
        reusable = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + reusable
    return psutil.virtual_memory().available


def check_fits(model: Runs, inputs: ModelInputs, names: list[str]) -> None:
    """Raise VlmProbeError, before anything is run, where a capture would not fit into memory."""
    sizes = _bytes_needed(model, inputs, names)
    # A trace also keeps the logits.
    logits = _bytes_needed(model, inputs, ["language.hook_logits"])["language.hook_logits"]
    need, free = sum(sizes.values()) + logits, free_memory(model.device)
    if need <= 0.9 * free:
        return
    fits, used = 0, logits
    for size in sorted(sizes.values()):
        used += size
        if used > 0.9 * free:
            break
        fits += 1
    largest = max(sizes, key=lambda n: sizes[n])
    raise VlmProbeError(
        f"capturing {len(names)} activations needs {need / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free on "
        f"{model.device}; the {fits} smallest of them would fit. The largest is {largest} "
        f"({sizes[largest] / 2**30:.2f} GiB): capture fewer layers"
    )


@torch.no_grad()
def capture(model: Runs, inputs: ModelInputs, names: list[str]) -> Trace:
    """Run a batch of one and keep the named activations; see `HookedVLM.trace`."""
    layout = inputs.layout
    check_fits(model, inputs, names)
    output, cache = model.run_with_cache(inputs, names_filter=names)
    check_numbers(model, output.logits[0, layout.answer_position])
    images = inputs.images[0] if inputs.images else []
    digests = [image_digest(image) for image in images]
    prompt = inputs.prompts[0] if inputs.prompts else None
    provenance = {**model.provenance(), **writable({"prompt": prompt, "images": digests})}
    return Trace(
        cache,
        layout,
        output.logits[0].detach(),
        provenance,
        depth=model.layers,
        vision_layers_read=model.vision_layers_read,
        images=images,
        image_scale=model.image_scale,
    )
