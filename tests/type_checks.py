"""What checks types under the tests: jaxtyping where an annotation has shapes, beartype alone where none has.

jaxtyping binds every call's arguments to keep names of dimensions in mind. Most functions have none, and by far the
most calls are of these: with nothing to keep, they took a third of the time of tests of hooks.
"""

import inspect
from collections.abc import Callable
from functools import wraps
from types import FunctionType
from typing import Any, TypeVar, get_args, get_type_hints

import jaxtyping
from beartype import BeartypeConf, beartype

_whole = jaxtyping.jaxtyped
_alone = beartype(conf=BeartypeConf(violation_type=jaxtyping.TypeCheckError))
"""What is refused is refused alike, whoever checked it."""


def install(package: str) -> None:
    """Check all that a package defines from here on."""
    jaxtyping.jaxtyped = _checked
    jaxtyping.install_import_hook(package, "beartype.beartype")


def hints(function: Callable[..., Any]) -> dict[str, Any]:
    """What a function's annotations mean where it is defined; Any for what is imported for annotations alone, or
    defined below it, as jaxtyping has it."""
    return {name: _meant(annotation, function.__globals__) for name, annotation in function.__annotations__.items()}


def has_shapes(hint: Any) -> bool:
    """Whether a type is one of jaxtyping's, or holds one, or stands for some that do."""
    return getattr(hint, "__module__", "").startswith("jaxtyping") or any(map(has_shapes, _parts(hint)))


def _parts(hint: Any) -> tuple[Any, ...]:
    if isinstance(hint, TypeVar):
        return (hint.__bound__, *hint.__constraints__)
    # The arguments of Callable[[A, B], C] are a list and C.
    return tuple(hint) if isinstance(hint, list) else get_args(hint)


def _meant(annotation: Any, names: dict[str, Any]) -> Any:
    def one() -> None: ...

    one.__annotations__ = {"one": annotation}
    try:
        return get_type_hints(one, names, include_extras=True)["one"]
    except Exception:  # NameError, and whatever else a text that is no type can raise
        return Any


def _checked(thing: Any = None, **given: Any) -> Any:
    if thing is None:
        return lambda own: _checked(own, **given)
    # Of a generator function beartype checks the arguments when it is first asked for a value, jaxtyping at the call.
    meant = hints(thing) if inspect.isfunction(thing) and not inspect.isgeneratorfunction(thing) else {}
    if not meant or any(map(has_shapes, meant.values())):
        return _whole(thing, **given)
    same = FunctionType(thing.__code__, thing.__globals__, thing.__name__, thing.__defaults__, thing.__closure__)
    same.__kwdefaults__, same.__annotations__, same.__qualname__ = thing.__kwdefaults__, meant, thing.__qualname__
    checked = _alone(same)

    @wraps(thing)
    def either(*args: Any, **kwargs: Any) -> Any:
        return thing(*args, **kwargs) if jaxtyping.config.jaxtyping_disable else checked(*args, **kwargs)

    return either
