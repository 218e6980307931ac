"""What figures are given: a table, an array, a picture, axes. Anything else is one line that names it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import wraps
from os import PathLike, fspath
from types import UnionType
from typing import Any, ParamSpec, TypeVar, get_args, get_origin

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from vlm_probe.errors import VlmProbeError

P = ParamSpec("P")
R = TypeVar("R")

_KINDS: dict[Any, tuple[str, str]] = {
    pd.DataFrame: ("a table (pandas DataFrame)", "read a file with pandas.read_csv or pandas.read_parquet"),
    xr.DataArray: ("a DataArray over patches", "vlm_probe.attention and vlm_probe.embedding return such arrays"),
    Image.Image: ("a picture (PIL Image)", "open a file with PIL.Image.open"),
    Axes: ("matplotlib Axes", "matplotlib.pyplot.subplots makes some"),
    Figure: ("a figure, axes or an array of axes", "every function of vlm_probe.figures returns its axes"),
    Sequence: ("a list", "put a single one into a list"),
}
"""What an annotation stands for, and where to get one."""


def checked(draw: Callable[P, R]) -> Callable[P, R]:
    """A figure function that first looks at what it was given, by its own annotations.

    Raises VlmProbeError for an argument that is no table, array, picture, list or axes where one is asked for. Else a
    path in place of a table came to light as an AttributeError of pandas, deep inside.
    """
    signature = inspect.signature(draw, eval_str=True)
    asked = {name: _kinds(one.annotation) for name, one in signature.parameters.items()}

    @wraps(draw)
    def look_and_draw(*args: Any, **kwargs: Any) -> Any:
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError:  # of an argument too many or too few Python itself says it best
            return draw(*args, **kwargs)
        for name, value in given.items():
            if asked[name] and not any(_is(value, kind) for kind in asked[name]):
                raise VlmProbeError(_said(draw.__name__, name, value, asked[name]))
        return draw(*args, **kwargs)

    return look_and_draw


def check_pictures(function: str, cases: Sequence[dict[str, Any]]) -> None:
    """Raise VlmProbeError for a case whose image is no picture or whose map is no array."""
    for case in cases:
        for name, kind in (("image", Image.Image), ("map", xr.DataArray)):
            if not isinstance(case[name], kind):
                raise VlmProbeError(_said(function, name, case[name], (kind,)))


def check_dimensions(function: str, map_: xr.DataArray, *names: str) -> None:
    """Raise VlmProbeError for an array with other dimensions than these."""
    there = [str(name) for name in map_.dims]
    if set(there) == set(names):
        return
    said = f"{function} takes maps with the dimensions {', '.join(names)}, these have {', '.join(there) or 'none'}"
    if set(names) < set(there):
        more = ", ".join(name for name in there if name not in names)
        said += f"; choose one of {more} with .isel(), or average over it with .mean(..., keep_attrs=True)"
    raise VlmProbeError(said)


def _kinds(annotation: Any) -> tuple[Any, ...]:
    """The types that an annotation allows, if any of them is one of `_KINDS`; of a text or a number none is."""
    options = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
    kinds = tuple(get_origin(one) or one for one in options)
    return kinds if any(kind in _KINDS for kind in kinds) else ()


def _is(value: Any, kind: Any) -> bool:
    if kind is Sequence:  # a text is a sequence of letters, a table one of columns
        return isinstance(value, Sequence | np.ndarray) and not isinstance(value, str | bytes)
    return isinstance(value, kind)


def _said(function: str, name: str, value: Any, kinds: tuple[Any, ...]) -> str:
    words, advice = next(_KINDS[kind] for kind in (Figure, *kinds) if kind in kinds and kind in _KINDS)
    return f"{function} takes {words} as {name}, got {_named(value)}; {advice}"


def _named(value: Any) -> str:
    """What was given instead, in words."""
    if isinstance(value, str | PathLike):
        text = fspath(value)
        return f"the {'text' if isinstance(value, str) else 'path'} {text if len(text) <= 60 else f'{text[:59]}…'!r}"
    return "None" if value is None else f"an object of type {type(value).__name__}"
