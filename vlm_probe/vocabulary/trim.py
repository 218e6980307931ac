"""A model whose vocabulary has fewer rows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from vlm_probe.errors import VlmProbeError
from vlm_probe.hooked import HookedVLM
from vlm_probe.hooked.anatomy import embedding, with_rows
from vlm_probe.inputs.remapped import RemappedTokenizer
from vlm_probe.items.item import Item


def always_kept(model: HookedVLM) -> set[int]:
    """Ids that no trimming takes away: special tokens, single bytes, the ends of an answer, the image placeholder,
    and the tokens of the prompt's own text.

    Raises VlmProbeError for a model without a tokenizer.
    """
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise VlmProbeError(f"{model.name} has no tokenizer: nothing says which rows are whose")
    found = set(tokenizer.all_special_ids) | model.answer_ends
    found |= {i for t, i in tokenizer.get_vocab().items() if re.fullmatch(r"<0x[0-9A-Fa-f]{2}>", t)}
    text = re.sub(r"\{\w+\}", "\n", model.prompt)
    found |= {i for piece in (text, *text.split("\n"), "\n") for i in _ids(tokenizer, piece)}
    if model.image_token_id >= 0:
        found.add(model.image_token_id)
    return found


def _ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"] if text else []


def needed_ids(model: HookedVLM, items: Sequence[Item]) -> list[int]:
    """The ids that asking and answering some items takes, most frequent first; special ones come last.

    Whole prompts are cut, since a question's first token can depend on what stands before it.
    """
    counts: dict[int, int] = {}
    for item in items:
        ids = model.prepare(None, item.question).input_ids[0].tolist() if model.vision_config is None else []
        prompt = model.prompt.replace("{images}", "").replace("{bos}", "")
        for text in (prompt.replace("{question}", item.question) + item.answer, item.answer, f" {item.answer}"):
            ids += _ids(model.tokenizer, text)
        # The text around an image is cut apart from it.
        ids += _ids(model.tokenizer, prompt.replace("{question}", item.question))
        ids += _ids(model.tokenizer, f"\n{item.question}") + _ids(model.tokenizer, item.question)
        for i in ids:
            counts[i] = counts.get(i, 0) + 1
    special = set(model.tokenizer.all_special_ids)
    return sorted(counts, key=lambda i: (i in special, -counts[i], i))


def trim(model: HookedVLM, keep: Iterable[int], *, items: Sequence[Item] = ()) -> HookedVLM:
    """A model whose embedding and unembedding hold only some rows.

    Parameters
    ----------
    keep: token ids; `always_kept` joins them.
    items: what the model shall still be able to read and say.

    Returns
    -------
    A hooked model that numbers its tokens anew (`tokenizer.kept` has the old ids); all other weights are the
    original's, shared. With all used ids kept, its logits of these are the original's. `save` writes it.

    Raises
    ------
    VlmProbeError: an id outside the vocabulary, a tokenizer of another vocabulary, items that need a token which
        is not kept.
    """
    tokenizer = model.tokenizer
    rows = len(embedding(model))
    wanted = set(keep) | always_kept(model)
    outside = sorted(i for i in wanted if not 0 <= i < rows)
    if outside:
        raise VlmProbeError(f"ids {outside[:5]} are outside the model's vocabulary of {rows}")
    if len(tokenizer) > rows:
        raise VlmProbeError(
            f"the tokenizer has {len(tokenizer)} tokens, the model {rows} rows: they do not belong together"
        )
    kept = sorted(wanted)
    if isinstance(tokenizer, RemappedTokenizer):  # trimmed before: one map, from the original's ids
        remapped = RemappedTokenizer(tokenizer.original, [tokenizer.kept[i] for i in kept])
    else:
        remapped = RemappedTokenizer(tokenizer, kept)
    for item in items:
        missing = [i for i in needed_ids(model, [item]) if i not in wanted]
        if missing:
            names = ", ".join(repr(tokenizer.convert_ids_to_tokens(i)) for i in missing[:5])
            raise VlmProbeError(
                f"item {item.id} ({item.question!r}: {item.answer!r}) needs tokens that are not kept: {names}"
            )
    return HookedVLM(
        with_rows(model, kept),
        embed_scale=model.embed_scale,
        tokenizer=remapped,
        preparer=model.preparer,
        name=f"{model.name}, {len(kept)} tokens",
        revision=model.revision,
        prompt=model.prompt,
    )


def save(model: HookedVLM, folder: Path) -> Path:
    """Write a trimmed model as a checkpoint that `vlm_probe.load` opens; returns the folder.

    Plain transformers opens its weights too; the new numbers of its tokens are in `kept_ids.json`.

    Raises VlmProbeError where the folder cannot be written.
    """
    try:
        model.save_pretrained(folder)
    except OSError as error:
        raise VlmProbeError(f"cannot write to {folder}: {error.strerror or error}") from error
    return folder
