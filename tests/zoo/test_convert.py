"""Conversions: an ONNX file written here gives back the model it was made of; the fetched models speak and see."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from transformers import AutoImageProcessor, Dinov2Config, Dinov2Model

import vlm_probe
from vlm_probe.errors import VlmProbeError
from vlm_probe.zoo.catalog import cache_folder, is_fetched
from vlm_probe.zoo.convert import convert_onnx

WIDTH, LAYERS, SIDE, PATCH = 128, 3, 5, 7


@pytest.fixture
def tiny_dino():
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=WIDTH // 64,
        mlp_ratio=2,
        patch_size=PATCH,
        image_size=SIDE * PATCH,
    )
    model = Dinov2Model(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def write_onnx(model, path, *, without: str = "") -> None:
    """The initialisers as the exporter leaves them: linear weights transposed and named by their nodes."""
    model.save_pretrained(path.parent / "old")  # under transformers 4's names
    from safetensors.numpy import load_file

    weights = load_file(path.parent / "old" / "model.safetensors")
    initializers, nodes = [], []
    for number, (name, value) in enumerate(weights.items()):
        if name == "embeddings.position_embeddings":
            parts = {"onnx::Concat_1": value[:, :1], "onnx::Reshape_2": value[:, 1:]}
            initializers += [numpy_helper.from_array(v, n) for n, v in parts.items() if n != without]
        elif name.endswith(".weight") and value.ndim == 2:
            key = f"onnx::MatMul_{number}"
            initializers.append(numpy_helper.from_array(np.ascontiguousarray(value.T), key))
            node = "/backbone/" + name.removesuffix(".weight").replace(".", "/").replace("/layer/", "/layer.")
            nodes.append(helper.make_node("MatMul", ["x", key], [f"y{number}"], name=f"{node}/MatMul"))
        elif name != "embeddings.mask_token":
            initializers.append(numpy_helper.from_array(value, f"backbone.{name}"))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, WIDTH])
    y = helper.make_tensor_value_info("y1", TensorProto.FLOAT, [1, WIDTH])
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", [x], [y], initializers)), str(path))


def test_an_encoder_comes_back_from_its_onnx_file(tiny_dino, tmp_path):
    write_onnx(tiny_dino, tmp_path / "whole.onnx")
    out = tmp_path / "out"
    out.mkdir()
    convert_onnx(tmp_path / "whole.onnx", out)
    rebuilt = Dinov2Model.from_pretrained(out).eval()
    pixels = torch.randn(2, 3, SIDE * PATCH, SIDE * PATCH)
    with torch.no_grad():
        expected, found = tiny_dino(pixels).last_hidden_state, rebuilt(pixels).last_hidden_state
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    assert AutoImageProcessor.from_pretrained(out).crop_size["height"] == 224


def test_an_onnx_file_without_position_embeddings(tiny_dino, tmp_path):
    write_onnx(tiny_dino, tmp_path / "whole.onnx", without="onnx::Concat_1")
    with pytest.raises(VlmProbeError, match=r"^whole.onnx holds 0 and 1 position embeddings, expected one of each$"):
        convert_onnx(tmp_path / "whole.onnx", tmp_path)


@pytest.mark.parametrize(
    ("name", "tokens", "word"), [("gemma3-270m", 262_144, "capital"), ("smollm2-135m", 49_152, "Paris")]
)
def test_a_fetched_language_model_continues_english(name, tokens, word):
    if not is_fetched(name):
        pytest.skip(f"no {name} in {cache_folder()}; get it with: vlm-probe fetch {name}")
    model = vlm_probe.load(name)
    assert model.text_config.vocab_size == tokens
    assert word in model.answer(None, "The capital of France is", max_new_tokens=8)


def test_the_fetched_encoder_looks_at_pictures():
    if not is_fetched("dinov2-small"):
        pytest.skip(f"no dinov2-small in {cache_folder()}; get it with: vlm-probe fetch dinov2-small")
    model = Dinov2Model.from_pretrained(cache_folder() / "dinov2-small").eval()
    assert (model.config.hidden_size, model.config.num_hidden_layers, model.config.patch_size) == (384, 12, 14)
    with torch.no_grad():
        out = model(torch.zeros(1, 3, 224, 224)).last_hidden_state
    assert out.shape == (1, 257, 384)
    assert out.isfinite().all()
