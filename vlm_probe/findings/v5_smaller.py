"""V5: would a smaller vocabulary do?

The rows that stay are chosen from other text than that of the items asked (training scenes, or the items of other
images); the same items are then asked of the whole model and of ones that hold the most frequent of these rows alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from vlm_probe.errors import VlmProbeError
from vlm_probe.evidence import Claim, Described, PairedMean, Tables, clustered_mean
from vlm_probe.findings.finding import FigureOf, Finding, Section, Shown, TableOf
from vlm_probe.findings.shared import Shared, about
from vlm_probe.hooked import HookedVLM
from vlm_probe.hooked.anatomy import embedding, parameter_count
from vlm_probe.items import Item
from vlm_probe.vocabulary import apart, needed_ids, shrunk_answers, used_ids
from vlm_probe.vocabulary.shrinking import TRAINING_ITEMS

SHARES = (100, 75, 50, 25)
"""Percent of the ids that the text uses which stay, the most frequent first."""


def smaller_vocabulary(
    model: HookedVLM,
    items: Sequence[Item],
    *,
    shared: Shared | None = None,
    seed: int = 0,
    texts: Sequence[str] = (),
) -> dict[str, pd.DataFrame]:
    """What a model answers as rows of its vocabulary are taken away.

    items: with right answers. texts: what says which rows stay, longest the most frequent; then all items are asked.
    Without, see `vocabulary.apart`: of items from files half of the images are asked.

    Returns two tables. items: the columns of `shared.about` for those asked, right (of the whole model) and for each of
    `SHARES` right_<share> (0 of one that cannot be spelled any more), same_<share> (answered as by the whole model) and
    readable_<share>, all 0 or 1. sizes: a row a share, the whole model first (share NaN): share, rows, parameters,
    weight_bytes, and rows_kept and bytes_kept (of the whole model's).

    Raises VlmProbeError for a language model alone, without a tokenizer, and for items of one image alone.
    """
    if model.vision_config is None:
        raise VlmProbeError(
            f"{model.name} is a language model alone; the items ask about images, which take an encoder"
        )
    own = shared or Shared(model, items)
    asked, read = (list(items), []) if texts else apart(items, seed=seed)
    if not asked or not (texts or read):
        raise VlmProbeError(
            f"the {len(items)} items are about too few images for half of them to say which rows stay: give items of "
            "two images or more, or text, smaller_vocabulary(model, items, texts=texts)"
        )
    words = [replace(item, question=own.question(item)) for item in read]
    order = used_ids(model.tokenizer, texts) if texts else needed_ids(model, words)
    whole = own.answers(asked)
    table = about(asked).assign(right=whole["correct"].to_numpy(dtype=int))
    sizes = [_size(model, None)]
    for share in SHARES:
        found = shrunk_answers(model, asked, order[: round(len(order) * share / 100)], suffix=own.suffix)
        columns = {
            f"right_{share}": found.answers["correct"].to_numpy(dtype=int),
            f"same_{share}": (found.answers["answer"].to_numpy() == whole["answer"].to_numpy()).astype(int),
            f"readable_{share}": found.answers["readable"].to_numpy(dtype=int),
        }
        table = table.assign(**columns)
        sizes.append(_size(found.model, share))
        del found
    cost = pd.DataFrame(sizes)
    first = cost.iloc[0]
    kept = {"rows_kept": cost["rows"] / first["rows"], "bytes_kept": cost["weight_bytes"] / first["weight_bytes"]}
    return {"items": table, "sizes": cost.assign(**kept)}


def _size(model: HookedVLM, share: int | None) -> dict[str, int | float]:
    matrix, count = embedding(model), parameter_count(model)
    return {
        "share": float("nan") if share is None else share,
        "rows": len(matrix),
        "parameters": count,
        "weight_bytes": count * matrix.element_size(),
    }


def _shown(measured: Mapping[str, Tables], items: Sequence[Item]) -> Shown:
    """Table sizes: what is left and what is answered, a row a model and size; a sentence a model."""
    parts, said = [], []
    for model, tables in measured.items():
        answers, images = tables["items"], tables["items"]["image"].to_numpy()
        rows = []
        for size in tables["sizes"].to_dict("records"):
            ending = "" if np.isnan(size["share"]) else f"_{size['share']:.0f}"
            right = clustered_mean(answers[f"right{ending}"].to_numpy(dtype=float), images)
            readable = float(answers[f"readable{ending}"].to_numpy().mean()) if ending else 1.0
            same = float(answers[f"same{ending}"].to_numpy().mean()) if ending else 1.0
            accuracy = dict(zip(("accuracy", "low", "high"), right, strict=True))
            rows.append(
                {"model": model, **size, **accuracy, "readable": readable, "same_answer": same, "n": len(answers)}
            )
        parts.append(pd.DataFrame(rows))
        whole, kept = rows[0], rows[1]
        said.append(
            f"{model} answers {whole['accuracy']:.1%} of {len(answers)} items right, and {kept['accuracy']:.1%} with "
            f"{kept['rows']:,} of its {whole['rows']:,} rows (those that other text uses, and those that always stay), "
            f"which takes {1 - kept['bytes_kept']:.0%} of the memory for weights away."
        )
    sizes = pd.concat(parts, ignore_index=True).astype({"share": "Int64"})
    return Shown(tables={"sizes": sizes}, summary=said)


MARGIN = 0.02
"""Of the share right: two answers in a hundred, for which someone short of memory would give the rows away."""


def _claims() -> tuple[Claim, ...]:
    found = []
    for share in SHARES:
        words = "the rows that other text uses alone" if share == 100 else f"the most frequent {share} % of them alone"
        found.append(
            Claim(
                f"worse_{share}",
                f"{{model}}: with {words} it answers fewer items right (share of items)",
                PairedMean("items", f"right_{share}", "right", right_or_wrong=True),
                control="with all rows",
                unit="images",
                margin=MARGIN,
                more=False,
            )
        )
    for name, words in (("rows", "vocabulary's rows"), ("bytes", "memory for weights")):
        found.append(
            Claim(
                name,
                f"{{model}}: share of the {words} that stays with the rows that other text uses",
                Described("sizes", f"{name}_kept", 1.0, where=f"share == {SHARES[0]}"),
                control="all of it",
                unit="models",
                descriptive=True,
            )
        )
    return tuple(found)


def _answered(items: Sequence[Item]) -> list[Item]:
    return [item for item in items if item.answer.strip()]


FINDING = Finding(
    id="V5",
    question="Would a smaller vocabulary do?",
    explains="vocabulary",
    claims=_claims(),
    measure=smaller_vocabulary,
    picks=_answered,
    wants="items with right answers",
    shown=_shown,
    sections=(
        Section(
            "As rows are taken away",
            (
                FigureOf(
                    "shrinking",
                    "shrinking",
                    "sizes",
                    "Share of items that are answered right, and whose question and answer can still be spelled, "
                    "against the rows that are left.",
                    "share right against rows of the vocabulary",
                    says="With the rows in use alone fewer answers are right",
                    claims=("worse_100",),
                ),
                TableOf(
                    "sizes",
                    {
                        "model": "model",
                        "share": "% of ids kept (–: all rows)",
                        "rows": "rows",
                        "bytes_kept": "memory",
                        "accuracy": "share right",
                        "low": "95 % from",
                        "high": "to",
                        "readable": "spelled",
                        "same_answer": "same answer",
                        "n": "n",
                    },
                ),
            ),
        ),
    ),
    methods=(
        f"Which rows stay is decided by text that no asked item is part of: {TRAINING_ITEMS} questions and answers "
        "about training scenes of every family asked, or, of items from files, those of half of the images (drawn at "
        "random, seed {seed}), the other half being asked. The most frequent tokens stay longest; special tokens, "
        "single bytes and the prompt's own stay always.",
        "The model keeps all other weights; its embedding and unembedding lose rows, so that what is left is what "
        "the whole model would say of these tokens. An item that cannot be spelled any more counts as answered "
        "wrong.",
        "Differences: sign flips (McNemar's exact test for an item an image) and Student's t over images. Where "
        "hardly any answer changes, their spread would say that none ever does: two images are added to the "
        "interval, one that differs each way (after Agresti and Min 2005).",
    ),
    caveats=(
        "A model that answers hardly anything right loses nothing: see what it answers with all rows.",
        "It is the vocabulary that is made smaller, of a model trained with all of it; what training with a smaller "
        "one would give is V6's question.",
    ),
)
