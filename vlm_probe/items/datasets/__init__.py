"""Datasets of any size, for capturing: items that are read when they are asked for; one module a format."""

from vlm_probe.items.datasets.dataset import DEFAULT_QUESTION, Dataset, First, Items
from vlm_probe.items.datasets.opening import FORMATS, open_dataset
from vlm_probe.items.datasets.reading import Span
from vlm_probe.items.datasets.tables import Cell

__all__ = ["DEFAULT_QUESTION", "FORMATS", "Cell", "Dataset", "First", "Items", "Span", "open_dataset"]
