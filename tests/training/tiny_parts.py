"""A tiny Gemma 3 and a tiny DINOv2 in the cache of fetched models, as if they had been fetched."""

from pathlib import Path

import pytest
import torch
from tiny import LANGUAGES
from transformers import AutoModelForCausalLM, BitImageProcessor, Dinov2Config, Dinov2Model

from vlm_probe.training import connector as recipe
from vlm_probe.training.packing import build_tokenizer
from vlm_probe.zoo.catalog import SOURCES, Fusion, Source

SIDE = 4
PLACEHOLDER = "<image>"


def fusion(adapters: bool) -> Fusion:
    return Fusion("llava-tiny" + "-lora" * adapters, "tiny-words", "tiny-eyes", PLACEHOLDER, adapters)


def put_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cache"
    tokenizer = build_tokenizer(320)
    config = LANGUAGES["gemma3"]()
    config.vocab_size, config.sliding_window = len(tokenizer), 512
    torch.manual_seed(1)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / "tiny-words")
    tokenizer.save_pretrained(folder / "tiny-words")
    patch = recipe.IMAGE_SIZE // SIDE
    sight = Dinov2Config(
        hidden_size=39, num_hidden_layers=3, num_attention_heads=3, mlp_ratio=2, patch_size=patch, image_size=7 * patch
    )
    Dinov2Model(sight).save_pretrained(folder / "tiny-eyes")
    processor = BitImageProcessor(image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.25, 0.3])
    processor.save_pretrained(folder / "tiny-eyes")
    for name in ("tiny-words", "tiny-eyes"):
        monkeypatch.setitem(SOURCES, name, Source(name, "a toy", (), "", "none", "free", f"nobody/{name}"))
    monkeypatch.setenv("VLM_PROBE_CACHE", str(folder))
