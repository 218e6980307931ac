"""Figures: small functions over named arrays and tables, which estimate nothing and never see a model.

They return the axes they drew on; those of many panels an array of axes. `primitives` holds what they are made of, and
`given` what they say of an argument that is no table, array or picture. A new figure is one function over them, in the
file of what it draws, under `@checked`, and a line here.
"""

from vlm_probe.figures.effects import effect_over_seeds, interactions, published_effect
from vlm_probe.figures.embedding import (
    likeness,
    probe_along_encoder,
    probes_with_controls,
    projection,
    similarity_heatmap,
    twin_likeness,
)
from vlm_probe.figures.factors import effects_by_factor, effects_followed
from vlm_probe.figures.faithfulness import maps_beyond_random, right_map_right_answer
from vlm_probe.figures.grids import case_panels, head_grid, layer_strip
from vlm_probe.figures.layers import (
    box_share_by_layer,
    dimension_by_stage,
    effect_by_layer,
    gap_by_layer,
    image_mass_by_layer,
    leakage_by_layer,
    probe_by_layer,
)
from vlm_probe.figures.learning import learning_curves
from vlm_probe.figures.maps import overlay, signed_overlay
from vlm_probe.figures.measures import measures_by_model
from vlm_probe.figures.patches import label_map, words_on_image
from vlm_probe.figures.routes import changes_by_window
from vlm_probe.figures.scores import accuracy_by_type, difference_by_family, pointing_game, scores_by_seed
from vlm_probe.figures.style import save, styled
from vlm_probe.figures.tokens import token_strip
from vlm_probe.figures.vocabulary import (
    budget_bars,
    change_over_seeds,
    indicator_curves,
    shrinking,
    vocabulary_growth,
)

__all__ = [
    "accuracy_by_type",
    "box_share_by_layer",
    "budget_bars",
    "case_panels",
    "change_over_seeds",
    "changes_by_window",
    "difference_by_family",
    "dimension_by_stage",
    "effect_by_layer",
    "effect_over_seeds",
    "effects_by_factor",
    "effects_followed",
    "gap_by_layer",
    "head_grid",
    "image_mass_by_layer",
    "indicator_curves",
    "interactions",
    "label_map",
    "layer_strip",
    "leakage_by_layer",
    "learning_curves",
    "likeness",
    "maps_beyond_random",
    "measures_by_model",
    "overlay",
    "pointing_game",
    "probe_along_encoder",
    "probe_by_layer",
    "probes_with_controls",
    "projection",
    "published_effect",
    "right_map_right_answer",
    "save",
    "scores_by_seed",
    "shrinking",
    "signed_overlay",
    "similarity_heatmap",
    "styled",
    "token_strip",
    "twin_likeness",
    "vocabulary_growth",
    "words_on_image",
]
