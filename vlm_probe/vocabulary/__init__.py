"""Vocabulary-size analysis: what a large vocabulary costs, what it holds, and whether a smaller one would do."""

from vlm_probe.lens.logit_lens import Lens, lens, stream_lens
from vlm_probe.lens.tuned_lens import TunedLens, train_tuned_lens
from vlm_probe.vocabulary.budget import budget
from vlm_probe.vocabulary.geometry import geometry, known_unused, repeats, undertrained, vocabulary_geometry
from vlm_probe.vocabulary.leakage import answer_and_image_rows, leakage, log_probabilities, summarize_leakage
from vlm_probe.vocabulary.shrinking import apart, shrink, shrunk_answers, training_items
from vlm_probe.vocabulary.trim import always_kept, needed_ids, save, trim
from vlm_probe.vocabulary.usage import (
    categories,
    compare_usage,
    expected_growth,
    growth,
    heaps,
    read_texts,
    scene_texts,
    usage,
    used_ids,
    words_in,
    zipf,
)

__all__ = [
    "Lens",
    "TunedLens",
    "always_kept",
    "answer_and_image_rows",
    "apart",
    "budget",
    "categories",
    "compare_usage",
    "expected_growth",
    "geometry",
    "growth",
    "heaps",
    "known_unused",
    "leakage",
    "lens",
    "log_probabilities",
    "needed_ids",
    "read_texts",
    "repeats",
    "save",
    "scene_texts",
    "shrink",
    "shrunk_answers",
    "stream_lens",
    "summarize_leakage",
    "train_tuned_lens",
    "training_items",
    "trim",
    "undertrained",
    "usage",
    "used_ids",
    "vocabulary_geometry",
    "words_in",
    "zipf",
]
