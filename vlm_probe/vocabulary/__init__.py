"""Vocabulary-size analysis: what a large vocabulary costs, what it holds, and whether a smaller one would do."""

from vlm_probe.lens.logit_lens import Lens, lens, stream_lens
from vlm_probe.lens.tuned_lens import TunedLens, train_tuned_lens
from vlm_probe.vocabulary.budget import budget
from vlm_probe.vocabulary.geometry import geometry, known_unused, repeats, undertrained, vocabulary_geometry
from vlm_probe.vocabulary.leakage import leakage, summarize_leakage
from vlm_probe.vocabulary.trim import always_kept, needed_ids, save, shrink, trim
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
    "TunedLens",
    "always_kept",
    "budget",
    "categories",
    "compare_usage",
    "geometry",
    "growth",
    "heaps",
    "known_unused",
    "leakage",
    "lens",
    "needed_ids",
    "read_texts",
    "repeats",
    "save",
    "scene_texts",
    "shrink",
    "stream_lens",
    "summarize_leakage",
    "train_tuned_lens",
    "trim",
    "undertrained",
    "usage",
    "used_ids",
    "vocabulary_geometry",
    "zipf",
]
