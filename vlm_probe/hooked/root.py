"""A TransformerLens `HookedRootModule` whose hook names may be globs, and are checked."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from transformer_lens import HookedRootModule
from transformer_lens.hook_points import HookPoint, LensHandle
from transformer_lens.utilities.slice import Slice, SliceInput

from vlm_probe.errors import VlmProbeError, VlmProbeWarning
from vlm_probe.hooked.cache import ActivationCache, Named, without_batch
from vlm_probe.inputs.model_inputs import ModelInputs
from vlm_probe.names import PARTS, layer_of, sequence_axis
from vlm_probe.running.protocol import NamesFilter

Hooks = Iterable[tuple[Any, Callable]]
"""Pairs of what names points (a name, globs, a predicate) and the function to hook there."""


def shows_an_image(args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    """Whether a call of the model with these arguments reaches the encoder."""
    first = args[0] if args else kwargs.get("input_ids")
    pixels = args[1] if len(args) > 1 else kwargs.get("pixel_values")
    return pixels is not None or (isinstance(first, ModelInputs) and first.pixel_values is not None)


def _keep(
    x: Tensor,
    hook: HookPoint,
    *,
    into: dict[str, Tensor],
    suffix: str,
    device: torch.device | str | None,
    cut: Slice,
    drop_batch: bool,
) -> None:
    """The hook that caches, of an activation or of its gradient."""
    name, axis = str(hook.name), hook.pos_dim
    assert axis is not None
    kept = x.detach()
    try:
        kept = cut.apply(kept, dim=axis)
    except IndexError as error:
        raise VlmProbeError(
            f"pos_slice {cut.slice} goes beyond {name}, which has {x.shape[axis]} positions; name the points of one "
            "part in names_filter, and positions that it has"
        ) from error
    if cut.mode == "slice":
        # A view would keep the whole activation in memory.
        kept = kept.clone()
    if drop_batch:
        kept = without_batch(name, kept)
    into[name + suffix] = kept.to(device)


class GlobHooks(HookedRootModule):
    """Every method that takes a hook name takes globs and predicates too; an unknown name is an error."""

    def setup(self) -> None:
        """As in TransformerLens; an unknown name in `hook_dict` and `mod_dict` is an error that lists the nearest."""
        super().setup()
        # In the order of firing, whichever part a model declares first.
        points = {n: point for part in PARTS for n, point in self.hook_dict.items() if n.startswith(f"{part}.")}
        self.hook_dict = Named(points, "hook point", "model.hook_dict")
        self.mod_dict = Named(self.mod_dict, "module", "model.mod_dict")
        for name, point in self.hook_dict.items():
            point.pos_dim = sequence_axis(name)

    def match(self, names: NamesFilter, *, image: bool = True) -> list[str]:
        """Hook names that a name, globs or a predicate select, in the order of `hook_dict`.

        image: whether the run they are for has one. Without, only the language model's points fire, and globs,
            predicates and None select among those; an exact name is taken at its word.

        Raises VlmProbeError for a name or glob that matches nothing (it lists the nearest names), or nothing that
        would fire.
        """
        if isinstance(names, str) and names in self.hook_dict:
            return [names]
        fire = [name for name in self.hook_dict if image or name.startswith("language.")]
        if names is None:
            return fire
        if callable(names):
            return self._of_these([name for name in self.hook_dict if names(name)], fire, "the predicate")
        chosen: set[str] = set()
        for pattern in [names] if isinstance(names, str) else names:
            if pattern in self.hook_dict:
                chosen.add(pattern)
                continue
            hits = [name for name in self.hook_dict if fnmatchcase(name, pattern)]
            if not hits:
                assert isinstance(self.hook_dict, Named)
                raise self.hook_dict.unknown(pattern)
            chosen.update(self._of_these(hits, fire, repr(pattern)))
        return [name for name in self.hook_dict if name in chosen]

    @staticmethod
    def _of_these(hits: list[str], fire: list[str], pattern: str) -> list[str]:
        """Those of the hits that fire; VlmProbeError where there were some and none is left."""
        left = [name for name in hits if name in set(fire)] if hits else []
        if hits and not left:
            raise VlmProbeError(
                f"{pattern} selects {hits[0]!r} and {len(hits) - 1} more, none of which fires in a run without an image"
            )
        return left

    def _each(self, hooks: Hooks, *, image: bool = True) -> list[Any]:
        """A pair of exact name and hook for every point that is named."""
        return [(name, hook) for names, hook in hooks for name in self.match(names, image=image)]

    def point(self, name: str) -> HookPoint:
        """One hook point by its exact name."""
        return self.hook_dict[self.match(name)[0]]

    # --- adding and listing hooks -------------------------------------------------------------

    @contextmanager
    def hooks(self, fwd_hooks=(), bwd_hooks=(), reset_hooks_end=True, clear_contexts=False):
        """As in TransformerLens; names may be globs, and every name is checked before any hook is added."""
        fwd, bwd = self._each(fwd_hooks), self._each(bwd_hooks)
        with super().hooks(fwd, bwd, reset_hooks_end, clear_contexts):
            yield self

    def run_with_hooks(
        self,
        *model_args: Any,
        fwd_hooks: Hooks = (),
        bwd_hooks: Hooks = (),
        reset_hooks_end: bool = True,
        clear_contexts: bool = False,
        **model_kwargs: Any,
    ) -> Any:
        """As in TransformerLens; names may be globs, which select what can fire in this run, and are checked."""
        image = shows_an_image(model_args, model_kwargs)
        return super().run_with_hooks(
            *model_args,
            fwd_hooks=self._each(fwd_hooks, image=image),
            bwd_hooks=self._each(bwd_hooks, image=image),
            reset_hooks_end=reset_hooks_end,
            clear_contexts=clear_contexts,
            **model_kwargs,
        )

    def add_hook(self, name: Any, hook: Callable, *args: Any, **kwargs: Any) -> None:
        """As in TransformerLens; the name may be a glob and is checked."""
        for one in self.match(name):
            super().add_hook(one, hook, *args, **kwargs)

    def check_hooks_to_add(self, hook_point: HookPoint, hook_point_name: str, *args: Any, **kwargs: Any) -> None:
        """As in TransformerLens, called before a hook is added; VlmProbeError where the point has another name."""
        if self.hook_dict[hook_point_name] is not hook_point:
            raise VlmProbeError(f"the hook point {hook_point_name!r} is another one than {hook_point.name!r}")

    def list_hooks(
        self,
        name_filter: NamesFilter = None,
        dir: Literal["fwd", "bwd", "both"] = "both",
        including_permanent: bool = True,
    ) -> dict[str, list[LensHandle]]:
        """As in TransformerLens; names may be globs and are checked."""
        return super().list_hooks(self.match(name_filter), dir, including_permanent)

    # --- caching --------------------------------------------------------------------------------

    def _empty_cache(self, remove_batch_dim: bool) -> ActivationCache:
        layers = [(name.split(".")[0], layer_of(name)) for name in self.hook_dict]
        depth = {part: 1 + max((n for p, n in layers if p == part and n is not None), default=-1) for part in PARTS}
        return ActivationCache((), depth, has_batch_dim=not remove_batch_dim)

    def get_caching_hooks(
        self,
        names_filter: NamesFilter = None,
        incl_bwd: bool = False,
        device: torch.device | str | None = None,
        remove_batch_dim: bool = False,
        cache: dict[str, Tensor] | None = None,
        pos_slice: Slice | SliceInput = None,
    ) -> tuple[dict[str, Tensor], list[Any], list[Any]]:
        """As in TransformerLens: a cache, and the hooks that will fill it; names may be globs and are checked.

        pos_slice: cuts what the sequence runs along: positions, in scores and patterns queries, in the connector
            patches.

        The hooks raise VlmProbeError for a position that an activation does not have, and, to remove the batch
        dimension, where a batch is not one.
        """
        held = self._empty_cache(remove_batch_dim) if cache is None else cache
        settings = {"into": held, "device": device, "cut": Slice.unwrap(pos_slice), "drop_batch": remove_batch_dim}
        self.is_caching = True
        names = self.match(names_filter)
        fwd = [(name, partial(_keep, suffix="", **settings)) for name in names]
        bwd = [(name, partial(_keep, suffix="_grad", **settings)) for name in names if incl_bwd]
        return held, fwd, bwd

    def add_caching_hooks(
        self,
        names_filter: NamesFilter = None,
        incl_bwd: bool = False,
        device: torch.device | str | None = None,
        remove_batch_dim: bool = False,
        cache: dict[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """As in TransformerLens; names may be globs and are checked. The hooks raise as `get_caching_hooks` says."""
        held, fwd, bwd = self.get_caching_hooks(names_filter, incl_bwd, device, remove_batch_dim, cache)
        for name, hook in fwd:
            self.hook_dict[name].add_hook(hook, dir="fwd")
        for name, hook in bwd:
            self.hook_dict[name].add_hook(hook, dir="bwd")
        return held

    def run_with_cache(
        self,
        *model_args: Any,
        names_filter: NamesFilter = None,
        device: torch.device | str | None = None,
        remove_batch_dim: bool = False,
        incl_bwd: bool = False,
        reset_hooks_end: bool = True,
        clear_contexts: bool = False,
        pos_slice: Slice | SliceInput = None,
        return_cache_object: bool = True,
        **model_kwargs: Any,
    ) -> tuple[Any, ActivationCache]:
        """As in TransformerLens: the model's output, and an `ActivationCache`.

        Names may be globs and are checked; without an image None, globs and predicates select the language model's
        points alone. Gradients come as "..._grad"; where one is missing, a UserWarning says so.

        return_cache_object: TransformerLens' way to ask for a dict, which ours is either way.

        Raises VlmProbeError as `match` and the hooks of `get_caching_hooks` do, and with `incl_bwd` where the output
        is not one number that has a gradient.
        """
        del return_cache_object
        names = self.match(names_filter, image=shows_an_image(model_args, model_kwargs))
        cache = self._empty_cache(remove_batch_dim)
        _, fwd, bwd = self.get_caching_hooks(names, incl_bwd, device, remove_batch_dim, cache, pos_slice)
        with self.hooks(fwd, bwd, reset_hooks_end=reset_hooks_end, clear_contexts=clear_contexts):
            output = self(*model_args, **model_kwargs)
            if incl_bwd:
                _backward(output)
        if incl_bwd:
            _warn_of_missing([name for name in names if f"{name}_grad" not in cache], len(names))
        return output, cache


def _backward(output: Any) -> None:
    if not isinstance(output, Tensor) or output.numel() != 1:
        got = f"a tensor of shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
        raise VlmProbeError(
            "incl_bwd=True runs backward from the model's output, which must be one number: pass labels=... and "
            f"return_type='loss'; got {got}"
        )
    if not output.requires_grad:
        raise VlmProbeError(
            "incl_bwd=True needs gradients, and the output has none: run it outside torch.no_grad(), with weights "
            "that require them"
        )
    output.backward()


def _warn_of_missing(names: list[str], n: int) -> None:
    """Say which of the n points got no gradient, and why."""
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        warnings.warn(
            f"no gradient reached {len(names)} of {n} points, whose '_grad' is not in the cache: "
            f"{', '.join(names[:3])}{more}. The output does not depend on them (as on vision layers behind the one "
            "that the connector reads), or nothing before them requires a gradient",
            VlmProbeWarning,
            stacklevel=3,
        )
