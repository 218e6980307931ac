"""README's tables of scores are the committed scores."""

from pathlib import Path

import pandas as pd
import pytest

from vlm_probe.findings import grid_differences, grid_effects
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


def points(share: float) -> str:
    return f"{100 * share:+.1f}"


def test_what_it_says_of_the_grid_is_what_the_scores_say():
    scores = grid_scores()
    differences = grid_differences(scores.query("split == 'heldout' and kind == 'all'"))
    effects = grid_effects(differences).set_index(["first", "second"])
    size = effects.loc[("small-clip", "large-clip")]
    each = differences.query("first == 'small-clip' and second == 'large-clip'")["difference"]
    assert (size["seeds"], (each > 0).all()) == (3, True)
    said = {
        f"large-clip is right more often than small-clip from all three seeds ({points(each.min())} to "
        f"{points(each.max())} points), which does not decide it: mean {points(size['difference'])}, 95 % interval "
        f"over seeds {points(size['low'])} to {points(size['high'])}.",
        "Pretraining the connector changes "
        + ", ".join(
            f"{cell} by {points(effects.loc[(f'{cell}-nopre', cell), 'difference'])}"
            for cell in ("small-dino", "large-dino", "small-clip", "large-clip")
        )
        + " points (one seed).",
    }
    vocabularies = scores.query("split == 'heldout' and kind == 'all' and seed == 0 and connector_pretrained")
    found = vocabularies.query("size == 'small' and encoder == 'clip'").set_index("vocabulary")["accuracy"].sort_index()
    assert not found.is_monotonic_increasing
    assert not found.is_monotonic_decreasing
    apart = 100 * (found.max() - found.min())
    said.add(f"The four vocabularies are at most {apart:.1f} points apart, in no order (one seed).")
    text = " ".join(README.split()).replace("`", "")
    for sentence in said:
        assert sentence in text, sentence
