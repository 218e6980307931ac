"""Where in a generated answer the word stands that is scored: " blue" in "The answer is blue."."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vlm_probe.errors import VlmProbeError
from vlm_probe.items.normalize import plain_answer, word_spans


def answer_token(tokenizer: Any, ids: Sequence[int], text: str) -> int:
    """The index of the generated token at which the scored word begins: 0 where the answer is that word and no more.

    With it relevancy is asked of the word, not of what leads up to it:
    `relevancy(model, inputs.with_answer(list(ids[:index])), target=ids[index])`.

    Parameters
    ----------
    ids: the tokens of the answer as they were generated (`Answered.ids`, `HookedVLM.answer_tokens`).
    text: what is looked for: the right answer, or the answer as it is compared (the first of what `score_answer`
        gives), which of a wrong answer is the model's own word.

    The words of `text` are looked for side by side, in any case and with number words as digits, articles as they are
    or left out; first in what the answer's frame holds (`plain_answer`), then in all of it. Where they do not stand
    there ("no", read from "There is not"), it is the token at which begins what the frame holds.

    Raises VlmProbeError for an answer without a token.
    """
    if not ids:
        raise VlmProbeError(f"an answer without a token has none at which {text!r} begins")
    said = _decoded(tokenizer, ids)
    start = _start(said, text)
    return next((i for i in range(len(ids)) if _length(tokenizer, ids[: i + 1]) > start), 0)


def _start(said: str, text: str) -> int:
    """Where the scored word begins in an answer, counted in characters."""
    every = word_spans(said, articles=True)
    # A frame stands at the beginning: what it holds are the last words.
    held = every[len(every) - len(word_spans(plain_answer(said), articles=True)) :]
    if not held:  # marks alone
        return len(said) - len(said.lstrip())
    for earliest in (held[0][1], 0):
        for articles in (True, False):
            wanted = [word for word, _ in word_spans(text, articles=articles)]
            spans = [span for span in word_spans(said, articles=articles) if span[1] >= earliest]
            for i in range(len(spans) - len(wanted) + 1 if wanted else 0):
                if [word for word, _ in spans[i : i + len(wanted)]] == wanted:
                    return spans[i][1]
    return held[0][1]


def _decoded(tokenizer: Any, ids: Sequence[int]) -> str:
    return tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)


def _length(tokenizer: Any, ids: Sequence[int]) -> int:
    """Characters that these tokens spell, a last one included of which some bytes are still to come."""
    text = _decoded(tokenizer, ids)
    whole = text.rstrip("\ufffd")  # as many as there are bytes, for one character
    return len(whole) + (len(whole) < len(text))
