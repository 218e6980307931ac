"""What checks types under the tests: jaxtyping where an annotation has shapes, beartype alone where none has.

jaxtyping binds every call's arguments to keep names of dimensions in mind. Most functions have none, and by far the
most calls are of these: with nothing to keep, they took a third of the time of tests of hooks.
"""

import inspect
import re
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from typing import Any, get_args

import jaxtyping
from beartype import beartype
from beartype.roar import BeartypeDecorHintException

_whole = jaxtyping.jaxtyped


def install(package: str) -> None:
    """Check all that a package defines from here on."""
    jaxtyping.jaxtyped = _checked
    jaxtyping.install_import_hook(package, "beartype.beartype")


def has_shapes(function: Callable[..., Any]) -> bool:
    """Whether an annotation names a type of jaxtyping, by itself or inside an alias."""
    texts = [one if isinstance(one, str) else repr(one) for one in function.__annotations__.values()]
    names = {name for text in texts for name in re.findall(r"[A-Za-z_]\w*", text)}
    return any(_is_of_shapes(function.__globals__.get(name)) for name in names)


def _is_of_shapes(thing: Any) -> bool:
    if thing is jaxtyping or getattr(thing, "__module__", "").startswith("jaxtyping"):
        return True
    return any(_is_of_shapes(part) for part in get_args(thing))


def _checked(thing: Any = None, **given: Any) -> Any:
    if thing is None:
        return lambda own: _checked(own, **given)
    if inspect.isfunction(thing) and not has_shapes(thing):
        with suppress(BeartypeDecorHintException):  # of what cannot be resolved; jaxtyping knows what to do
            return _switched(thing, beartype(thing))
    return _whole(thing, **given)


def _switched(plain: Callable[..., Any], checked: Callable[..., Any]) -> Callable[..., Any]:
    """What jaxtyping's own switch turns off, as it does its own checks."""

    @wraps(plain)
    def either(*args: Any, **kwargs: Any) -> Any:
        return plain(*args, **kwargs) if jaxtyping.config.jaxtyping_disable else checked(*args, **kwargs)

    return either
