"""How far the layers of a language model look back."""

from __future__ import annotations

from typing import Any


def window_of(text: Any, layer: int) -> int | None:
    """How many positions a layer's queries see, their own included, by a text configuration; None for all before them.

    Gemma 2, 3 and Qwen2 say by layer which ones slide; Mistral's all do where it names a window.
    """
    kinds = getattr(text, "layer_types", None)
    slides = True if kinds is None else kinds[layer] == "sliding_attention"
    return getattr(text, "sliding_window", None) if slides else None
