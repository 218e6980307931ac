"""`vlm_probe.explore`: from traces and models to a page or a widget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlm_probe.errors import VlmProbeError
from vlm_probe.explorer.looking import Look, inputs_of, look, look_at_trace
from vlm_probe.explorer.page import page
from vlm_probe.files import make_folder, replacing, writing
from vlm_probe.hooked import HookedVLM, ModelInputs
from vlm_probe.trace import Trace

Source = Trace | ModelInputs | Mapping[str, Any]


class Explorer:
    """One look or several, to be shown: the last line of a notebook's cell, or `save`d as a page.

    looks: of `explorer.look`.
    """

    def __init__(self, looks: Sequence[Look]):
        if not looks:
            raise VlmProbeError("there is nothing to explore: give a trace, inputs or a look")
        self.looks = list(looks)
        self._widget: Any = None

    @property
    def title(self) -> str:
        """The question, or the pictures' names where none is known."""
        asked = dict.fromkeys(one["question"] or one["name"] for one in self.looks)
        return " / ".join(asked)

    def html(self, *, title: str | None = None) -> str:
        """The page's text: it holds all it needs, and fetches nothing."""
        return page(self.looks, title=title or self.title)

    def save(self, path: Path | str, *, title: str | None = None) -> Path:
        """Write the page to a file that any browser opens, whole or not at all; returns its path.

        Raises VlmProbeError where it cannot be written.
        """
        path = Path(path)
        make_folder(path.absolute().parent)
        with writing(path), replacing(path) as partial:
            partial.write_text(self.html(title=title), encoding="utf-8", errors="replace")
        return path

    def widget(self) -> Any:
        """The anywidget that a notebook shows, the same one at every call; its `state` tells what was picked.

        Raises VlmProbeError where anywidget is not installed.
        """
        if self._widget is None:
            try:
                from vlm_probe.explorer.widget import ExplorerWidget
            except ImportError as error:
                raise VlmProbeError(
                    "the explorer in a notebook needs anywidget: pip install anywidget (or vlm-probe[notebooks]); "
                    "without it, explore(...).save('page.html') writes a page"
                ) from error
            self._widget = ExplorerWidget(self.looks)
        return self._widget

    def _repr_mimebundle_(self, **given: Any) -> Any:
        made = self.widget()._repr_mimebundle_(**given)
        data, about = made if isinstance(made, tuple) else (made, {})
        # The widget's own words have an address in memory, which would be new in every executed notebook.
        return {**data, "text/plain": repr(self)}, about

    def __repr__(self) -> str:
        return f"Explorer({', '.join(one['model'] + ' on ' + one['name'] for one in self.looks)})"


def explore(
    traces: Source | Sequence[Source],
    model: HookedVLM | Sequence[HookedVLM] | None = None,
    *,
    names: Sequence[str] | None = None,
    **options: Any,
) -> Explorer:
    """Look at an answer by hand: the maps of its tokens, and of every patch its words, norm, sinks and pixels.

    >>> explore(model.trace("scene.png", "What color is the star?"), model)    # doctest: +SKIP
    >>> inputs = [model.prepare(p, question) for p in ("a.png", "b.png")]      # doctest: +SKIP
    >>> explore(inputs, model).save("twins.html")                              # doctest: +SKIP
    >>> explore([model_a.trace(p, q), model_b.trace(p, q)], [model_a, model_b])  # doctest: +SKIP

    Two or more are shown side by side, two at a time, with the difference of their maps where their patches agree.

    Parameters
    ----------
    traces: a trace, the inputs of one (`model.prepare`), or a look that was made before (`explorer.look`, so that of
        large models one at a time need be held); or several of them.
    model: that they are of, or one for each. Without it a trace shows attention, norms and sinks, and what else there
        could be is named.
    names: of the pictures, one for each; their numbers if None.
    options: `maps`, `words`, `bank`, `windows`, `draws`, ...: as `explorer.look` takes them, for all alike.

    Raises VlmProbeError for nothing, inputs without a model, models or names of another number, a trace whose inputs
    cannot be made anew (give the inputs), and as `explorer.look`.
    """
    if isinstance(traces, HookedVLM):
        raise VlmProbeError("what is looked at comes first: explore(inputs, model)")
    given = [traces] if isinstance(traces, Trace | ModelInputs | Mapping) else list(traces)
    models = [model] * len(given) if model is None or isinstance(model, HookedVLM) else list(model)
    for what, own in (("models", models), ("names", names)):
        if own is not None and len(own) != len(given):
            raise VlmProbeError(f"{len(given)} traces were given and {len(own)} {what}: one for each is needed")
    called: list[str | None] = list(names) if names is not None else [None] * len(given)
    if names is None and len(given) > 1:
        called = [f"picture {number}" for number in _pictures(given)]
    return Explorer([_look(one, own, name, options) for one, own, name in zip(given, models, called, strict=True)])


def _pictures(given: Sequence[Source]) -> list[int]:
    """A number for each: the same where the pictures are the same."""
    seen: list[Any] = []
    numbers = []
    for one in given:
        pictures = one.images if isinstance(one, Trace) else one.images[0] if isinstance(one, ModelInputs) else None
        if pictures is None or pictures not in seen:
            seen.append(pictures)
        numbers.append(len(seen) if pictures is None else seen.index(pictures) + 1)
    return numbers


def _look(given: Source, model: HookedVLM | None, name: str | None, options: dict[str, Any]) -> Look:
    if isinstance(given, Mapping):
        return dict(given)
    if model is None:
        if isinstance(given, ModelInputs):
            raise VlmProbeError("inputs are explored with their model: explore(inputs, model)")
        beyond = sorted(set(options) - {"image", "sinks"})
        if beyond:
            raise VlmProbeError(f"{beyond[0]} needs the model: explore(trace, model, {beyond[0]}=...)")
        return look_at_trace(given, name=name, **options)
    if isinstance(given, Trace):
        return look(model, inputs_of(model, given), trace=given, name=name, **options)
    return look(model, given, name=name, **options)
