"""How alike encoders are (CKA), beside two seeds of one recipe and architectures that nobody trained.

Measures of rows that two models' tables of vectors have in common: features (what the connector reads), seed (of
another seed of the same recipe), random and random_again (of random weights), each with _a and _b for the two models.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import numpy as np
import pandas as pd

from vlm_probe.embedding.similarity import cka

MOST_COMPARED = 1000
"""Images of a table of likenesses at most, which is for a figure."""


def alike(rows: pd.DataFrame, first: str, second: str) -> float:
    """CKA of two columns of vectors; NaN where there are too few rows for one, or a column is empty."""
    if len(rows) < 4:
        return float("nan")
    one, two = (np.asarray(rows[name].tolist(), dtype=float) for name in (first, second))
    return float("nan") if 0 in (one.shape[1], two.shape[1]) else cka(one, two)


def between(rows: pd.DataFrame) -> float:
    """Of the two models' encoders."""
    return alike(rows, "features_a", "features_b")


def expected(rows: pd.DataFrame) -> float:
    """What `between` would be of two seeds of the first's recipe, one of them in the second's architecture.

    Two architectures differ before anything is trained: what CKA loses between them with random weights, beside two
    draws of one, is taken off.
    """
    lost = alike(rows, "random_a", "random_again_a") - alike(rows, "random_a", "random_b")
    return alike(rows, "features_a", "seed_a") - lost


def between_others(rows: pd.DataFrame) -> float:
    """Of the other seeds of both recipes, with which `between` has nothing in common."""
    return alike(rows, "seed_a", "seed_b")


def expected_of_others(rows: pd.DataFrame) -> float:
    """`expected`, of the second's recipe and of other draws."""
    lost = alike(rows, "random_b", "random_again_b") - alike(rows, "random_again_a", "random_again_b")
    return alike(rows, "features_b", "seed_b") - lost


def between_random(rows: pd.DataFrame) -> float:
    """Of random encoders of the two architectures."""
    return alike(rows, "random_a", "random_b")


def vectors(table: pd.DataFrame, column: str = "features") -> pd.Series:
    """A column of vectors by item."""
    return pd.Series(table[column].to_list(), index=table["id"].to_list())


def likeness(rows: Mapping[str, pd.Series], columns: Mapping[str, pd.Series]) -> pd.DataFrame:
    """CKA of every two columns of vectors, on the items that both have: columns row, column, cka and n."""
    found = []
    for (one, a), (other, b) in product(rows.items(), columns.items()):
        both = pd.concat({"a": a, "b": b}, axis=1, join="inner").head(MOST_COMPARED)
        found.append({"row": one, "column": other, "cka": alike(both, "a", "b"), "n": len(both)})
    return pd.DataFrame(found)
