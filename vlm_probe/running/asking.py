"""Many questions about few images: the image is encoded, and read by the language model, once.

The prompt up to its last image token is the same for every question about an image. It runs once;
its keys and values serve every question. Answers and probabilities are those of whole prompts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vlm_probe.errors import VlmProbeError
from vlm_probe.inputs.images import ImageLike, open_image
from vlm_probe.inputs.model_inputs import Seen
from vlm_probe.inputs.prompts import answer_start
from vlm_probe.running.protocol import Runs
from vlm_probe.running.sliding import window_of


@dataclass(frozen=True)
class Asked:
    """One question about one of the images, and the answer whose probability is wanted."""

    image: int
    """Index into the images."""
    question: str
    answer: str


@dataclass(frozen=True)
class Answered:
    """What a model answers, and how sure it was."""

    text: str
    """Greedily decoded."""
    p_answer: float
    """Probability of the right answer's tokens after the prompt (without an end of turn)."""
    p_yes: float
    """Probability of a first token "yes" over that of "yes" or "no", in any spelling."""
    entropy: float
    """Of the first token's distribution, in nats."""
    ids: tuple[int, ...] = ()
    """The generated tokens, without the end of the answer."""


@dataclass
class _Row:
    """A question, tokenized: what follows the image, and the right answer."""

    index: int
    image: int
    suffix: list[int]
    answer: list[int]


def ask_all(
    model: Runs,
    images: Sequence[ImageLike],
    asked: Sequence[Asked],
    *,
    max_new_tokens: int = 16,
    batch_size: int = 64,
) -> list[Answered]:
    """Answer questions about images, each image's part of the work done once.

    images: shown one to a prompt; those that come out of the processor alike are encoded together.
    batch_size: questions run at once, and images encoded at once.

    Hooks that address positions see the prompt in two pieces; use `model.answer_all` with such.

    Raises VlmProbeError as `model.prepare` does, and for an empty right answer.
    """
    if model.inputs.tokenizer is None or model.inputs.images is None:
        raise VlmProbeError(f"{model.name} has no tokenizer or no image processor, so it cannot be asked")
    if model.inputs.images.scans:
        raise VlmProbeError(
            f"{model.name} shows long pictures in crops too (pan and scan), which are several images: use answer_all, "
            "or switch it off (model.preparer.processor.do_pan_and_scan = False)"
        )
    seen = [model.inputs.see(open_image(image)) for image in images]
    rows = [_tokenize(model, i, one, seen[one.image].tokens) for i, one in enumerate(asked)]
    alike: dict[tuple[object, ...], list[int]] = {}
    for number, one in enumerate(seen):
        alike.setdefault((one.pixels.shape, one.tokens), []).append(number)
    results: dict[int, Answered] = {}
    for some in (numbers[i : i + batch_size] for numbers in alike.values() for i in range(0, len(numbers), batch_size)):
        place = {number: at for at, number in enumerate(some)}
        part = [(prefix, row) for prefix, row in rows if row.image in place]
        if not part:
            continue
        # Their prefixes are one and the same row of ids: a template around equally many placeholders.
        prefix, shown = part[0][0], [seen[number] for number in some]
        pixels = torch.stack([one.pixels for one in shown]).to(model.device, model.dtype)
        cache = _read_images(model, prefix, shown) if model.inputs.shares_images else None
        for batch in _batches(model, [row for _, row in part], len(prefix), max_new_tokens, batch_size):
            at = torch.tensor([place[row.image] for row in batch], device=model.device)
            begun = _whole(model, prefix, pixels[at], batch) if cache is None else _on(model, prefix, cache, at, batch)
            for row, answered in zip(batch, _finish(model, *begun, batch, max_new_tokens), strict=True):
                results[row.index] = answered
    return [results[i] for i in range(len(asked))]


def _tokenize(model: Runs, index: int, one: Asked, count: int) -> tuple[list[int], _Row]:
    """The prompt's ids up to its last image token, and the rest as a row."""
    if not one.answer.strip():
        raise VlmProbeError(f"the right answer to {one.question!r} is empty")
    ids, *_ = model.inputs.encode(one.question, [count])
    longer, *_ = model.inputs.encode(one.question, [count], answer=one.answer)
    split = len(ids) - ids[::-1].index(model.inputs.image_token_id)
    return ids[:split], _Row(index, one.image, ids[split:], longer[answer_start(ids, longer) :])


def check_numbers(model: Runs, logits: Float[Tensor, "*batch vocabulary"]) -> None:
    """VlmProbeError where a model's logits are not numbers: broken weights, or a dtype that is too narrow."""
    if logits.isnan().any():
        raise VlmProbeError(
            f"{model.name} gives logits that are not numbers (NaN) in {model.dtype}: its weights are broken, or the "
            "dtype is too narrow"
        )


@torch.no_grad()
def _read_images(model: Runs, prefix: list[int], shown: list[Seen]) -> Any:
    """The cache after every image's prefix."""
    ids, pixels = torch.tensor([prefix] * len(shown)), torch.cat([one.shown for one in shown])
    sizes = [one.transform.original[::-1] for one in shown if one.tiling is not None]
    inputs = model.inputs.prepare_tensors(ids, pixels, None, torch.tensor(sizes) if sizes else None)
    inputs = inputs.to(model.device, model.dtype)
    return model(inputs, use_cache=True, logits_to_keep=1).past_key_values


_Begun = tuple[Any, Tensor, Tensor]
"""After some prompts: the cache, the logits of the last position, and the mask of what was read."""


def _padded(rows: list[_Row], device: torch.device) -> tuple[Tensor, Tensor]:
    """What follows the images, padded on the left, and its mask."""
    width = max(len(row.suffix) for row in rows)
    suffix = torch.tensor([[0] * (width - len(r.suffix)) + r.suffix for r in rows], device=device)
    real = torch.tensor([[0] * (width - len(r.suffix)) + [1] * len(r.suffix) for r in rows], device=device)
    return suffix, real


@torch.no_grad()
def _on(model: Runs, prefix: list[int], cache: Any, images: Tensor, rows: list[_Row]) -> _Begun:
    """Questions run on from the cache of their images."""
    own = deepcopy(cache)
    own.batch_select_indices(images)
    suffix, real = _padded(rows, model.device)
    mask = torch.cat([real.new_ones(len(rows), len(prefix)), real], dim=1)
    return own, _step(model, own, suffix, mask, logits_to_keep=1)[:, -1], mask


@torch.no_grad()
def _whole(model: Runs, prefix: list[int], pixels: Tensor, rows: list[_Row]) -> _Begun:
    """Whole prompts, where an image's rows depend on the question behind them."""
    longest = max(len(row.suffix) for row in rows)
    before = [[0] * (longest - len(row.suffix)) for row in rows]
    ids = torch.tensor([[*pad, *prefix, *row.suffix] for pad, row in zip(before, rows, strict=True)])
    real = torch.tensor([pad + [1] * (ids.shape[1] - len(pad)) for pad in before])
    inputs = model.inputs.prepare_tensors(ids, pixels, real).to(model.device, model.dtype)
    mask = inputs.attention_mask
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    out = model(inputs, position_ids=positions, use_cache=True, logits_to_keep=1)
    return out.past_key_values, _allowed_to_say(model, out.logits.float())[:, -1], mask


def _batches(model: Runs, rows: list[_Row], prefix: int, new: int, batch_size: int) -> Iterator[list[_Row]]:
    """Rows that run together, short ones first: little padding.

    Padding between prefix and question is masked, so it changes nothing, unless a layer's sliding
    window is so short that padding would push part of the prompt out of it: then only rows of equal
    length run together.
    """
    rows = sorted(rows, key=lambda row: (len(row.suffix), row.index))
    text = model.text_config
    windows = [window_of(text, layer) for layer in range(text.num_hidden_layers)]
    window = min((one for one in windows if one is not None), default=None)
    longest = prefix + len(rows[-1].suffix) + max(new, max(len(row.answer) for row in rows))
    batch: list[_Row] = []
    for row in rows:
        alike = window is None or longest <= window or not batch or len(batch[0].suffix) == len(row.suffix)
        if len(batch) == batch_size or not alike:
            yield batch
            batch = []
        batch.append(row)
    yield batch


@torch.no_grad()
def _finish(
    model: Runs, cache: Any, first: Tensor, mask: Tensor, rows: list[_Row], max_new_tokens: int
) -> list[Answered]:
    """Score the right answers, then decode."""
    device = model.device
    check_numbers(model, first)

    length = max(len(row.answer) for row in rows)
    target = torch.tensor([r.answer + [-1] * (length - len(r.answer)) for r in rows], device=device)
    logits = first[:, None]
    if length > 1:
        # On a copy: decoding goes on from the question, not from the right answer.
        rest = target[:, :-1].clamp(min=0)
        longer = torch.cat([mask, (target[:, :-1] >= 0).to(mask)], dim=1)
        logits = torch.cat([logits, _step(model, deepcopy(cache), rest, longer)], dim=1)
    chosen = logits.log_softmax(-1).gather(-1, target.clamp(min=0)[..., None])[..., 0]
    p_answer = chosen.masked_fill(target < 0, 0.0).sum(-1).exp()

    log_p = first.log_softmax(-1)
    entropy = -(log_p.exp() * log_p).nan_to_num(0.0).sum(-1)
    yes, no = ([log_p[:, i] for i in _spellings(model, word)] for word in ("yes", "no"))
    if yes and no:
        said = torch.stack(yes, -1).exp().sum(-1)
        p_yes = said / (said + torch.stack(no, -1).exp().sum(-1))
    else:
        p_yes = torch.full_like(entropy, torch.nan)

    tokens = _decode(model, cache, first, mask, max_new_tokens)
    texts = [model.inputs.tokenizer.decode(row, skip_special_tokens=True).strip() for row in tokens]
    columns = (texts, p_answer.tolist(), p_yes.tolist(), entropy.tolist(), map(tuple, tokens))
    return [Answered(*values) for values in zip(*columns, strict=True)]


def _step(
    model: Runs, cache: Any, ids: Int[Tensor, "batch new"], mask: Int[Tensor, "batch position"], **kwargs: Any
) -> Float[Tensor, "batch kept vocabulary"]:
    """Logits (float32) of new tokens, or of the last ones if `logits_to_keep` says so; the cache grows."""
    positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    out = model(ids, None, mask, position_ids=positions, past_key_values=cache, use_cache=True, **kwargs)
    return _allowed_to_say(model, out.logits.float())


def _allowed_to_say(model: Runs, logits: Tensor) -> Tensor:
    """Logits without what is never said: the one logits processor that our checkpoints' generation settings hold."""
    if model.suppressed_tokens:
        logits[..., model.suppressed_tokens] = -torch.inf
    return logits


def _decode(
    model: Runs, cache: Any, first: Float[Tensor, "batch vocabulary"], mask: Tensor, max_new_tokens: int
) -> list[list[int]]:
    """Greedy decoding on from the last position's logits, up to and without the end of the answer."""
    ends = torch.tensor(sorted(model.answer_ends), device=first.device)
    logits, rows = first, []
    done = torch.zeros(len(first), dtype=torch.bool, device=first.device)
    while len(rows) < max_new_tokens:
        token = logits.argmax(-1)
        done = done | torch.isin(token, ends)
        rows.append(token.masked_fill(done, -1))
        if done.all() or len(rows) == max_new_tokens:
            break
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        logits = _step(model, cache, token[:, None], mask)[:, -1]
    return [[t for t in row if t >= 0] for row in torch.stack(rows, dim=1).tolist()]


def _spellings(model: Runs, word: str) -> list[int]:
    """Ids of the single tokens that spell a word: with and without capital, with and without space."""
    found = set()
    for spelling in (word, word.capitalize(), word.upper(), f" {word}", f" {word.capitalize()}"):
        try:
            ids = model.inputs.tokenizer(spelling, add_special_tokens=False)["input_ids"]
        except VlmProbeError:  # a trimmed vocabulary that does not hold it
            continue
        if len(ids) == 1:
            found.add(ids[0])
    return sorted(found)
