"""Questions with known answers, wherever they come from, and how answers are scored."""

from vlm_probe.items.datasets import open_dataset
from vlm_probe.items.item import Item, export_items, item_table
from vlm_probe.items.logs import read_lmms_samples
from vlm_probe.items.metrics import group_accuracy, vqa_accuracy, yes_no_metrics
from vlm_probe.items.normalize import normalize_answer, plain_answer, yes_or_no
from vlm_probe.items.readers import read_items, suffix_of
from vlm_probe.items.scores import accuracy_table, metric_table, score_answer
from vlm_probe.items.twins import twins_among

__all__ = [
    "Item",
    "accuracy_table",
    "export_items",
    "group_accuracy",
    "item_table",
    "metric_table",
    "normalize_answer",
    "open_dataset",
    "plain_answer",
    "read_items",
    "read_lmms_samples",
    "score_answer",
    "suffix_of",
    "twins_among",
    "vqa_accuracy",
    "yes_no_metrics",
    "yes_or_no",
]
