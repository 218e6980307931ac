"""README's tables of scores are the committed scores."""

from pathlib import Path

import pandas as pd
import pytest

from vlm_probe.replicas.scores import grid_scores
from vlm_probe.replicas.shipped import shipped

README = (Path(__file__).parents[1] / "README.md").read_text()


def percent(share: float) -> str:
    return f"{100 * share:.1f}"


def row_of(cell: str, scores: pd.DataFrame) -> str:
    """A cell's line: seed 0 with its interval, its novel kinds, and what other seeds have on held-out scenes."""
    heldout = scores.query("cell == @cell and split == 'heldout' and kind == 'all'").set_index("seed")
    novel = scores.query("cell == @cell and split == 'novel' and kind == 'all' and seed == 0")["accuracy"].iloc[0]
    first = heldout.loc[0]
    others = ", ".join(f"{percent(value)} %" for value in heldout["accuracy"].drop(0).sort_index())
    low, high = percent(first["low"]), percent(first["high"])
    return f"| `{cell}` | {percent(first['accuracy'])} % ({low} to {high}) | {percent(novel)} % | {others} |"


@pytest.mark.parametrize("cell", shipped())
def test_the_replicas_scores_are_those_committed(cell):
    lines = [line for line in README.splitlines() if line.startswith(f"| `{cell}` |")]
    assert lines == [row_of(cell, grid_scores())]
