"""V1: what does the vocabulary cost?

Counted from the configuration: parameters, memory and operations of embedding and unembedding beside all else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from vlm_probe.evidence import Claim, Described, Tables
from vlm_probe.findings.finding import FigureOf, Finding, Section, Shown, TableOf
from vlm_probe.findings.shared import Shared
from vlm_probe.hooked import HookedVLM
from vlm_probe.hooked.anatomy import config
from vlm_probe.items import Item
from vlm_probe.vocabulary.budget import CONTEXT, budget

VOCABULARY = ("embedding", "unembedding")
"""The parts that grow with it."""
AMOUNTS = {
    "parameters": "parameters (and so of the memory for weights)",
    "flops_per_token": "operations for one token of the language model",
    "activation_bytes_per_token": "bytes that the layers put out for one token (what training keeps)",
}
"""Column of `vocabulary.budget` -> its words."""


def vocabulary_cost(
    model: HookedVLM, items: Sequence[Item], *, shared: Shared | None = None, seed: int = 0
) -> dict[str, pd.DataFrame]:
    """What a model's vocabulary costs; neither items nor weights are looked at.

    Returns two tables. parts: as `vocabulary.budget` has them. cost: one row, with rows (of the vocabulary), width,
    tied (whether embedding and unembedding are one matrix), and for each of `AMOUNTS` the whole model's,
    vocabulary_<amount>, other_<amount> (of all else), <amount>_share (the vocabulary's) and <amount>_rest (1 less
    that).

    Raises VlmProbeError as `budget` does.
    """
    parts = budget(config(model))
    tied, rows = bool(parts.attrs["tied"]), int(parts.attrs["vocabulary"])
    parts.attrs = {}
    own = parts["part"].isin(VOCABULARY).to_numpy()
    cost: dict[str, object] = {"rows": rows, "width": int(model.text_config.hidden_size), "tied": tied}
    for name in AMOUNTS:
        amounts = parts[name].to_numpy()
        whole, ours = int(amounts.sum()), int(amounts[own].sum())
        share = ours / whole
        cost |= {name: whole, f"vocabulary_{name}": ours, f"other_{name}": whole - ours}
        cost |= {f"{name}_share": share, f"{name}_rest": 1 - share}
    return {"parts": parts, "cost": pd.DataFrame([cost])}


def _shown(measured: Mapping[str, Tables], items: Sequence[Item]) -> Shown:
    """Tables parts and cost of all models; a sentence a model."""
    joined = {
        name: pd.concat([tables[name].assign(model=model) for model, tables in measured.items()], ignore_index=True)
        for name in ("parts", "cost")
    }
    said = []
    for model, tables in measured.items():
        row = tables["cost"].to_dict("records")[0]
        tied = ", embedding and unembedding being one matrix" if row["tied"] else ""
        said.append(
            f"{row['parameters_share']:.0%} of {model}'s {row['parameters']:,} parameters are its vocabulary "
            f"({row['rows']:,} rows of {row['width']:,}{tied}), and {row['flops_per_token_share']:.0%} of the "
            "operations that a token takes."
        )
    return Shown(tables=joined, summary=said)


def _claims() -> tuple[Claim, ...]:
    found = []
    for name, words in AMOUNTS.items():
        own = Claim(
            name,
            f"{{model}}: share of the {words} that is the vocabulary's",
            Described("cost", f"{name}_share", f"{name}_rest"),
            control="the share of all else",
            unit="models",
            descriptive=True,
        )
        pair = Claim(
            f"{name}_more",
            f"{{second}} beside {{first}}: share of the {words} that is the vocabulary's",
            Described("cost", f"{name}_share"),
            control="the share in {first}",
            unit="models",
            of="pair",
            descriptive=True,
        )
        found += [own, pair]
    return tuple(found)


FINDING = Finding(
    id="V1",
    question="What does the vocabulary cost?",
    explains="vocabulary",
    claims=_claims(),
    measure=vocabulary_cost,
    wants="items (any: none is looked at)",
    untrained=False,
    shown=_shown,
    sections=(
        Section(
            "What the vocabulary costs",
            (
                FigureOf(
                    "parameters",
                    "budget_bars",
                    "parts",
                    "Parameters of every part. A matrix that embedding and unembedding share is the embedding's.",
                    "shares of the parameters",
                ),
                FigureOf(
                    "flops",
                    "budget_bars",
                    "parts",
                    "Operations that one token takes in the language model. Not drawn: looking up an embedding takes "
                    "none, norms are not counted, encoder and connector run once an image.",
                    "shares of the operations for one token",
                    {"column": "flops_per_token"},
                ),
                TableOf(
                    "cost",
                    {
                        "model": "model",
                        "rows": "rows",
                        "width": "width",
                        "parameters": "parameters",
                        "parameters_share": "vocabulary's share",
                        "flops_per_token": "operations a token",
                        "flops_per_token_share": "share of these",
                    },
                ),
            ),
        ),
    ),
    methods=(
        "Counted on the model built without storage from its configuration: nothing is estimated, and softmax, norms "
        "and activation functions are left out of the operations.",
        "Operations are multiplications and additions for one token, of image or text alike, that attends to "
        f"{CONTEXT:,} positions; the encoder's are not among them.",
    ),
    caveats=("A vocabulary's rows can be many and cheap: a share says nothing of whether they are needed (V2, V5).",),
)
