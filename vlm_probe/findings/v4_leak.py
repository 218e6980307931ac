"""V4: does probability leak to rows that nobody trained?

Through the logit lens, at image positions (which no one taught to predict anything) and where the answer is predicted:
the probability of rows known to be untrained beside as many random rows that the items' text uses, and beside as many
that it does not use but of which nothing says that they are untrained. Two random sets of rows differ at every image
alike, and so would pass for different over images: a verdict takes both, images and rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from vlm_probe.embedding import used_rows
from vlm_probe.errors import VlmProbeError
from vlm_probe.evidence import Claim, Described, EveryWay, PairedMean, Tables
from vlm_probe.findings.finding import FigureOf, Finding, Section, Shown
from vlm_probe.findings.shared import Shared, about
from vlm_probe.hooked import HookedVLM
from vlm_probe.hooked.anatomy import head_bias, unembedding
from vlm_probe.items import Item
from vlm_probe.lens.logit_lens import stream_lens
from vlm_probe.vocabulary import (
    answer_and_image_rows,
    known_unused,
    log_probabilities,
    needed_ids,
    summarize_leakage,
)

ROWS = 256
"""Rows of each set that are looked at, at most."""
SETS = ("untrained", "used", "other")
PLACES = {"answer": "where the answer is predicted", "image": "at image positions (mean over layers)"}


def leaked_probability(
    model: HookedVLM,
    items: Sequence[Item],
    *,
    shared: Shared | None = None,
    seed: int = 0,
    reference: Sequence[int] = (),
) -> dict[str, pd.DataFrame]:
    """What untrained, used and other rows get of the probability, item by item and row by row.

    items: with right answers. reference: ids known to be untrained; `known_unused` if none are given.

    Returns the tables items and rows (see `by_item_and_row`), items also with unused_mass (probability on all tokens
    that the items' text never uses, at the output where the answer is predicted) and unused_share (those tokens among
    all), and layers: id, image, layer, and of every set in `SETS` the joint probability of its rows, answer_<set> and
    image_<set>.

    Raises VlmProbeError for a language model alone, and where no id is known to be untrained.
    """
    if model.vision_config is None:
        raise VlmProbeError(
            f"{model.name} is a language model alone; leakage is read at image positions, which take an encoder"
        )
    own, table, tokens = shared or Shared(model, items), unembedding(model), used_rows(model).nonzero().flatten()
    used = needed_ids(model, [replace(item, question=own.question(item)) for item in items])
    known = list(reference) or known_unused(model)
    drawn = drawn_rows(known, used, tokens.tolist(), special=model.tokenizer.all_special_ids, seed=seed)
    if not len(drawn):
        raise VlmProbeError(
            f"no id of {model.name} that the items' text does not use is known to be untrained: give ids that its "
            "training text never has, leaked_probability(model, items, reference=ids)"
        )
    ids = drawn[list(SETS)].to_numpy().T  # set, row; -1 for none
    groups = {"unused": sorted(set(tokens.tolist()) - set(used))}
    answers, images, layers, unused, bias = [], [], [], [], head_bias(model)
    for item in items:
        hidden = answer_and_image_rows(model, item, suffix=own.suffix)
        log_p = log_probabilities(hidden, table, ids.ravel().clip(0).tolist(), bias=bias).numpy().astype(float)
        log_p = log_p.reshape(*log_p.shape[:2], *ids.shape)
        log_p[..., ids < 0] = np.nan
        answers.append(log_p[-1, 0])
        images.append(log_p[:, 1:].mean((0, 1)))
        # Of a set that is short of rows, what as many would have.
        mass = mean_of_rows(np.exp(log_p)) * len(drawn)
        at = {"answer": mass[:, 0], "image": mass[:, 1:].mean(1)}
        columns = {f"{place}_{name}": at[place][:, i] for place in PLACES for i, name in enumerate(SETS)}
        layers.append(pd.DataFrame({"id": item.id, "image": item.image, "layer": np.arange(len(mass)), **columns}))
        read = stream_lens(hidden[-1:], table, k=1, sets=groups, divergences=False, bias=bias)
        unused.append(float(read.mass["unused"][0, 0]))
    tables = by_item_and_row(about(items), drawn, {"answer": np.stack(answers), "image": np.stack(images)})
    share = len(groups["unused"]) / len(table)
    return {
        "items": tables["items"].assign(unused_mass=unused, unused_share=share),
        "rows": tables["rows"],
        "layers": pd.concat(layers, ignore_index=True),
    }


def drawn_rows(
    known: Sequence[int], used: Sequence[int], tokens: Sequence[int], *, special: Sequence[int] = (), seed: int = 0
) -> pd.DataFrame:
    """Random rows side by side, as many of each set: columns untrained, used, other (-1 where there are no more of
    them).

    known: ids known to be untrained; those that are used after all are none. used: ids that the text uses. tokens: all
    ids that stand for a token. special: ids in no set.
    """
    rng = np.random.default_rng(seed)
    left_out = set(special)
    sets = [
        sorted(set(known) - set(used) - left_out),
        sorted(set(used) - left_out),
        sorted(set(tokens) - set(known) - set(used) - left_out),
    ]
    n = min(ROWS, len(sets[0]), len(sets[1]))
    found = {}
    for name, ids in zip(SETS, sets, strict=True):
        chosen = rng.permutation(np.asarray(ids, dtype=int))[:n]
        found[name] = np.concatenate([chosen, np.full(n - len(chosen), -1)])
    return pd.DataFrame(found)


def mean_of_rows(values: np.ndarray) -> np.ndarray:
    """The mean along the last axis of what is there; NaN where nothing is."""
    there = ~np.isnan(values)
    count = there.sum(-1)
    total = np.where(there, values, 0.0).sum(-1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def by_item_and_row(
    items: pd.DataFrame, drawn: pd.DataFrame, log_p: Mapping[str, np.ndarray]
) -> dict[str, pd.DataFrame]:
    """The two tables that claims rest on.

    items: the columns of `shared.about`. drawn: as `drawn_rows` gives it. log_p: place -> [item, set, row]
    log-probability (nats; NaN for a row there is none of).

    Returns items (with the mean over rows, <place>_<set>) and rows (pair, <set>_id, and the mean over items,
    <place>_<set>).
    """
    by_item, by_row = items.copy(), pd.DataFrame({"pair": np.arange(len(drawn))})
    for i, name in enumerate(SETS):
        by_row[f"{name}_id"] = drawn[name].to_numpy()
        for place, values in log_p.items():
            by_item[f"{place}_{name}"] = mean_of_rows(values[:, i])
            by_row[f"{place}_{name}"] = values[:, i].mean(0)
    return {"items": by_item, "rows": by_row}


def _shown(measured: Mapping[str, Tables], items: Sequence[Item]) -> Shown:
    """Tables image and answer (joint probability of the drawn rows of every set, by layer), and items; a sentence a
    model."""
    layers = pd.concat([tables["layers"].assign(model=model) for model, tables in measured.items()], ignore_index=True)
    tables = {}
    for place in PLACES:
        own = layers.rename(columns={f"{place}_{name}": name for name in SETS})
        tables[place] = summarize_leakage(own, *SETS)
    said = []
    for model, found in measured.items():
        n = len(found["rows"])
        means = found["layers"].drop(columns=["id", "image"]).mean()
        said.append(
            f"Of the probability at image positions {model} gives {means['image_untrained']:.2%} to {n} rows known to "
            f"be untrained and {means['image_used']:.2%} to {n} rows that the items' text uses (mean over layers; an "
            "even spread would give both the same)."
        )
    return Shown(tables=tables, summary=said)


MARGIN = math.log(1.25)
"""Of log-probabilities: rows a quarter more or less probable would matter."""


def _claims() -> tuple[Claim, ...]:
    found = []
    controls = {
        "used": "as many random rows that the items' text uses",
        "other": "as many random rows that it does not use and of which nothing says that they are untrained",
    }
    for place, where in PLACES.items():
        for name, control in controls.items():
            columns = (f"{place}_untrained", f"{place}_{name}")
            found.append(
                Claim(
                    f"{place}_{name}",
                    f"{{model}}: {where}, rows known to be untrained are more probable than {control} (mean "
                    "log-probability, nats)",
                    EveryWay((PairedMean("items", *columns), PairedMean("rows", *columns, clusters="pair"))),
                    control=control,
                    unit="images and vocabulary rows",
                    margin=MARGIN,
                )
            )
    unused = {"unit": "images", "descriptive": True}
    found.append(
        Claim(
            "unused",
            "{model}: where the answer is predicted, probability of all tokens that the items' text never uses, "
            "trained or not",
            Described("items", "unused_mass", "unused_share"),
            "their share of the vocabulary",
            **unused,
        )
    )
    found.append(
        Claim(
            "unused_more",
            "{second} beside {first}: where the answer is predicted, probability of all tokens that the items' text "
            "never uses, trained or not",
            Described("items", "unused_mass"),
            "the same in {first}",
            of="pair",
            **unused,
        )
    )
    return tuple(found)


def _answered(items: Sequence[Item]) -> list[Item]:
    return [item for item in items if item.answer.strip()]


FINDING = Finding(
    id="V4",
    question="Does probability leak to rows that nobody trained?",
    explains="vocabulary",
    claims=_claims(),
    measure=leaked_probability,
    picks=_answered,
    wants="items with right answers",
    shown=_shown,
    sections=(
        Section(
            "Where the probability goes, layer by layer",
            (
                FigureOf(
                    "leakage_image",
                    "leakage_by_layer",
                    "image",
                    "Joint probability at image positions, read through the logit lens, of rows known to be "
                    "untrained, of as many random rows that the items' text uses, and of as many others.",
                    "probability at image positions by layer",
                    {"title": "At image positions: how probable are untrained rows?"},
                    says="Untrained rows are more probable than other rows at image positions",
                    claims=("image_other",),
                ),
                FigureOf(
                    "leakage_answer",
                    "leakage_by_layer",
                    "answer",
                    "Joint probability where the answer is predicted, read through the logit lens, of the same rows.",
                    "probability where the answer is predicted, by layer",
                    {"title": "At the answer: how probable are untrained rows?"},
                    says="Untrained rows are more probable than other rows at the answer",
                    claims=("answer_other",),
                ),
            ),
        ),
    ),
    methods=(
        "Logit lens (nostalgebraist 2020): the residual stream behind every layer through the final norm and the "
        "unembedding; the last layer is the model's own output. Of an item's image positions a few are read, evenly "
        "spread.",
        "Known to be untrained: tokens whose names say that they are unused, and for replicas those that no step of "
        f"their training ever read. As many rows of each set, {ROWS} at most, drawn at random (seed {{seed}}).",
        "Claims are about the mean of log p(row), the log-probability of a typical row: of probabilities themselves "
        "a few rows would be all. Student's t and sign flips once over images (means over rows) and once over rows "
        "(means over items); the verdict is that of the less sure of the two (an intersection-union test, Berger "
        "1982).",
    ),
    caveats=(
        "Image positions are not trained to predict anything: their probability is what the model's own words make "
        "of them.",
        "A token that the items' text never uses may be well trained; no more is said of it than that it is not used.",
    ),
)
