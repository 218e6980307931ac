"""Prompts: text around the image placeholders and the question, and their tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vlm_probe.errors import VlmProbeError

IMAGE = "<image>"


@dataclass(frozen=True)
class EncodedPrompt:
    """Token ids of a prompt, one image token per image, and which of them are the question."""

    ids: list[int]
    question: list[int]
    """Indices into `ids`."""
    text: str


def token_text(tokenizer: Any, token_id: int) -> str:
    """A token as readable text: "▁red" and byte-level BPE's "Ġred" are " red"; "<7>" for an id without a token."""
    # Token 511 of a model with 511 rows, say: an image placeholder its tokenizer does not know.
    token = tokenizer.convert_ids_to_tokens(token_id) if token_id < len(tokenizer) else None
    if not token:
        return f"<{token_id}>"
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if type(getattr(backend, "decoder", None)).__name__ == "ByteLevel":
        return tokenizer.convert_tokens_to_string([token])
    return token.replace("▁", " ")


def answer_start(prompt: list[int], whole: list[int]) -> int:
    """Where the answer begins in a prompt with it, given the prompt alone.

    A tokenizer may merge the prompt's last characters with the answer's first: then it is from there.
    """
    return next((i for i, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b), len(prompt))


def _spaced(tokenizer: Any, after: str, answer: str) -> str:
    """The answer as it stands behind what follows the question: with a space where nothing else parts the two."""
    special = tuple(tokenizer.all_special_tokens)
    apart = not answer or not after or after[-1].isspace() or answer[0].isspace() or after.endswith(special)
    return answer if apart else f" {answer}"


def encode_prompt(
    tokenizer: Any,
    template: str,
    question: str,
    *,
    images: str,
    image_token_id: int,
    answer: str = "",
) -> EncodedPrompt:
    """Fill a prompt template and tokenize it, with an answer behind it if there is one.

    images: the text that stands for them, with `<image>` for the positions of each.

    Raises VlmProbeError for an empty question and for one that spells a special token or the image's
    placeholder, which the tokenizer would take for the real thing.
    """
    if not question.strip():
        raise VlmProbeError("the question is empty; ask something about the image")
    own = tokenizer.convert_ids_to_tokens(image_token_id) if 0 <= image_token_id < len(tokenizer) else None
    for token in {IMAGE, own or IMAGE, *tokenizer.all_special_tokens}:
        if token in question:
            raise VlmProbeError(f"the question contains {token!r}, a special token of this model; leave it out")
    before, after = template.split("{question}")
    if not images:
        before = before.replace("{images}\n", "{images}")
    before = before.replace("{bos}", tokenizer.bos_token or "").replace("{images}", images)
    text = before + question + after + _spaced(tokenizer, after, answer)
    start, end = len(before), len(before) + len(question)
    knows_image = tokenizer.convert_tokens_to_ids(IMAGE) == image_token_id
    # A tokenizer without an <image> token gets the pieces between the images, as LLaVA's own code does.
    pieces = [text] if knows_image else text.split(IMAGE)
    ids: list[int] = []
    asked: list[int] = []
    at = 0
    for number, piece in enumerate(pieces):
        if number > 0:
            ids.append(image_token_id)
            at += len(IMAGE)
        encoded = tokenizer(piece, add_special_tokens=False, return_offsets_mapping=tokenizer.is_fast)
        offsets = encoded.get("offset_mapping")
        for i, token in enumerate(encoded["input_ids"]):
            if offsets is not None:
                low, high = offsets[i]
                if high > low and at + high > start and at + low < end:
                    asked.append(len(ids))
            ids.append(token)
        at += len(piece)
    return EncodedPrompt(ids, asked, text)


def first_answer_token(tokenizer: Any, template: str, answer: str) -> int | None:
    """The token that begins an answer behind the prompt, as the tokenizer cuts it there; None if there is none.

    That is " red" behind "ASSISTANT:" and "red" behind a line break. It is the text's own first token behind a template
    that ends with the question itself, and where the text is a special token.
    """
    if template.endswith("{question}") or answer in tokenizer.all_special_tokens:
        ids = tokenizer(answer, add_special_tokens=False)["input_ids"]
        return ids[0] if ids else None
    if not answer.strip():
        return None
    # No question has to be made up, whose tokens a trimmed vocabulary might lack.
    _, after = template.split("{question}")
    prompt, whole = (
        tokenizer(after + _spaced(tokenizer, after, said), add_special_tokens=False)["input_ids"]
        for said in ("", answer)
    )
    start = answer_start(prompt, whole)
    return whole[start] if start < len(whole) else None
