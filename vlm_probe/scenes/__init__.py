"""Generated scenes with questions, answers and boxes: where the truth is known."""

from vlm_probe.scenes.benchmarks import read_items
from vlm_probe.scenes.families import FAMILIES, family_items
from vlm_probe.scenes.items import Item, export_items, item_table
from vlm_probe.scenes.logged import read_lmms_samples
from vlm_probe.scenes.metrics import group_accuracy, metric_table, vqa_accuracy, yes_no_metrics
from vlm_probe.scenes.normalize import normalize_answer, yes_or_no
from vlm_probe.scenes.questions import QUESTION_TYPES, Question, SceneItem, ask, scene_items
from vlm_probe.scenes.render import pixel_box, render, scene_image
from vlm_probe.scenes.score import accuracy_table, answer_items, score_answer
from vlm_probe.scenes.world import (
    COLORS,
    NOVEL_KINDS,
    SHAPES,
    Scene,
    SceneObject,
    edit_scene,
    is_held_out,
    sample_scene,
)

__all__ = [
    "COLORS",
    "FAMILIES",
    "NOVEL_KINDS",
    "QUESTION_TYPES",
    "SHAPES",
    "Item",
    "Question",
    "Scene",
    "SceneItem",
    "SceneObject",
    "accuracy_table",
    "answer_items",
    "ask",
    "edit_scene",
    "export_items",
    "family_items",
    "group_accuracy",
    "is_held_out",
    "item_table",
    "metric_table",
    "normalize_answer",
    "pixel_box",
    "read_items",
    "read_lmms_samples",
    "render",
    "sample_scene",
    "scene_image",
    "scene_items",
    "score_answer",
    "vqa_accuracy",
    "yes_no_metrics",
    "yes_or_no",
]
