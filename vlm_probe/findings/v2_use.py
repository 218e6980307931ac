"""V2: is the vocabulary used?

What a model's tokenizer makes of the items' questions and answers: how many of its tokens they use, and how many tokens
a word takes. Described, not tested: it is about text and a tokenizer, and no other text was drawn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas as pd

from vlm_probe.errors import VlmProbeError
from vlm_probe.evidence import Claim, Described, Tables
from vlm_probe.findings.finding import FigureOf, Finding, Section, Shown, TableOf
from vlm_probe.findings.shared import Shared, about
from vlm_probe.hooked import HookedVLM
from vlm_probe.items import Item
from vlm_probe.vocabulary import expected_growth, usage, words_in


def text_of(item: Item) -> str:
    """The text of an item: its question, and its answer behind it."""
    return f"{item.question} {item.answer}".strip()


def vocabulary_use(
    model: HookedVLM, items: Sequence[Item], *, shared: Shared | None = None, seed: int = 0
) -> dict[str, pd.DataFrame]:
    """What a model's tokenizer makes of the items' text.

    Returns three tables. items: the columns of `shared.about`, tokens and words of question and answer, and
    answer_tokens (behind a space, as answers stand in a sentence; NaN without an answer). usage: one row, as
    `vocabulary.usage` has it, and unused (entries that the text never has). growth: what
    `vocabulary.expected_growth` gives.

    Raises VlmProbeError without a tokenizer.
    """
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise VlmProbeError(
            f"{model.name} has no tokenizer, so nothing says which of its tokens a text uses; open it from a folder "
            "that holds one"
        )

    def cut(texts: list[str]) -> list[list[int]]:
        return tokenizer(texts, add_special_tokens=False)["input_ids"]

    texts = [text_of(item) for item in items]
    ids = cut(texts)
    # Behind another word, since tokenizers treat the beginning of a text in ways of their own.
    before = len(cut(["x"])[0])
    answers = cut([f"x {item.answer.strip()}" for item in items])
    table = about(items).assign(
        tokens=[len(row) for row in ids],
        words=[len(words_in(text)) for text in texts],
        answer_tokens=[
            len(row) - before if item.answer.strip() else float("nan") for row, item in zip(answers, items, strict=True)
        ],
    )
    said = [item.answer for item in items if item.answer.strip()]
    found = usage(tokenizer, texts, answers=said, name=str(model.name))
    row = {**found, "unused": found["vocabulary"] - found["used"], "unused_share": 1 - found["used_share"]}
    return {
        "items": table,
        "usage": pd.DataFrame([row]),
        "growth": expected_growth([i for one in ids for i in one]),
    }


def _shown(measured: Mapping[str, Tables], items: Sequence[Item]) -> Shown:
    """Tables usage and growth of all models; a sentence a model."""
    joined = {
        name: pd.concat([tables[name].assign(model=model) for model, tables in measured.items()], ignore_index=True)
        for name in ("usage", "growth")
    }
    said = []
    for model, tables in measured.items():
        row = tables["usage"].to_dict("records")[0]
        single = row["single_token_answers"]
        answers = "" if math.isnan(single) else f"; {single:.0%} of the answers are one token"
        said.append(
            f"The {row['texts']:,} questions with their answers use {row['used']:,} of {model}'s {row['vocabulary']:,} "
            f"tokens ({row['used_share']:.2%}), {row['tokens_per_word']:.2f} tokens a word{answers}."
        )
    return Shown(tables=joined, summary=said)


_DESCRIBED = (
    (
        "used",
        "share of its tokens that the items' questions and answers use",
        "used_share",
        "unused_share",
        "the share that they never use",
    ),
    ("fertility", "tokens a word of the items' questions and answers", "tokens_per_word", 1.0, "one token a word"),
    ("answers", "share of the items' answers that are one token", "single_token_answers", 1.0, "all answers"),
)
"""Claim, what it says, column of the table usage, its control and that in words."""


def _claims() -> tuple[Claim, ...]:
    found = []
    for name, words, value, control, against in _DESCRIBED:
        described = {"unit": "texts", "descriptive": True}
        found.append(Claim(name, f"{{model}}: {words}", Described("usage", value, control), against, **described))
        pair = Described("usage", value)
        found.append(
            Claim(
                f"{name}_more",
                f"{{second}} beside {{first}}: {words}",
                pair,
                "the same in {first}",
                of="pair",
                **described,
            )
        )
    return tuple(found)


FINDING = Finding(
    id="V2",
    question="Is the vocabulary used?",
    explains="vocabulary",
    claims=_claims(),
    measure=vocabulary_use,
    wants="items",
    untrained=False,
    shown=_shown,
    sections=(
        Section(
            "How much of the vocabulary is used",
            (
                FigureOf(
                    "growth",
                    "vocabulary_growth",
                    "growth",
                    "Different tokens among so many of the items' questions and answers, drawn at random (expected "
                    "number, Hurlbert 1971). Of lines that meet, the first is the widest. A line that still rises at "
                    "the end says that more text would use more.",
                    "different tokens along the text",
                ),
                TableOf(
                    "usage",
                    {
                        "model": "model",
                        "vocabulary": "tokens there are",
                        "used": "used",
                        "used_share": "share used",
                        "words": "words read",
                        "tokens_per_word": "tokens a word",
                        "heaps_beta": "beta (Heaps)",
                        "single_token_answers": "answers of one token",
                    },
                ),
            ),
        ),
    ),
    methods=(
        "Text: the questions of {n} items with their answers behind them, cut by each model's own tokenizer without "
        "special tokens. Fertility is tokens over words (runs of letters and digits, and other visible characters "
        "alone).",
        "Along the text different tokens = k tokens^beta (Heaps 1978), by least squares in logarithms; frequency "
        "against rank (Zipf 1949) likewise, over tokens that occur twice or more.",
    ),
    caveats=(
        "A token that this text never has may be well trained and wanted by other text: whether it is trained is V3's "
        "question.",
        "Questions about generated scenes have few words; a benchmark's own questions use more of a vocabulary.",
    ),
)
