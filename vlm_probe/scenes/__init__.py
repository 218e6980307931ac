"""Generated scenes with questions, answers and boxes: where the truth is known."""

from vlm_probe.scenes.questions import QUESTION_TYPES, Question, SceneItem, ask, scene_items
from vlm_probe.scenes.render import pixel_box, render, scene_image
from vlm_probe.scenes.score import accuracy_table, answer_items, normalize_answer
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
    "NOVEL_KINDS",
    "QUESTION_TYPES",
    "SHAPES",
    "Question",
    "Scene",
    "SceneItem",
    "SceneObject",
    "accuracy_table",
    "answer_items",
    "ask",
    "edit_scene",
    "is_held_out",
    "normalize_answer",
    "pixel_box",
    "render",
    "sample_scene",
    "scene_image",
    "scene_items",
]
