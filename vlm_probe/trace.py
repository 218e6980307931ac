"""Trace: the activations of one run, with named dimensions, and where they came from; kept in a file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vlm_probe.errors import VlmProbeError, nearest
from vlm_probe.files import make_folder, replacing, writable, writing
from vlm_probe.layout import ImageSpan, TokenLayout
from vlm_probe.layout.transform import ImageTransform
from vlm_probe.names import dimensions

_ABOUT = "vlm_probe.trace"
"""Under which name of a safetensors file's metadata stands what is no tensor, as JSON."""


@dataclass
class Trace:
    """What one example did to a model.

    Tensors keep their batch dimension of one (of the number of images, for vision and connector)
    and are detached.
    """

    activations: dict[str, Tensor]
    """By hook name, in the order they fired."""
    layout: TokenLayout
    logits: Float[Tensor, "position vocabulary"]
    provenance: dict[str, Any]
    depth: dict[str, int]
    """How many layers the model has: of its encoder ("vision", or "vision.0" of several) and its language model
    ("language")."""
    vision_layers_read: int = 0
    """How many of the encoder's layers feed the connector."""
    images: list[Image.Image] = field(default_factory=list)
    """The original images, where they are known."""
    image_scale: float = 1.0
    """Factor on the connector's output before it entered the language model."""

    def __getitem__(self, name: str) -> Tensor:
        """One activation as it was captured; VlmProbeError names what the trace holds."""
        if name not in self.activations:
            held = nearest(name, self.activations) or "nothing"
            raise VlmProbeError(
                f"the trace holds no {name!r}; it holds {len(self.activations)} activations, nearest are "
                f"{held}. Name it in capture=[...]"
            )
        return self.activations[name]

    def __contains__(self, name: str) -> bool:
        return name in self.activations

    def _ipython_key_completions_(self) -> list[str]:
        """What a tab behind `trace["` offers."""
        return list(self.activations)

    def array(self, name: str) -> xr.DataArray:
        """One activation as a float32 DataArray with the dimension names of its hook point."""
        values = self[name].float().cpu().numpy()
        units = "attention probability" if name.endswith("hook_pattern") else "activation"
        attrs = writable({"title": name, "units": units, **self.provenance})
        return xr.DataArray(values, dims=dimensions(name), name=name, attrs=attrs)

    def stack(self, part: str, point: str, *, first: int | None = None) -> Tensor:
        """One point of every layer of a part, [layer, ...]: `stack("language", "attn.hook_pattern")`.

        `first` takes only so many layers from the bottom. Raises VlmProbeError unless all of them were
        captured.
        """
        wanted = range(self.depth[part] if first is None else first)
        missing = sorted(set(wanted) - set(self.layers(part, point)))
        if missing:
            raise VlmProbeError(f"the trace lacks {point} of {part} layers {missing}; capture {part}.blocks.*.{point}")
        return torch.stack([self.activations[f"{part}.blocks.{i}.{point}"] for i in wanted])

    def layers(self, part: str, point: str) -> list[int]:
        """The layers of a part for which a point was captured."""
        prefix, suffix = f"{part}.blocks.", f".{point}"
        found = [n for n in self.activations if n.startswith(prefix) and n.endswith(suffix)]
        return sorted(int(n.removeprefix(prefix).split(".", 1)[0]) for n in found)

    def save(self, path: Path | str) -> None:
        """Write the trace to one file: tensors as they are (safetensors), and all else as JSON in its metadata.

        Images are written as RGB, 8 bits. A file that is there is replaced once the new one is whole.

        Raises VlmProbeError where it cannot be written.
        """
        path = Path(path)
        tensors = {f"activations/{name}": value for name, value in self.activations.items()} | {"logits": self.logits}
        for number, image in enumerate(self.images):
            tensors[f"images/{number}"] = torch.from_numpy(np.array(image.convert("RGB"), dtype=np.uint8))
        about = {
            "names": list(self.activations),
            "layout": asdict(self.layout),
            "provenance": self.provenance,
            "depth": self.depth,
            "vision_layers_read": self.vision_layers_read,
            "image_scale": self.image_scale,
            "images": len(self.images),
        }
        text = json.dumps(about, default=lambda value: value.tolist())  # positions are arrays
        make_folder(path.absolute().parent)
        with writing(path), replacing(path) as partial:
            save_file(_apart(tensors), partial, metadata={_ABOUT: text})

    @classmethod
    def load(cls, path: Path | str) -> Trace:
        """Read what `save` wrote, onto the CPU.

        Raises VlmProbeError for a file that is not there, or is no trace.
        """
        path = Path(path)
        if not path.is_file():
            raise VlmProbeError(f"cannot read {path}: {'it is a folder' if path.is_dir() else 'no such file'}")
        try:
            with safe_open(path, "pt") as file:
                about = json.loads((file.metadata() or {})[_ABOUT])
                return cls(
                    {name: file.get_tensor(f"activations/{name}") for name in about["names"]},
                    _layout(about["layout"]),
                    file.get_tensor("logits"),
                    about["provenance"],
                    about["depth"],
                    about["vision_layers_read"],
                    [Image.fromarray(file.get_tensor(f"images/{i}").numpy()) for i in range(about["images"])],
                    about["image_scale"],
                )
        except (SafetensorError, OSError, LookupError, TypeError, ValueError) as error:
            raise VlmProbeError(f"{path} is no trace: expected a file that Trace.save wrote ({_why(error)})") from error

    def __repr__(self) -> str:
        size = sum(t.numel() * t.element_size() for t in self.activations.values()) / 2**20
        return (
            f"Trace({self.provenance['model']}: {len(self.activations)} activations, {size:.1f} MiB, "
            f"{self.layout.length} positions, {len(self.layout.images)} images)"
        )


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors on the CPU of which no two share memory, which safetensors does not take: of a residual stream, what
    leaves one layer is what enters the next."""
    seen: set[int] = set()
    own = {}
    for name, value in tensors.items():
        value = value.detach().cpu().contiguous()
        memory = value.untyped_storage().data_ptr()
        own[name] = value.clone() if memory in seen else value
        seen.add(memory)
    return own


def _layout(about: dict[str, Any]) -> TokenLayout:
    """A layout from its JSON."""

    def positions(values: list[int]) -> np.ndarray:
        return np.asarray(values, dtype=np.int64)

    spans = []
    for one in about["images"]:
        moved = one["transform"]
        if moved is not None:
            moved = ImageTransform(**{name: tuple(values) for name, values in moved.items()})
        own: dict[str, Any] = {name: positions(one[name]) for name in ("positions", "extra_positions")}
        own |= {"grid": tuple(one["grid"]), "transform": moved, "more_leading": tuple(one.get("more_leading", ()))}
        own["tiles"] = None if one.get("tiles") is None else tuple(one["tiles"])
        spans.append(ImageSpan(**{**one, **own}))
    read = {name: positions(about[name]) for name in ("text_positions", "question_positions")}
    return TokenLayout(**{**about, **read, "images": tuple(spans), "tokens": tuple(about["tokens"])})


def _why(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"it has no {error.args[0]}"
    return str(error).splitlines()[0] if str(error) else type(error).__name__
