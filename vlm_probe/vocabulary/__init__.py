"""Vocabulary-size analysis: what a large vocabulary costs, what it holds, and whether a smaller one would do."""

from vlm_probe.vocabulary.budget import budget
from vlm_probe.vocabulary.lens import Lens, lens, stream_lens
from vlm_probe.vocabulary.usage import (
    categories,
    compare_usage,
    growth,
    heaps,
    read_texts,
    scene_texts,
    usage,
    used_ids,
    zipf,
)

__all__ = [
    "Lens",
    "budget",
    "categories",
    "compare_usage",
    "growth",
    "heaps",
    "lens",
    "read_texts",
    "scene_texts",
    "stream_lens",
    "usage",
    "used_ids",
    "zipf",
]
