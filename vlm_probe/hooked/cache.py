"""What a run leaves behind, by name or by TransformerLens' shorthand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.utilities.components_utils import get_act_name

from vlm_probe.errors import VlmProbeError, nearest
from vlm_probe.names import PARTS


class UnknownName(VlmProbeError, KeyError):
    """No such name; also a KeyError, which is what a mapping raises."""

    # KeyError would show the message in quotation marks.
    __str__ = Exception.__str__


class Named(dict[str, Any]):
    """A dict whose error for an unknown name lists the nearest."""

    def __init__(self, values: Mapping[str, Any], kind: str, whole: str):
        super().__init__(values)
        self.kind, self.whole = kind, whole

    def unknown(self, name: object) -> UnknownName:
        """The error for a name that is not here."""
        return UnknownName(f"no {self.kind} {name!r}; nearest are {nearest(str(name), self)} (all: {self.whole})")

    def __missing__(self, name: object) -> Any:
        raise self.unknown(name)


class ActivationCache(dict[Any, Tensor]):
    """Activations by hook name, a dict; read also by TransformerLens' shorthand, and offering its plain methods.

    `cache["pattern", 2]` is `cache["language.blocks.2.attn.hook_pattern"]`: without a prefix a shorthand, or a name as
    TransformerLens writes it ("blocks.2.attn.hook_pattern"), means the language model, which is what
    TransformerLens opens. The encoder's is `cache["vision.pattern", 2]`: the prefix goes where it stands in every
    name, and the third place of a key keeps its meaning (`cache["pre", 2, "mlp"]`). Layers count from the end too.

    What TransformerLens' cache computes with weights (decompose_resid, logit_attrs, ...) is not offered: it wants them
    folded and centred, and these are the checkpoint's own.

    values: activations by name.
    layers: how many layers each part has, for negative ones and `stack_activation`.
    has_batch_dim: False where the batch dimension has been removed already.
    """

    def __init__(
        self,
        values: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]] = (),
        layers: Mapping[str, int] | None = None,
        *,
        has_batch_dim: bool = True,
    ):
        super().__init__(values)
        self.layers = dict(layers or {})
        self.has_batch_dim = has_batch_dim

    def _name(self, key: object) -> str | None:
        """The full name that a shorthand means, whether or not it is here; None for what is no shorthand."""
        short, *rest = (key if isinstance(key, tuple) else (key,)) or (None,)
        if not isinstance(short, str) or len(rest) > 2:
            return None
        part, _, own = short.partition(".")
        if part not in PARTS:
            part, own = "language", short
        if part == "connector":
            # TransformerLens would look for "pre" and "post" in an MLP.
            return f"connector.hook_{own.removeprefix('hook_')}"
        layer, kind = [*rest, None, None][:2]
        if isinstance(layer, int) and layer < 0:
            layer += self.layers.get(part, 0)
        return f"{part}.{get_act_name(own, layer, kind)}"

    def __missing__(self, key: Any) -> Tensor:
        name = self._name(key)
        if name is not None and dict.__contains__(self, name):
            return self[name]
        meant = "" if name is None or name == key else f", which is {name!r},"
        held = f"nearest are {nearest(name or str(key), self)} (all: cache.keys())" if self else "it is empty"
        raise UnknownName(f"no activation {key!r}{meant} in this cache; {held}")

    def __contains__(self, key: object) -> bool:
        return super().__contains__(key) or super().__contains__(self._name(key))

    def get(self, key: Any, default: Any = None) -> Any:
        """The activation of a name or shorthand, or `default`."""
        return super().get(key if super().__contains__(key) else self._name(key), default)

    @property
    def cache_dict(self) -> dict[str, Tensor]:
        """Itself: under this name TransformerLens keeps the dict."""
        return self

    def to(self, device: torch.device | str) -> ActivationCache:
        """Move every activation to a device, in place; returns itself."""
        for name, value in self.items():
            self[name] = value.to(device)
        return self

    def remove_batch_dim(self) -> ActivationCache:
        """Drop the first dimension of every activation, in place; returns itself. A second time does nothing.

        Raises VlmProbeError where a batch is not one (of images: for points of the encoder and the connector).
        """
        if self.has_batch_dim:
            dropped = {name: without_batch(name, value) for name, value in self.items()}
            self.update(dropped)
            self.has_batch_dim = False
        return self

    def stack_activation(
        self, activation_name: str, layer: int | None = -1, sublayer_type: str | None = None
    ) -> Float[Tensor, "layer ..."]:
        """One activation of all layers before `layer` (-1 and None: of all), stacked: `stack_activation("resid_post")`.

        The encoder's with its prefix ("vision.resid_post"). Raises VlmProbeError for a layer that is not in the cache,
        and unless there are so many.
        """
        part = activation_name.split(".")[0]
        n = self.layers.get(part if part in PARTS else "language", 0)
        last = n if layer is None or layer == -1 else layer
        if not 1 <= last <= n:
            raise VlmProbeError(f"cannot stack {activation_name!r} of the layers before {layer}: there are {n}")
        return torch.stack([self[activation_name, i, sublayer_type] for i in range(last)])

    def __repr__(self) -> str:
        parts = Counter(name.split(".")[0] for name in self)
        held = ", ".join(f"{n} of {part}" for part, n in parts.items())
        size = sum(value.numel() * value.element_size() for value in self.values()) / 2**20
        devices = ", ".join(sorted({str(value.device) for value in self.values()}))
        return (
            f"ActivationCache({len(self)} activations: {held}; {size:.1f} MiB on {devices})"
            if self
            else ("ActivationCache(empty)")
        )


def without_batch(name: str, x: Tensor) -> Tensor:
    """An activation of a batch of one without its first dimension; VlmProbeError where the batch is another."""
    if len(x) != 1:
        what = "examples" if name.startswith("language.") else "images"
        raise VlmProbeError(
            f"remove_batch_dim needs a batch of one, and {name} has one of {len(x)} {what}: run them one at a time, or "
            "keep the dimension"
        )
    return x[0]
