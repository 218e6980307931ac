"""What the model attends to: maps and head summaries, sinks, rollout, relevancy, and whether they hit."""

from vlm_probe.attention.blanking import blanking
from vlm_probe.attention.localization import points_at_box, share_in_box, union_coverage
from vlm_probe.attention.maps import encoder_attention, encoder_distance, head_summary, image_attention
from vlm_probe.attention.massive import massive_activations
from vlm_probe.attention.relevancy import relevancy, token_relevancy
from vlm_probe.attention.rollout import rollout
from vlm_probe.attention.sinks import find_sinks, sink_positions, sinks

__all__ = [
    "blanking",
    "encoder_attention",
    "encoder_distance",
    "find_sinks",
    "head_summary",
    "image_attention",
    "massive_activations",
    "points_at_box",
    "relevancy",
    "rollout",
    "share_in_box",
    "sink_positions",
    "sinks",
    "token_relevancy",
    "union_coverage",
]
