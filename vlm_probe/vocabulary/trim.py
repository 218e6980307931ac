"""Would a smaller vocabulary do (V5)? A model with fewer rows, and what becomes of its answers."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from vlm_probe.errors import VlmProbeError
from vlm_probe.evidence.intervals import wilson
from vlm_probe.hooked import HookedVLM
from vlm_probe.hooked.anatomy import embedding, parameter_count, with_rows
from vlm_probe.inputs.remapped import RemappedTokenizer
from vlm_probe.items.item import Item
from vlm_probe.items.scores import score_answer
from vlm_probe.running.asking import Asked, ask_all


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


def _answers(model: HookedVLM, items: Sequence[Item]) -> tuple[list[str], float]:
    """Answers to some items, and the seconds they took."""
    names = {name: i for i, name in enumerate(dict.fromkeys(item.image for item in items))}
    first = {item.image: item for item in reversed(items)}
    pictures = [model.picture(first[name]) for name in names]
    asked = [Asked(names[item.image], item.question, item.answer) for item in items]
    start = time.perf_counter()
    found = ask_all(model, pictures, asked)
    return [one.text for one in found], time.perf_counter() - start


def shrink(
    model: HookedVLM,
    items: Sequence[Item],
    sizes: Sequence[int],
    *,
    order: Sequence[int] | None = None,
    progress: Callable[[int], None] | None = None,
) -> pd.DataFrame:
    """Answers, memory and time as the kept set shrinks.

    Parameters
    ----------
    sizes: how many of `order` to keep, largest first; `always_kept` comes on top.
    order: ids, the ones to keep longest first; `needed_ids` of the items if None.
    progress: called with 1 after every size.

    Returns
    -------
    One row a size, the whole model first: asked_to_keep, rows, parameters, weight_bytes, readable (share of items whose
    question and answer can still be spelled), accuracy over all items (one that cannot be spelled is wrong) with
    low and high (Wilson, 95 %), same_answer (share of readable items answered as by the whole model), seconds
    (for the readable items) and seconds_whole (the whole model on the same items, timed right before).
    """
    ranked = list(order) if order is not None else needed_ids(model, items)
    base = always_kept(model)
    whole, _ = _answers(model, items)
    needs = [set(needed_ids(model, [one])) for one in items]
    rows = []
    for size in [None, *sizes]:
        kept = None if size is None else set(ranked[:size]) | base
        small = model if kept is None else trim(model, kept)
        readable = [i for i, need in enumerate(needs) if kept is None or need <= kept]
        part = [items[i] for i in readable]
        before = _answers(model, part)[1] if part else float("nan")
        said, seconds = _answers(small, part) if part else ([], float("nan"))
        right = sum(score_answer(item, text)[1] >= 0.5 for item, text in zip(part, said, strict=True))
        same = [text == whole[i] for text, i in zip(said, readable, strict=True)]
        low, high = wilson(right, len(items))
        table, count = embedding(small), parameter_count(small)
        rows.append(
            {
                "asked_to_keep": len(ranked) if size is None else size,
                "rows": len(table),
                "parameters": count,
                "weight_bytes": count * table.element_size(),
                "readable": len(readable) / len(items),
                "accuracy": right / len(items),
                "low": low,
                "high": high,
                "same_answer": sum(same) / len(same) if same else float("nan"),
                "seconds": seconds,
                "seconds_whole": before,
            }
        )
        if progress is not None:
            progress(1)
    result = pd.DataFrame(rows)
    result.attrs = {"title": "trimming the vocabulary", "items": len(items), **model.provenance()}
    return result
