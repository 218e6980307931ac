"""What a model must offer to be run: `HookedVLM` does, and so may anything else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from PIL import Image
from torch import Tensor

from vlm_probe.inputs.model_inputs import ModelInputs
from vlm_probe.inputs.preparing import Preparer
from vlm_probe.items import Item

NamesFilter = str | Iterable[str] | Callable[[str], bool] | None
"""A hook name, globs, or a predicate; None for all."""


@runtime_checkable
class Runs(Protocol):
    """A model that can be run, asked and looked into; see `HookedVLM` for what each member means."""

    name: str
    revision: str | None
    text_config: Any
    vision_config: Any
    inputs: Preparer
    """Makes its inputs, on the CPU."""

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def embed_scale(self) -> str: ...

    @property
    def image_scale(self) -> float: ...

    @property
    def vision_layers_read(self) -> int: ...

    @property
    def layers(self) -> dict[str, int]: ...

    @property
    def connector_width(self) -> int: ...

    def config_of(self, name: str) -> Any: ...

    @property
    def hook_dict(self) -> Mapping[str, Any]: ...

    @property
    def answer_ends(self) -> set[int]: ...

    @property
    def suppressed_tokens(self) -> list[int]: ...

    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...

    def prepare(self, image: Any, question: str | list[str]) -> ModelInputs: ...

    def picture(self, item: Item) -> Image.Image: ...

    def run_with_cache(self, *args: Any, **kwargs: Any) -> tuple[Any, dict[str, Tensor]]: ...

    def provenance(self) -> dict[str, Any]: ...

    def weights_digest(self) -> str: ...
