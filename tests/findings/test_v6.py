"""V6: what the size of a vocabulary does rests on training seeds, however many items there are."""

import numpy as np
import pandas as pd
import pytest
from planting import MOST, decided, verdicts

from vlm_probe.errors import VlmProbeError
from vlm_probe.evidence import Verdict
from vlm_probe.findings import run
from vlm_probe.findings.v6_size import FINDING, SPLITS, vocabulary_size
from vlm_probe.studies import grid_scores

LEAST = FINDING.claims[0].least


def trained(rng, *, seeds=LEAST, n=1200, effect=0.0, noise=0.01):
    """Shares right of two cells, from seeds that both share, each as far from its mean as training leaves it."""
    rows = []
    for split in SPLITS:
        for seed in range(seeds):
            both = 0.93 + 0.01 * rng.normal()
            shares = np.clip([both + noise * rng.normal(), both + effect + noise * rng.normal()], 0, 1)
            a, b = rng.binomial(n, shares) / n
            rows.append({"split": split, "seed": seed, "n": n, "a": a, "b": b})
    return {"pair": {"runs": pd.DataFrame(rows)}}


def test_without_an_effect_nothing_is_decided():
    shares = decided(FINDING, trained)
    assert shares == {name: pytest.approx(0, abs=MOST) for name in SPLITS}


@pytest.mark.parametrize(
    ("planted", "expected"),
    [
        ({"effect": 0.06}, Verdict.SUPPORTED),
        ({"effect": -0.06}, Verdict.CONTRADICTED),
        ({"effect": 0.001, "noise": 0.001, "n": 60_000, "seeds": 7}, Verdict.EQUIVALENT),
        # Of thousands of items the same difference would be beyond doubt; of three runs it is not.
        ({"effect": 0.06, "seeds": 3}, Verdict.UNDECIDED),
    ],
)
def test_a_planted_effect_is_found_from_enough_seeds(planted, expected):
    found = verdicts(FINDING, lambda rng: trained(rng, **planted))
    assert found == dict.fromkeys(SPLITS, expected)


def test_the_shipped_seeds_are_too_few_and_it_says_how_many_would_do():
    seeds = len(set(grid_scores().query("cell == 'small-clip-v320'")["seed"].tolist()))
    result = run(["V6"], [])
    assert result.models == []
    rows = result.evidence
    assert rows["models"].unique().tolist() == ["replica/small-clip-v20480 against replica/small-clip-v320"]
    assert rows["unit"].unique().tolist() == ["training seeds"]
    assert rows["clusters"].tolist() == [seeds] * len(SPLITS)
    if seeds < LEAST:
        assert rows["verdict"].unique().tolist() == [Verdict.UNDECIDED]
        assert rows["reason"].unique().tolist() == [f"{seeds} training seeds, {LEAST} would do"]
    assert rows["scope"].str.startswith("Replicas are miniatures").all()
    shown = result.shown(FINDING)
    assert shown.summary[0].endswith(f"; {LEAST} seeds would do for a verdict.") == (seeds < LEAST)
    means = shown.tables["heldout"][shown.tables["heldout"]["seed"].isna()]
    assert list(zip(means["first"], means["second"], strict=True)) == [
        ("small-clip-v320", "small-clip"),
        ("small-clip", "small-clip-v4096"),
        ("small-clip-v4096", "small-clip-v20480"),
        ("small-clip-v320", "small-clip-v20480"),
    ]


def test_every_sweep_is_a_pair_of_its_own():
    scores = grid_scores()
    dino = scores.assign(cell=scores["cell"].str.replace("clip", "dino"), encoder="dino").query("vocabulary != 20480")
    found = vocabulary_size(pd.concat([scores.query("encoder == 'clip'"), dino], ignore_index=True))
    assert set(found) == {
        "replica/small-clip-v20480 against replica/small-clip-v320",
        "replica/small-dino-v4096 against replica/small-dino-v320",
    }
    runs = found["replica/small-dino-v4096 against replica/small-dino-v320"]["runs"]
    expected = scores.query("cell == 'small-clip-v4096' and kind == 'all' and split == 'novel'")["accuracy"]
    assert runs.query("split == 'novel'")["b"].tolist() == expected.tolist()


def test_cells_of_one_size_alone_are_refused():
    with pytest.raises(VlmProbeError) as caught:
        vocabulary_size(grid_scores().query("vocabulary == 704"))
    assert str(caught.value) == (
        "no two cells differ in their vocabulary alone and share a seed; train two sizes from one seed"
    )
