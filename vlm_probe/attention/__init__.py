"""What the model attends to: maps and head summaries, rollout, relevancy, and whether they hit."""

from vlm_probe.attention.localization import points_at_box, share_in_box, union_coverage
from vlm_probe.attention.maps import encoder_attention, encoder_distance, head_summary, image_attention, sinks
from vlm_probe.attention.relevancy import relevancy, token_relevancy
from vlm_probe.attention.rollout import rollout

__all__ = [
    "encoder_attention",
    "encoder_distance",
    "head_summary",
    "image_attention",
    "points_at_box",
    "relevancy",
    "rollout",
    "share_in_box",
    "sinks",
    "token_relevancy",
    "union_coverage",
]
