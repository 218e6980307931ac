"""Generated scenes with questions, answers and boxes: where the truth is known."""

from vlm_probe.scenes.questions import QUESTION_TYPES, Question, SceneItem, ask, scene_items
from vlm_probe.scenes.render import pixel_box, render, scene_image
from vlm_probe.scenes.world import COLORS, HELD_OUT, SHAPES, Scene, SceneObject, edit_scene, sample_scene

__all__ = [
    "COLORS",
    "HELD_OUT",
    "QUESTION_TYPES",
    "SHAPES",
    "Question",
    "Scene",
    "SceneItem",
    "SceneObject",
    "ask",
    "edit_scene",
    "pixel_box",
    "render",
    "sample_scene",
    "scene_image",
    "scene_items",
]
