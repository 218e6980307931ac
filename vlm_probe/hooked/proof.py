"""Proof that what was asked for happened: a hooked point that does not fire in a run is an error, never silence.

Something else may compute what a point is fed from (another attention implementation, encoder outputs made elsewhere),
or nothing does (a run without an image). Then a capture would lack it, and an edit or a knockout would do nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint

from vlm_probe.errors import VlmProbeError
from vlm_probe.hooked.attention import IMPLEMENTATION
from vlm_probe.hooked.points import Point, is_hooked

_SEEN_ONCE = ("vision.", "connector.")
"""What an image goes through at the beginning of a prompt, and not again where a run goes on from a cache."""
_IN_ATTENTION = ("hook_rot_q", "hook_rot_k", "hook_attn_scores", "hook_pattern", "hook_z")


class Proof:
    """Looks, after every run of a model, whether every hooked point fired; VlmProbeError names those that did not."""

    def __init__(self, hf: nn.Module, points: Mapping[str, Point]):
        self._points = list(points.items())
        self._seen: set[str] | None = None
        # Not before a run: `generate` encodes the image before it runs the model.
        hf.register_forward_hook(self._after, with_kwargs=True)

    def forget(self) -> None:
        """Forget all that fired."""
        for _, point in self._points:
            if point.fired:  # setting a module's attribute is slow, and an idle model has hundreds of points
                point.fired = False

    @contextmanager
    def of_call(self) -> Iterator[None]:
        """A call that may run the model more than once: what an image goes through need fire in one of its runs."""
        before, self._seen = self._seen, set()
        self.forget()
        try:
            yield
        finally:
            self._seen = before

    def _after(self, module: nn.Module, args: Any, kwargs: dict[str, Any], _output: Any) -> None:
        active = [(name, point) for name, point in self._points if is_hooked(point)]
        if self._seen is not None:
            self._seen |= {name for name, point in active if point.fired and name.startswith(_SEEN_ONCE)}
        silent = [name for name, point in active if not point.fired and name not in (self._seen or ())]
        if silent:
            made = kwargs.get("mm_encoder_outputs") is not None
            pictures = made or kwargs.get("pixel_values") is not None or len(args) > 1
            past = kwargs.get("past_key_values")
            if not pictures and past is not None and past.get_seq_length() > _given(args, kwargs):
                silent = [name for name in silent if not name.startswith(_SEEN_ONCE)]
        self.forget()
        if silent:
            raise VlmProbeError(_message(module, silent, pictures=pictures))


def must_fire(x: Tensor, hook: HookPoint) -> None:
    """A hook that changes nothing: that it is there makes its silence an error."""


def _given(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """Positions that a run was given, without those in its cache."""
    given = next((kwargs[k] for k in ("input_ids", "inputs_embeds") if kwargs.get(k) is not None), None)
    return (args[0] if given is None else given).shape[1]


def _message(hf: Any, silent: list[str], *, pictures: bool) -> str:
    shown = ", ".join(silent[:3]) + (" ..." if len(silent) > 3 else "")
    what = f"{len(silent)} hooked point{'s' * (len(silent) > 1)} did not fire in this run: {shown}"
    if all(name.startswith(_SEEN_ONCE) for name in silent) and not pictures:
        return f"{what}; it was given no image"
    settings = (getattr(module, "config", None) for module in hf.modules())
    used = {getattr(one, "_attn_implementation", None) for one in settings} - {IMPLEMENTATION, None}
    if all(name.endswith(_IN_ATTENTION) for name in silent) and used:
        return (
            f"{what}; attention is computed by {', '.join(sorted(map(repr, used)))} now, which feeds no point: "
            f"model.hf.set_attn_implementation({IMPLEMENTATION!r}) brings it back"
        )
    return (
        f"{what}; the model did not compute what feeds them (a graph that torch.compile made feeds none: run the model "
        "that is not compiled)"
    )
