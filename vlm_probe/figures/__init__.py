"""Plotting functions: small, over named arrays and tables; they never see a model."""

from vlm_probe.figures.comparison import difference_by_family, effect_over_seeds, scores_by_seed
from vlm_probe.figures.embedding import (
    dimension_by_stage,
    gap_by_layer,
    probe_by_layer,
    projection,
    similarity_heatmap,
)
from vlm_probe.figures.maps import case_panels, head_grid, layer_strip, overlay
from vlm_probe.figures.measures import accuracy_by_type, box_share_by_layer, image_mass_by_layer, pointing_game
from vlm_probe.figures.patches import label_map, signed_overlay, words_on_image
from vlm_probe.figures.published import published_effect
from vlm_probe.figures.style import save, styled
from vlm_probe.figures.vocabulary import budget_bars, leakage_by_layer, shrinking, vocabulary_growth

__all__ = [
    "accuracy_by_type",
    "box_share_by_layer",
    "budget_bars",
    "case_panels",
    "difference_by_family",
    "dimension_by_stage",
    "effect_over_seeds",
    "gap_by_layer",
    "head_grid",
    "image_mass_by_layer",
    "label_map",
    "layer_strip",
    "leakage_by_layer",
    "overlay",
    "pointing_game",
    "probe_by_layer",
    "projection",
    "published_effect",
    "save",
    "scores_by_seed",
    "shrinking",
    "signed_overlay",
    "similarity_heatmap",
    "styled",
    "vocabulary_growth",
    "words_on_image",
]
