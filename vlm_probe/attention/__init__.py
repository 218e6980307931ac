"""What the model attends to: maps and head summaries, sinks, rollout, relevancy, and whether they hit."""

from vlm_probe.attention.answer_maps import (
    BASELINES,
    MAPS,
    attention_map,
    centre_prior,
    encoder_map,
    knockout_map,
    rollout_map,
)
from vlm_probe.attention.blanking import blanking, deletion_insertion
from vlm_probe.attention.faithfulness import faithfulness
from vlm_probe.attention.localization import points_at_box, share_in_box, union_coverage
from vlm_probe.attention.maps import encoder_attention, encoder_distance, head_summary, image_attention
from vlm_probe.attention.massive import massive_activations
from vlm_probe.attention.per_token import per_token
from vlm_probe.attention.relevancy import relevancy, token_relevancy
from vlm_probe.attention.rollout import rollout
from vlm_probe.attention.sinks import find_sinks, sink_positions, sinks

__all__ = [
    "BASELINES",
    "MAPS",
    "attention_map",
    "blanking",
    "centre_prior",
    "deletion_insertion",
    "encoder_attention",
    "encoder_distance",
    "encoder_map",
    "faithfulness",
    "find_sinks",
    "head_summary",
    "image_attention",
    "knockout_map",
    "massive_activations",
    "per_token",
    "points_at_box",
    "relevancy",
    "rollout",
    "rollout_map",
    "share_in_box",
    "sink_positions",
    "sinks",
    "token_relevancy",
    "union_coverage",
]
