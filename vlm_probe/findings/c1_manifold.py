"""C1: does the connector land on the language manifold?

Where the language model receives them, image rows are held against the vocabulary's: are they nearer to its rows than
rows that are turned at random, can they be told from words better than words from words, and what does the model still
answer where every image row is rebuilt from words? And in context: are the words of texts that are nearest to an
object's patches words for that object?
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from vlm_probe.evidence import Claim, Described, PairedMean, Tables, clustered_mean
from vlm_probe.evidence.statistics import OBSERVED
from vlm_probe.findings.connected import APARTNESS, NEARER, TURNED, TURNS, WORDS, connected, joined, means
from vlm_probe.findings.finding import SHARES, FigureOf, Finding, Section, Shown, TableOf
from vlm_probe.findings.in_context import AT_CONNECTOR, DEALT, LAYERS, LOOKED_AT, NAMED, TEXTS, named_in_context
from vlm_probe.findings.shared import Shared
from vlm_probe.hooked import HookedVLM
from vlm_probe.items import Item
from vlm_probe.settings import TAIL


def lands_on_words(
    model: HookedVLM, items: Sequence[Item], *, shared: Shared | None = None, seed: int = 0
) -> dict[str, pd.DataFrame]:
    """Where a model's image rows lie among its vocabulary's, and which words of texts are nearest to objects' patches.

    Returns the tables of `connected` and of `named_in_context`, those without rows where no item is about a generated
    scene of two objects or more. Raises as `connected` does.
    """
    tables = connected(shared or Shared(model, items), items, seed=seed)
    return {**tables, **named_in_context(model, items, seed=seed)}


def _named(reader: str) -> str:
    return f"reader == '{reader}' and {AT_CONNECTOR}"


CLAIMS = (
    Claim(
        "nearer",
        "{model}: image rows are nearer to vocabulary rows than the same rows turned at random about their mean "
        "(cosine)",
        NEARER,
        control="the mean of the rotations",
        unit="images",
        margin=0.01,  # of a cosine: replicas that pass are 0.05 and more above their rotations
    ),
    Claim(
        "blend_in",
        "{model}: image rows are harder to tell from words than words are from each other",
        APARTNESS,
        control="other words in place of image rows",
        unit="images",
        margin=0.05,  # of a share of rows, of which half are sorted rightly by chance
        more=False,
        # An untrained connector lands nowhere either, which does not make a trained one land.
        untrained=False,
    ),
    Claim(
        "words_turned",
        f"{{model}}: rebuilt from their {WORDS} nearest vocabulary rows, image rows still answer more than from the "
        "nearest rows of a vocabulary turned at random",
        PairedMean("items", "right_words", "right_turned", right_or_wrong=True),
        control="a vocabulary turned at random",
        unit="images",
        margin=0.05,  # one answer in twenty
    ),
    Claim(
        "words",
        f"{{model}}: rebuilt from their {WORDS} nearest vocabulary rows, image rows still answer more than from "
        "random ones",
        PairedMean("items", "right_words", "right_random", right_or_wrong=True),
        control="as many random vocabulary rows",
        unit="images",
        margin=0.05,
        requires=("words_turned",),
    ),
    Claim(
        "in_context",
        "{model}: the words of texts that are nearest to an object's patches, as the language model receives them, "
        "name that object more than another one of its scene (share of patches)",
        NAMED,
        control="words for the other object; names dealt out anew",
        unit="images",
        margin=0.05,  # one patch in twenty
    ),
    Claim(
        "in_context_deeper",
        "{model}: behind the language layers, share of an object's patches that are nearest to words of texts for that "
        "object (mean over layers)",
        Described("lens", "own", "other", where=f"reader == 'context' and not {AT_CONNECTOR}"),
        control="words for the other object",
        unit="images, layer by layer",
        descriptive=True,
    ),
    Claim(
        "same_tokens",
        "{model}: share of an object's patches, as the language model receives them, that are nearest to vocabulary "
        "rows for that object, among those of the texts' own tokens",
        Described("lens", "own", "other", where=_named("same_tokens")),
        control="words for the other object",
        unit="images",
        descriptive=True,
    ),
    Claim(
        "vocabulary",
        "{model}: share of an object's patches, as the language model receives them, that are nearest to vocabulary "
        "rows for that object, among all rows",
        Described("lens", "own", "other", where=_named("vocabulary")),
        control="words for the other object",
        unit="images",
        descriptive=True,
    ),
    Claim(
        "kept",
        f"{{model}}: share of items answered right from {WORDS} words a row",
        Described("items", "right_words", "right"),
        control="the image rows as they are",
        unit="items",
        descriptive=True,
    ),
    Claim(
        "longer",
        "{model}: how much longer image rows are than question rows (log2 of the ratio)",
        Described("images", "longer", 0.0),
        control="as long",
        unit="images",
        descriptive=True,
    ),
)


def shown(measured: Mapping[str, Tables], items: Sequence[Item]) -> Shown:
    """Tables nearest, answers, named, named_by_layer, gap and stages; a sentence a model."""
    rows = []
    for model, tables in measured.items():
        draws = tables["rotations"]
        null = draws.loc[draws["draw"] != OBSERVED, "cosine"].to_numpy(dtype=float)
        own = draws.loc[draws["draw"] == OBSERVED].iloc[0]
        low, high = np.quantile(null, [TAIL, 1 - TAIL])
        rows += [
            (model, "image rows", own["cosine"], np.nan, np.nan, int(own["n"])),
            (model, "turned at random", null.mean(), low, high, int(own["n"])),
        ]
    answers = {
        "right": "image rows as they are",
        "right_words": "rebuilt from nearest words",
        "right_turned": "from nearest rows,\nvocabulary turned",
        "right_random": "from random rows",
    }
    nearest = pd.DataFrame(rows, columns=["model", "measure", "mean", "low", "high", "n"])
    return Shown(
        tables={
            "nearest": nearest,
            "answers": means(measured, "items", answers),
            "named": _by_reader(measured),
            "named_by_layer": _by_layer(measured),
            "gap": joined(measured, "gap"),
            "stages": joined(measured, "stages"),
        },
        summary=[_sentence(model, nearest, tables["lens"]) for model, tables in measured.items()],
    )


_READERS = {
    "context": "in context",
    "same_tokens": "rows of the same tokens",
    "vocabulary": "all vocabulary rows",
}
MORE = "named more than another (share)"
"""The column is the name of what is drawn, on the figure, too."""


def _by_reader(measured: Mapping[str, Tables]) -> pd.DataFrame:
    """As the language model receives patches: columns model, measure, mean, low, high, n."""
    parts = []
    for reader, words in _READERS.items():
        rows = {model: {"rows": tables["lens"].query(_named(reader))} for model, tables in measured.items()}
        parts.append(means(rows, "rows", {"own": f"{words}: this object", "other": f"{words}: another"}))
    return pd.concat(parts, ignore_index=True)


def _by_layer(measured: Mapping[str, Tables]) -> pd.DataFrame:
    """A row a model and point: own and other by reader, `MORE` (in context) with low and high, n (patches)."""
    records = []
    for model, tables in measured.items():
        for point, rows in tables["lens"].groupby("point", sort=False):
            record = {"model": model, "point": point}
            for reader, own in rows.groupby("reader", sort=False):
                record |= {f"{name}_{reader}": own[name].to_numpy(dtype=float).mean() for name in ("own", "other")}
            told = rows.loc[rows["reader"] == "context"]
            more = (told["own"] - told["other"]).to_numpy(dtype=float)
            record[MORE], record["low"], record["high"] = clustered_mean(more, told["cluster"].to_numpy())
            records.append({**record, "n": int(told["rows"].sum())})
    columns = [f"{name}_{reader}" for reader in ("context", "same_tokens") for name in ("own", "other")]
    return pd.DataFrame(records, columns=["model", "point", *columns, MORE, "low", "high", "n"])


def _sentence(model: str, nearest: pd.DataFrame, lens: pd.DataFrame) -> str:
    own, turned = (row for row in nearest.query("model == @model").to_dict("records"))
    told = lens.query(_named("context"))
    if told.empty:
        words = "What patches name in context was not read: it takes generated scenes of two objects or more."
    else:
        named = told[["own", "other"]].mean()
        words = (
            f"Of an object's patches {named['own']:.1%} are nearest, in context, to a word for it, and "
            f"{named['other']:.1%} to the word for another object of the scene."
        )
    return (
        f"{model}'s image rows have a mean cosine of {own['mean']:.3f} to the nearest vocabulary row; turned at random "
        f"about their mean {turned['mean']:.3f} (95 % of rotations: {turned['low']:.3f} to {turned['high']:.3f}). "
        f"{words}"
    )


_LAYERED = {
    "model": "model",
    "point": "read at",
    "own_context": "in context: its object",
    "other_context": "another",
    "own_same_tokens": "rows of the same tokens: its object",
    "other_same_tokens": "another",
}
"""Columns that a page shows."""

FINDING = Finding(
    id="C1",
    question="Does the connector land on the language manifold?",
    explains="pretraining",
    claims=CLAIMS,
    measure=lands_on_words,
    wants="items with images",
    shown=shown,
    caveats=(
        "Rows that lie apart from all words may still be read well: the language model was trained on what the "
        "connector gives it. Being near to words, or rebuilt from them, is one way to land and not the only one.",
        "The least squares of a few rows keep some of any row; what counts is what other rows keep.",
        "What patches name is asked of colors and shapes alone, in texts that speak of little else: a bank of many "
        "texts has more to be near to.",
    ),
    sections=(
        Section(
            "Are image rows near to words?",
            (
                FigureOf(
                    "nearest",
                    "measures_by_model",
                    "nearest",
                    "Mean cosine of image rows to their nearest vocabulary row, and of the same rows turned at random "
                    "about their mean: bars reach over 95 % of the rotations.",
                    "cosine to the nearest vocabulary row",
                    {
                        "title": "Are image rows near to words?",
                        "label": "cosine to the nearest vocabulary row",
                        "shares": False,
                    },
                    says="Image rows are nearer to words than rows turned at random",
                    claims=("nearer",),
                ),
                FigureOf(
                    "gap",
                    "gap_by_layer",
                    "gap",
                    "Mean cosines between and within image rows and rows of the question, where block 0 receives them "
                    "and behind every layer. Rows of the same few words are alike whatever images do.",
                    "mean cosines by layer",
                    says="Image rows are harder to tell from words than words are",
                    claims=("blend_in",),
                ),
            ),
        ),
        Section(
            "What do words keep of an image?",
            (
                FigureOf(
                    "words",
                    "measures_by_model",
                    "answers",
                    f"Share of items answered right where every image row is rebuilt from {WORDS} rows of the "
                    "vocabulary: its nearest, the nearest of a vocabulary turned at random, random ones.",
                    "share right by how image rows are rebuilt",
                    {"title": "What do words keep of an image?", "note": "95 % by Student's t over images"},
                    says="Image rows can be rebuilt from the nearest words",
                    claims=("words_turned",),
                ),
                TableOf(
                    "answers",
                    {
                        "model": "model",
                        "measure": "image rows",
                        "mean": "share right",
                        "low": "95 % from",
                        "high": "to",
                        "n": "n",
                    },
                ),
            ),
        ),
        Section(
            "Which words are patches nearest to?",
            (
                FigureOf(
                    "named",
                    "measures_by_model",
                    "named",
                    "Share of an object's patches, as the language model receives them, that are nearest to a word for "
                    "its color or shape, and to the word for another object of its scene: among tokens of texts behind "
                    "the language layers (in context), vocabulary rows of the very same tokens, and all rows.",
                    "share of patches that name their object, or another",
                    {"title": "Do patches name their object?", "label": "share of patches", "note": "95 % over images"},
                    says="Patches name their own object",
                    claims=("in_context",),
                ),
                FigureOf(
                    "named_by_layer",
                    "dimension_by_stage",
                    "named_by_layer",
                    "The share that names its object less the share that names another, in context, where block 0 "
                    "receives patches and behind the language layers; bands: 95 % over images.",
                    "share of patches that name their object, less another, by layer",
                    {"measure": MORE},
                ),
                TableOf("named", SHARES),
                TableOf("named_by_layer", _LAYERED),
            ),
        ),
        Section(
            "How many directions are used?",
            (
                FigureOf(
                    "effective_rank",
                    "dimension_by_stage",
                    "stages",
                    "Effective rank of image rows. It grows with the width and the number of rows, so models of "
                    "different width are not to be compared.",
                    "effective rank by stage",
                ),
                FigureOf(
                    "intrinsic_dimension",
                    "dimension_by_stage",
                    "stages",
                    "Intrinsic dimension of image rows (TwoNN).",
                    "intrinsic dimension by stage",
                    {"measure": "intrinsic_dimension"},
                ),
            ),
        ),
    ),
    methods=(
        f"Nearness: the mean over {TURNED} image rows (of as many images where there are enough) of max_w cos(x, w) "
        f"over all vocabulary rows w that stand for a token, where block 0 receives x. Null: {TURNS} random rotations "
        "Q (Haar; Mezzadri 2007, arXiv:math-ph/0609050) of the rows about their mean m, x -> m + Q (x - m). The mean "
        "stays, because embedding rows share a direction and a constant that points there is near to all of them; were "
        "all of x turned, that alone would pass. Where the deviations' orientation has nothing to do with the "
        "vocabulary, what was measured is one more draw, so p is exact. It must also hold over images: of each, what "
        "its rows are nearer than turned.",
        "Telling apart: logistic regression on rows of images and of as many words, every word once, images and words "
        "held out together; control: other words in place of image rows, with the same numbers and the same parts. "
        "Classifiers of five parts learned from most of the same rows: the variance over images is taken 2.25 times "
        "(Nadeau and Bengio 2003, Machine Learning 52). "
        "Rows of questions do not serve: they are the same few words again and again, from which any words are told.",
        f"Words: every image row x is replaced, where it leaves the connector, by its projection onto the span of its "
        f"{WORDS} nearest vocabulary rows W (cosine), W^T (W W^T)^+ W x, while the model is asked. Controls: the "
        "nearest rows of a vocabulary turned at random, anew for every image, which are as many and as near as chance "
        "allows; random rows.",
        f"In context: the contextual lens (LatentLens; Krojer et al. 2026, arXiv:2602.00462) over {TEXTS} captions of "
        f"scenes that are none of the items', at most 20 contexts of a token, behind up to {LAYERS} language layers; a "
        f"patch is read as the token that is nearest by cosine, of whatever layer, in up to {LOOKED_AT} images. Of an "
        "object's patches, by how much of it each holds, counts the share read as a word for its color or shape, where "
        "another object of its scene has another; control: the share read as the other's word, over all ordered pairs "
        "of objects, so that each is held against the other both ways and what all patches of a scene say cancels. The "
        f"test: over images, and over {DEALT} deals of the names (colors' among colors, shapes' among shapes; the "
        "true names are one more draw), for what is alike of all images of one connector is no more than one chance. "
        "Where patches are read is fixed by the question: where the language model receives them, before any layer "
        "of it; other layers are described. Deviations: the bank is of captions, not of a large corpus, and does not "
        "hold what block 0 receives, which is the vocabulary's.",
        "Gap: Liang et al. 2022, arXiv:2203.02053. Effective rank: Roy and Vetterli 2007. Intrinsic dimension: TwoNN, "
        "Facco et al. 2017.",
    ),
)
