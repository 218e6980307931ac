"""Types are checked while testing, shapes too, whichever of the two ways a function is checked in."""

import inspect
from typing import Any, TypeVar

import jaxtyping
import numpy as np
import pytest
import type_checks

from vlm_probe.embedding import held_out_predictions, logistic, transfer
from vlm_probe.items.entries import lines_of
from vlm_probe.scenes import sample_scene
from vlm_probe.studies import effects

Patches = jaxtyping.Float[np.ndarray, "patch feature"]
AnyPatches = TypeVar("AnyPatches", bound=Patches)


def test_shapes_that_disagree_are_refused():
    x, y = np.zeros((1, 7, 3), np.float32), np.zeros(5, dtype=int)
    with pytest.raises(jaxtyping.TypeCheckError, match="parameter 'parts'"):
        transfer.transferred_predictions(x, np.zeros(7, dtype=int), y)


def test_types_without_shapes_are_refused():
    with pytest.raises(jaxtyping.TypeCheckError, match="parameter seed='three'"):
        sample_scene("three")  # pyright: ignore[reportArgumentType]


def test_which_functions_have_shapes():
    def shaped(function):
        return any(map(type_checks.has_shapes, type_checks.hints(inspect.unwrap(function)).values()))

    assert shaped(transfer.predictions_elsewhere)
    assert shaped(logistic.minimize)  # by an alias, inside a Callable
    for plain in (effects.grid_effects, held_out_predictions):
        assert not shaped(plain)

    def by_alias(rows: Patches | None) -> None: ...

    assert shaped(by_alias)

    def by_variable(rows: AnyPatches) -> AnyPatches: ...

    assert shaped(by_variable)


def test_arguments_of_generators_are_checked_at_the_call():
    with pytest.raises(jaxtyping.TypeCheckError, match="parameter 'path'"):
        lines_of(3)  # pyright: ignore[reportArgumentType]


def test_what_cannot_be_resolved_is_not_checked_and_the_rest_is():
    def given(a: "Nowhere", b: "int") -> None: ...  # noqa: F821  # pyright: ignore[reportUndefinedVariable]

    assert type_checks.hints(given) == {"a": Any, "b": int, "return": type(None)}
