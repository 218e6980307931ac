"""Budgets: published parameter counts exactly, parts by hand, and nothing is allocated."""

import pytest
import torch
from tiny import tiny_llava
from transformers import CLIPVisionConfig, Gemma3TextConfig, GemmaConfig, LlamaConfig, LlavaConfig, PhiConfig

from vlm_probe.errors import VlmProbeError
from vlm_probe.vocabulary import budget

GEMMA_2B = GemmaConfig(
    vocab_size=256_000,
    hidden_size=2048,
    num_hidden_layers=18,
    intermediate_size=16_384,
    num_attention_heads=8,
    num_key_value_heads=1,
    head_dim=256,
)
GEMMA_7B = GemmaConfig(
    vocab_size=256_000,
    hidden_size=3072,
    num_hidden_layers=28,
    intermediate_size=24_576,
    num_attention_heads=16,
    num_key_value_heads=16,
    head_dim=256,
)
LLAMA_2_7B = LlamaConfig(vocab_size=32_000, hidden_size=4096, num_hidden_layers=32, intermediate_size=11_008)
PHI_2 = PhiConfig(
    vocab_size=51_200,
    hidden_size=2560,
    num_hidden_layers=32,
    intermediate_size=10_240,
    num_attention_heads=32,
    partial_rotary_factor=0.4,  # pyright: ignore[reportCallIssue]
)
GEMMA3_270M = Gemma3TextConfig(
    vocab_size=262_144,
    hidden_size=640,
    num_hidden_layers=18,
    intermediate_size=2048,
    num_attention_heads=4,
    num_key_value_heads=1,
    head_dim=256,
)


@pytest.mark.parametrize(
    ("config", "published"),
    [
        (GEMMA_2B, 2_506_172_416),
        (GEMMA_7B, 8_537_680_896),
        (LLAMA_2_7B, 6_738_415_616),
        (PHI_2, 2_779_683_840),
        (GEMMA3_270M, 268_098_176),
    ],
    ids=["gemma-2b", "gemma-7b", "llama-2-7b", "phi-2", "gemma-3-270m"],
)
def test_published_parameter_counts(config, published):
    table = budget(config)
    assert table["parameters"].sum() == table.attrs["parameters"] == published


def test_a_gemma_by_hand():
    rows = budget(GEMMA_2B, context=100).set_index("part")
    d, v, layers = 2048, 256_000, 18
    assert rows.loc["embedding", "parameters"] == v * d
    assert rows.loc["unembedding", "parameters"] == 0  # tied
    assert rows.loc["unembedding", "flops_per_token"] == 2 * v * d
    assert rows.loc["embedding", "flops_per_token"] == 0
    assert rows.loc["mlp", "parameters"] == layers * 3 * d * 16_384
    projections = layers * (d * 8 * 256 * 2 + d * 256 * 2)
    assert rows.loc["attention", "parameters"] == projections
    assert rows.loc["attention", "flops_per_token"] == 2 * projections + 4 * 8 * 256 * 100 * layers
    assert rows.loc["attention", "kv_bytes_per_token"] == 2 * 256 * layers * 2
    assert rows.loc["norm", "parameters"] == (2 * layers + 1) * d
    assert rows.loc["unembedding", "activation_bytes_per_token"] == 2 * v


def test_untied_models_have_two_matrices():
    rows = budget(LLAMA_2_7B).set_index("part")
    assert rows.loc["embedding", "parameters"] == rows.loc["unembedding", "parameters"] == 32_000 * 4096


@pytest.mark.parametrize("tower", ["clip", "dinov2", "registers"])
@pytest.mark.parametrize("language", ["gemma", "gemma2", "gemma3", "llama"])
def test_parts_add_up_to_the_model(tower, language):
    model = tiny_llava(tower, language)
    table = budget(model.config)
    assert table["parameters"].to_numpy().sum() == sum(p.numel() for p in model.parameters())
    assert set(table["part"]) >= {"encoder", "connector", "embedding", "attention", "mlp", "norm", "unembedding"}


def test_a_vlm_of_real_size_takes_no_memory():
    sight = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
    )
    rows = budget(LlavaConfig(vision_config=sight, text_config=GEMMA_2B)).set_index("part")
    assert rows.loc["connector", "parameters"] == (1024 + 1) * 2048 + (2048 + 1) * 2048
    assert rows.loc["connector", "flops_per_image"] == 576 * 2 * (1024 * 2048 + 2048 * 2048)
    assert rows.loc["encoder", "flops_per_image"] > 576 * 2 * rows.loc["encoder", "parameters"] * 0.9
    assert rows["weight_bytes"].to_numpy().sum() == 2 * rows["parameters"].to_numpy().sum()


def test_the_share_of_the_vocabulary():
    rows = budget(GEMMA3_270M).set_index("part")
    assert rows.loc["embedding", "parameters"] / rows["parameters"].sum() == pytest.approx(0.626, abs=0.001)


def test_what_is_no_language_model():
    with pytest.raises(VlmProbeError, match="^no causal or vision-language model of type 'clip_vision_model'$"):
        budget(CLIPVisionConfig())
    assert torch.get_default_device().type == "cpu"
