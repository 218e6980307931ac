"""Generated scenes with questions, answers and boxes: where the truth is known."""

# What items are and how they are scored lives in `vlm_probe.items`; the names stay here too, where users found them.
from vlm_probe.items import (
    Item,
    accuracy_table,
    export_items,
    group_accuracy,
    item_table,
    metric_table,
    normalize_answer,
    read_items,
    read_lmms_samples,
    score_answer,
    vqa_accuracy,
    yes_no_metrics,
    yes_or_no,
)
from vlm_probe.scenes.families import FAMILIES, family_items
from vlm_probe.scenes.items import asks_novel, scene_items, with_baselines
from vlm_probe.scenes.questions import QUESTION_TYPES, SAMPLERS, TWO_STEPS, Question, ask
from vlm_probe.scenes.world import (
    COLORS,
    NOVEL_KINDS,
    SHAPES,
    Scene,
    SceneObject,
    edit_scene,
    is_held_out,
    render,
    sample_scene,
    scene_image,
)
from vlm_probe.scenes.worlds import SHIPPED, World, study_world, world_of

__all__ = [
    "COLORS",
    "FAMILIES",
    "NOVEL_KINDS",
    "QUESTION_TYPES",
    "SAMPLERS",
    "SHAPES",
    "SHIPPED",
    "TWO_STEPS",
    "Item",
    "Question",
    "Scene",
    "SceneObject",
    "World",
    "accuracy_table",
    "ask",
    "asks_novel",
    "edit_scene",
    "export_items",
    "family_items",
    "group_accuracy",
    "is_held_out",
    "item_table",
    "metric_table",
    "normalize_answer",
    "read_items",
    "read_lmms_samples",
    "render",
    "sample_scene",
    "scene_image",
    "scene_items",
    "score_answer",
    "study_world",
    "vqa_accuracy",
    "with_baselines",
    "world_of",
    "yes_no_metrics",
    "yes_or_no",
]
