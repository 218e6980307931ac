"""Connectors whose truth is known: rows that lie at random beside words, or among them, and what is answered from them.

Measured as `findings.connected` measures real ones, of few and narrow rows; of 20 images where nothing else is said.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from planting import RUNS

from vlm_probe.embedding.gap import told_apart
from vlm_probe.embedding.nearest import cosines_when_turned, nearest_rows
from vlm_probe.evidence import Claim, Tables, Verdict, judge_all
from vlm_probe.evidence.statistics import OBSERVED
from vlm_probe.findings.in_context import Objects, compared

LEAST, EACH, WIDTH, WORDS = 20, 3, 17, 101
DRAWS = 99
"""Rotations of claims that are judged alone; of several, more."""
ANSWERS = ("right", "right_words", "right_turned", "right_random")


def ids(n):
    return {"id": np.arange(n), "cluster": np.arange(n)}


def vocabulary(rng, spread=4):
    """Rows that share a direction, and use some directions more than others."""
    return rng.normal(size=(WORDS, WIDTH)) * np.geomspace(2, 2 / spread, WIDTH) + 0.5 * rng.normal(size=WIDTH)


def spin(rng):
    return np.linalg.qr(rng.normal(size=(WIDTH, WIDTH)))[0]


def seen(rng, n=LEAST, each=EACH):
    """What is in some images' patches: those of one image are alike, and some images stand out more than others."""
    rows = (rng.normal(size=(n, 1, WIDTH)) + rng.normal(size=(n, each, WIDTH))) * np.geomspace(2, 0.1, WIDTH)
    return (rows * np.exp(0.5 * rng.normal(size=(n, 1, 1)))).reshape(n * each, WIDTH)


def at_random(rng, content):
    """What a connector makes of them that has nothing to do with words."""
    return content @ spin(rng) + 0.3 * rng.normal(size=content.shape) + 0.5 * rng.normal(size=WIDTH)


def landed(x, words, n=LEAST, draws=DRAWS):
    """The tables images (all but what a classifier says) and rotations."""
    rows, table = (torch.tensor(values).float() for values in (x, words))
    near = nearest_rows(rows, table, k=1).scores[:, 0].numpy().astype(float)
    null = cosines_when_turned(rows, table, draws=draws).numpy().astype(float)
    by_image = {name: values.reshape(n, -1).mean(1) for name, values in (("nearest", near), ("turned", null.mean(0)))}
    cosine = [near.mean(), *null.mean(1)]
    rotations = pd.DataFrame({"draw": [OBSERVED, *range(draws)], "cosine": cosine, "n": len(x), "clusters": n})
    return {"images": pd.DataFrame({**ids(n), **by_image}), "rotations": rotations}


def apart(rng, runs=1, n=LEAST, each=2, shift=0.0):
    """How well classifiers tell image rows that are drawn as words are, but for a shift, from words: columns a run."""
    image, own, other, text = rng.normal(size=(4, runs, n, each, WIDTH))
    # Those of one image are alike.
    image = (image[:, :, :1] + own) / np.sqrt(2) + shift * np.eye(WIDTH)[0]
    found = told_apart(np.concatenate([image, other]), np.concatenate([text, text]), strengths=(0.1,))
    return [{"told_apart": a, "told_words": b} for a, b in zip(*found.reshape(2, runs, n), strict=True)]


def answered(rng, n=LEAST, columns=ANSWERS, largest=3, **more):
    """Right or wrong, of one to three items an image: some are easier for everybody, as some images are.

    more: by how much the share of right answers of a column is larger than that of the others, about.
    """
    image = np.repeat(np.arange(n), 1 + np.arange(n) % largest)
    ease = rng.normal(size=n)[image] + rng.normal(size=len(image))
    own = {name: ease + rng.normal(size=len(image)) + 4.3 * more.get(name, 0.0) > 0 for name in columns}
    return pd.DataFrame({"id": np.arange(len(image)), "cluster": image, **own}).astype(dict.fromkeys(own, float))


def by_a_margin(rng, table, column, margin):
    """The column with so many more right as is said, on average: each of those that were wrong with equal chance."""
    wrong = table[column] == 0
    # Half are wrong, by how they were drawn.
    return table[column].where(~wrong | (rng.random(len(table)) >= 2 * margin), 1.0)


def excess(rng, n, mean, draws=DRAWS):
    """The tables images and rotations of a connector whose rows are so much nearer than turned, on average.

    Rotations tell little apart, as in wide models; images differ, and with a tail.
    """
    turned = 0.3 + 0.05 * rng.normal(size=n)
    nearest = turned + mean + 0.03 * (rng.gamma(0.7, size=n) - 0.7)
    null = turned.mean() + 0.002 * rng.normal(size=draws)
    rotations = {"draw": [OBSERVED, *range(draws)], "cosine": [nearest.mean(), *null], "n": n, "clusters": n}
    return {
        "images": pd.DataFrame({**ids(n), "nearest": nearest, "turned": turned}),
        "rotations": pd.DataFrame(rotations),
    }


COLORS, SHAPES, PATCHES = 7, 5, 11
"""Words for objects, and an object's patches."""


def called(rng, n=LEAST, right=0.0, habits=True):
    """The tables lens and dealt of a connector whose patches say what it is in the habit of, whatever that is called.

    Two objects an image, alike in nothing. habits: whether every color and shape has words, or none, that its patches
    lie near to, by chance and alike in all images, as of connectors that have nothing to do with names; else all words
    are as near. right: so much more of the patches say a word of their object than of the other (less than 0: the other
    way round).
    """
    words = COLORS + SHAPES
    order = [rng.permuted(np.tile(np.arange(size), (n, 1)), axis=1)[:, :2] for size in (COLORS, SHAPES)]
    kinds = np.stack([order[0], COLORS + order[1]], axis=2)
    spread = 0.15 if habits else 1e6
    habit = rng.dirichlet(np.full(words + 1, spread), size=words)[kinds].mean(2)
    # What is in an image, and how it is lit, moves all that is in it.
    habit = 0.7 * habit + 0.3 * rng.dirichlet(np.ones(words + 1), size=(n, 1))
    named = np.eye(words + 1)[kinds if right > 0 else kinds[:, ::-1]].mean(2)
    said = (1 - abs(right)) * habit + abs(right) * named
    shares = rng.multinomial(PATCHES, said / said.sum(2, keepdims=True))[..., :-1] / PATCHES
    objects = Objects(np.repeat(np.arange(n), 2), kinds.reshape(-1, 2), tuple(map(str, range(words))), COLORS)
    shares_of = {("context", "language.hook_embed"): shares.reshape(-1, words)}
    return compared(pd.DataFrame(ids(n)), objects, shares_of, seed=int(rng.integers(2**32)))


ByMargin = Callable[[np.random.Generator, int, float], Mapping[str, Tables]]
"""Makes tables of some images whose true difference is as large as is said."""


def called_equivalent(claims: Sequence[Claim], make: Mapping[str, ByMargin], n: int) -> dict[str, float]:
    """Claim -> the share of runs in which it is called equivalent though its true difference is its margin."""
    hits = dict.fromkeys(make, 0)
    for claim in claims:
        for run in range(RUNS if claim.id in make else 0):
            measured = make[claim.id](np.random.default_rng([run, 11]), n, claim.margin)
            (row,) = judge_all([replace(claim, requires=())], measured)
            assert row.clusters == n >= claim.least
            hits[claim.id] += row.verdict == Verdict.EQUIVALENT
    return {name: count / RUNS for name, count in hits.items()}
