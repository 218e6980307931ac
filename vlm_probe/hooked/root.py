"""A TransformerLens `HookedRootModule` whose hook names may be globs, and are checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

from transformer_lens import HookedRootModule
from transformer_lens.hook_points import HookPoint

from vlm_probe.errors import VlmProbeError, nearest
from vlm_probe.running.protocol import NamesFilter


class GlobHooks(HookedRootModule):
    """Every method that takes a hook name takes globs and predicates too; a name that selects nothing is an error."""

    def match(self, names: NamesFilter) -> list[str]:
        """Hook names that a name, globs or a predicate select, in the order of `hook_dict`.

        Raises VlmProbeError for a name or glob that matches nothing; it lists the nearest names.
        """
        if names is None:
            return list(self.hook_dict)
        if callable(names):
            return [name for name in self.hook_dict if names(name)]
        patterns = [names] if isinstance(names, str) else list(names)
        chosen: set[str] = set()
        for pattern in patterns:
            hits = [n for n in self.hook_dict if n == pattern or fnmatchcase(n, pattern)]
            if not hits:
                raise VlmProbeError(
                    f"no hook point {pattern!r}; nearest are {nearest(pattern, self.hook_dict)} (all: model.hook_dict)"
                )
            chosen.update(hits)
        return [name for name in self.hook_dict if name in chosen]

    def _each(self, hooks: Iterable[tuple[Any, Callable]]) -> list[tuple[Any, Callable]]:
        return [(name, hook) for names, hook in hooks for name in self.match(names)]

    @contextmanager
    def hooks(self, fwd_hooks=(), bwd_hooks=(), reset_hooks_end=True, clear_contexts=False):
        """As in TransformerLens; names may be globs, and every name is checked before any hook is added."""
        fwd, bwd = self._each(fwd_hooks), self._each(bwd_hooks)
        with super().hooks(fwd, bwd, reset_hooks_end, clear_contexts):
            yield self

    def add_hook(self, name: Any, hook: Callable, *args: Any, **kwargs: Any) -> None:
        """As in TransformerLens; the name may be a glob and is checked."""
        for one in self.match(name):
            super().add_hook(one, hook, *args, **kwargs)

    def get_caching_hooks(self, names_filter: NamesFilter = None, *args: Any, **kwargs: Any):
        """As in TransformerLens; names may be globs and are checked."""
        return super().get_caching_hooks(self.match(names_filter), *args, **kwargs)

    def add_caching_hooks(self, names_filter: NamesFilter = None, *args: Any, **kwargs: Any) -> dict:
        """As in TransformerLens; names may be globs and are checked."""
        return super().add_caching_hooks(self.match(names_filter), *args, **kwargs)

    def point(self, name: str) -> HookPoint:
        """One hook point by its exact name."""
        return self.hook_dict[self.match(name)[0]]
